"""The pages that are made from data: what the renderers write, and what they refuse."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from course import cover, data, devices, syllabus, tables  # noqa: E402
from course.checks import DataError  # noqa: E402
from course.data import Chapter, Course, Mistake, Run, Source, Topic  # noqa: E402

REAL = data.load_techniques(ROOT / "companion" / "techniques.py")
LEVELS = REAL.LEVELS


def technique(name: str = "tape", **changes):
    row = REAL.Technique(
        name=name,
        chapter="backprop",
        page="backprop/autograd",
        target="companion.backprop.tape:Tape",
        form="module",
        sources="AB",
        recipe="companion.backprop.recipes:tape",
        devices={"tpu-compiled": "nothing to compile"},
    )
    return dataclasses.replace(row, **changes)


def run(level: str = "cpu", date: str = "2026-11-22", hardware=None, **results) -> Run:
    return Run(level, level, hardware or {"cpu": "Zen", "cores": 2}, {"torch": "2"}, date, results)


def course(*, techniques=None, runs=(), topics=(), mistakes=(), costs=None) -> Course:
    rows = (technique(),) if techniques is None else tuple(techniques)
    table = SimpleNamespace(TECHNIQUES=rows, LEVELS=LEVELS, FORMS=REAL.FORMS)
    return Course(
        techniques=table,
        chapters=(
            Chapter(2, "backprop", "Backpropagation", "Where from?", ("losses",)),
            Chapter(7, "compression", "Compression", "What can go?", ("pruning",)),
        ),
        sources={letter: Source(letter, "题", "title", "about") for letter in "AB"},
        mistakes=tuple(mistakes),
        topics=tuple(topics),
        runs=tuple(runs),
        costs=costs or {},
        order=("book/index", "book/backprop/index", "book/backprop/losses", "book/backprop/layers"),
    )


def rows(text: str) -> list[list[str]]:
    """The body rows of the Markdown tables in `text`, cell by cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = {i - 1 for i, row in enumerate(cells) if set("".join(row)) == {"-"}}
    return [r for i, r in enumerate(cells) if i not in heads and i - 1 not in heads]


# --- evidence -----------------------------------------------------------------------------------


def evidence_of(*runs: Run) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for level, what, where in rows(devices.evidence(course(runs=runs), "tape")):
        found.setdefault(level, []).append(f"{what} | {where}")
    return found


def test_without_any_run_every_level_says_not_run_or_why_it_does_not_apply() -> None:
    assert evidence_of() == {
        "CPU": ["not run | —"],
        "GPU (CUDA)": ["not run | —"],
        "XLA on the CPU": ["not run | —"],
        "TPU, compiled only": ["not applicable: nothing to compile | —"],
        "TPU": ["not run | —"],
    }


def test_a_run_shows_its_figures_its_machine_and_its_date() -> None:
    result = {
        "status": "ran",
        "steps": 1500,
        "seconds": 2.34,
        "first_loss": 2.3026,
        "last_loss": 0.1234,
        "max_loss_difference": 3.4e-7,
    }
    gpu = {"gpu": "NVIDIA H200", "cpu": "Xeon", "cores": 16}
    (shown,) = evidence_of(run("cuda", hardware=gpu, tape=result))["GPU (CUDA)"]
    assert shown == (
        "ran; 1,500 steps in 2.3 s; loss 2.3 → 0.123; largest loss difference to the CPU 3.4e-07"
        " | NVIDIA H200; 2026-11-22"
    )


def test_a_loss_difference_of_zero_is_shown() -> None:
    (shown,) = evidence_of(run("xla-cpu", tape={"status": "ran", "max_loss_difference": 0.0}))[
        "XLA on the CPU"
    ]
    assert "difference to the CPU 0.0e+00" in shown


def test_the_newest_run_on_a_machine_counts_and_machines_are_kept_apart() -> None:
    shown = evidence_of(
        run(date="2026-10-01", tape={"status": "ran", "seconds": 9.0}),
        run(date="2026-11-01", tape={"status": "failed", "reason": "ValueError: x"}),
        run(date="2026-10-15", hardware={"cpu": "Arm", "cores": 1}, tape={"status": "ran"}),
    )["CPU"]
    assert shown == [
        "failed: ValueError: x | Zen, 2 cores; 2026-11-01",
        "ran | Arm, 1 core; 2026-10-15",
    ]


def test_levels_are_never_merged() -> None:
    shown = evidence_of(run("tpu", tape={"status": "ran"}))
    assert shown["TPU"][0].startswith("ran")
    assert shown["XLA on the CPU"] == ["not run | —"]
    assert shown["TPU, compiled only"] == ["not applicable: nothing to compile | —"]


def test_the_text_of_an_error_cannot_break_the_table() -> None:
    result = {"status": "failed", "reason": "a | b\n# <b>c_d</b>"}
    text = devices.evidence(course(runs=[run(tape=result)]), "tape")
    assert "failed: a \\| b # &lt;b>c\\_d&lt;/b>" in text


def test_evidence_for_an_unknown_technique_is_refused() -> None:
    with pytest.raises(DataError, match="technique='tap' is not in companion/techniques.py"):
        devices.evidence(course(), "tap")


def test_the_devices_page_has_a_cell_for_each_technique_and_level() -> None:
    built = course(
        techniques=[technique(), technique("other", devices={})],
        runs=[run(tape={"status": "ran", "seconds": 12.0}, other={"status": "not run"})],
    )
    text = devices.devices_page(built)
    assert rows(text)[0] == [
        "[tape](#technique-tape)",
        "ran, 12 s",
        "not run",
        "not run",
        "not applicable (a)",
        "not run",
    ]
    assert "\n(a) nothing to compile\n" in text
    assert rows(text)[1][1:] == ["not run"] * 5
    assert rows(text)[2] == ["CPU", "Zen, 2 cores", "2026-11-22", "torch 2", "1", "0"]


def test_a_run_of_a_technique_that_is_gone_is_refused() -> None:
    with pytest.raises(DataError, match="technique='old'"):
        devices.devices_page(course(runs=[run(old={"status": "ran"})]))


# --- techniques ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose only recipe would fail if it were imported."""
    folder = tmp_path / "companion" / "backprop"
    folder.mkdir(parents=True)
    source = 'import nothing_like_this\n\n\ndef tape():\n    """Say how."""\n    return 1 | 2\n'
    (folder / "recipes.py").write_text(source)
    return tmp_path


def test_the_techniques_page_links_index_page_and_recipe(checkout: Path) -> None:
    text = tables.techniques_page(course(), {"book/backprop/autograd"}, checkout)
    assert rows(text)[0] == [
        "[tape](#technique-tape)",
        "module",
        "`companion.backprop.tape`<br>`Tape`",
        "{doc}`autograd </book/backprop/autograd>`",
        "A, B",
    ]
    assert "(technique-tape)=\n### tape\n" in text
    assert 'def tape():\n    """Say how."""\n    return 1 | 2\n' in text
    assert "`from companion.backprop.tape import Tape`" in text


def test_a_page_that_is_not_written_is_no_link(checkout: Path) -> None:
    text = tables.techniques_page(course(), set(), checkout)
    assert "{doc}" not in text
    assert "`backprop/autograd`, to come" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chapter": "nowhere"}, "chapter='nowhere' is none of chapters.yml"),
        ({"sources": "AZ"}, "'Z' is no source"),
        ({"form": "gadget"}, "form='gadget' is unknown"),
        ({"recipe": "companion.backprop.recipes:tap"}, "no such function"),
        ({"recipe": "companion.backprop.cookbook:tape"}, "cookbook.py does not exist"),
    ],
)
def test_a_bad_row_of_the_table_is_refused(checkout: Path, changes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tables.techniques_page(course(techniques=[technique(**changes)]), set(), checkout)


def test_the_real_table_is_read_without_importing_torch() -> None:
    import subprocess

    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
        "from pathlib import Path\nfrom course import api, data, devices, tables\n"
        f"root = Path({str(ROOT)!r})\nfound = data.load_course(root)\n"
        "tables.techniques_page(found, set(), root), devices.devices_page(found)\n"
        "[api.api_page(root, folder) for folder in ('core', 'backprop')]\n"
        "bad = {'torch', 'tensorflow', 'numpy', 'pytorch_lightning'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- mistakes, source map, costs, map -------------------------------------------------------------


def mistake(**changes) -> Mistake:
    row = Mistake("E3", 2, "backprop/losses", ("A", "B"), "Wrong.", "Right.")
    return dataclasses.replace(row, **changes)


def test_a_mistake_links_to_its_box_once_its_page_is_there() -> None:
    built = course(mistakes=[mistake()])
    there = syllabus.mistakes_page(built, {"book/backprop/losses"})
    assert "{ref}`its box <mistake-e3>`" in there
    assert "Sources A and B." in there
    missing = syllabus.mistakes_page(built, set())
    assert "{ref}" not in missing
    assert "comes with chapter 2 · Backpropagation" in missing


def test_mistakes_stand_in_the_order_of_the_chapters_with_the_appendix_last() -> None:
    built = course(
        mistakes=[
            mistake(id="E24", chapter="appendix", page=None),
            mistake(id="E9", chapter=7, page=None, sources=("A",)),
            mistake(),
        ]
    )
    text = syllabus.mistakes_page(built, set())
    places = [text.index(piece) for piece in ("} E3", "} E9", "} E24")]
    assert places == sorted(places)
    assert "## Appendix" in text
    assert "Source A." in text


def topic(**changes) -> Topic:
    row = Topic(2, "Forward pass", ("A",), "backprop/losses", ("tape",))
    return dataclasses.replace(row, **changes)


def test_the_source_map_links_pages_and_techniques_and_counts_topics() -> None:
    built = course(topics=[topic(), topic(chapter=7, topic="Pruning", page=None, techniques=())])
    text = syllabus.source_map_page(built, {"book/backprop/losses"})
    assert "1 of 2 topics are in the book so far." in text
    link = ["Forward pass", "A", "{doc}`losses </book/backprop/losses>`", "[tape](#technique-tape)"]
    assert link in rows(text)
    assert ["Pruning", "A", "to come", ""] in rows(text)


def test_a_topic_on_a_written_page_cannot_name_an_unknown_technique() -> None:
    built = course(topics=[topic(techniques=("tpae",))])
    assert "tpae" in syllabus.source_map_page(built, set())
    with pytest.raises(DataError, match="technique 'tpae' is not in"):
        syllabus.source_map_page(built, {"book/backprop/losses"})


def test_page_costs_stand_in_the_book_s_order_and_say_what_was_not_measured() -> None:
    costs = {"book/backprop/losses": {"seconds": 12.34, "peak_mb": 1450.2}}
    pages = {"book/backprop/losses", "book/backprop/layers", "book/backprop/index", "book/index"}
    text = syllabus.page_costs(course(costs=costs), "backprop", pages)
    assert rows(text) == [
        ["{doc}`/book/backprop/losses`", "12 s", "1,450 MB"],
        ["{doc}`/book/backprop/layers`", "not measured", "not measured"],
        ["**all pages**", "**12 s**", ""],
    ]
    with pytest.raises(DataError, match="'nowhere' is no chapter"):
        syllabus.page_costs(course(), "nowhere", pages)


def test_the_map_links_only_to_chapters_that_exist() -> None:
    pages = {"book/backprop/index", "book/backprop/losses", "book/index"}
    text = cover.course_map(course(), pages)
    assert "{doc}`Backpropagation </book/backprop/index>`" in text
    assert "1 page\n" in text
    assert text.count("{doc}") == 1
    assert text.count("to come") == 1
