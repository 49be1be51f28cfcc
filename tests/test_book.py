"""The book as a whole: order and files agree, one address, a strict build that needs no torch."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import repository  # noqa: E402

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from course import data  # noqa: E402

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
URL = CONFIG["repository"]["url"]
COLAB_TAGS = {"remove-cell", "skip-execution", "nbval-skip"}


def toc_pages(row: dict | None = None) -> Iterator[str]:
    """Every file that `_toc.yml` names, in its order."""
    if row is None:
        row = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for key in ("root", "file"):
        if key in row:
            yield row[key]
    for key in ("parts", "chapters", "sections"):
        for child in row.get(key, []):
            yield from toc_pages(child)


def written_pages() -> set[str]:
    """Every page below book/ that is not part of the machinery."""
    found = set()
    for path in (ROOT / "book").rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(("_", ".")) for part in parts)
        if path.suffix in (".md", ".ipynb") and not hidden:
            found.add(path.relative_to(ROOT).with_suffix("").as_posix())
    return found


def notebooks() -> list[Path]:
    return [ROOT / f"{page}.ipynb" for page in toc_pages() if (ROOT / f"{page}.ipynb").exists()]


# --- order and address ----------------------------------------------------------------------------


def test_the_toc_names_every_page_once_and_every_page_is_in_it() -> None:
    listed = list(toc_pages())
    assert len(listed) == len(set(listed))
    assert set(listed) == written_pages()


def test_no_page_is_both_text_and_notebook() -> None:
    assert [p for p in toc_pages() if len(list(ROOT.glob(f"{p}.[mi][dp]*"))) != 1] == []


def test_every_chapter_of_the_toc_is_a_chapter_of_the_course() -> None:
    rows = yaml.safe_load((ROOT / "book" / "_data" / "chapters.yml").read_text(encoding="utf-8"))
    order = {row["folder"]: row["number"] for row in rows}
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    seen = []
    for part in toc["parts"][:-1]:
        (chapter,) = part["chapters"]
        folder = chapter["file"].split("/")[1]
        assert chapter["file"] == f"book/{folder}/index"
        assert part["caption"] == f"Chapter {order[folder]}"
        assert all(page.split("/")[1] == folder for page in toc_pages(chapter))
        seen.append(order[folder])
    assert seen == sorted(seen)
    assert toc["parts"][-1]["caption"] == "Appendix"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_the_colab_cell_installs_from_the_configured_address(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    installing = [cell for cell in cells if "pip install" in "".join(cell["source"])]
    (cell,) = [c for c in installing if set(c["metadata"].get("tags", [])) >= COLAB_TAGS]
    line = "".join(cell["source"])
    assert re.fullmatch(
        rf'%pip install -q "companion(\[(tensorflow|tuning)\])? @ git\+{re.escape(URL)}"', line
    )
    assert cells.index(cell) <= 2
    assert f"\n# {line}\n" in path.with_suffix(".py").read_text(encoding="utf-8")


def test_no_file_holds_the_address_of_another_repository_of_this_name() -> None:
    owner, name = URL.removeprefix("https://github.com/").split("/")
    for path in repository.text_files(ROOT):
        for found in re.findall(rf"/([\w-]+)/{name}\b", path.read_text(encoding="utf-8")):
            assert found == owner, f"{path.relative_to(ROOT)}: {found}/{name}"


# --- make repo ------------------------------------------------------------------------------------

NEW = "https://github.com/somebody-else/my.course"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of every file in which the address may stand."""
    for path in repository.text_files(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


def test_make_repo_points_everything_at_the_new_address(copy: Path) -> None:
    old = URL.removeprefix("https://github.com/")
    before = {p: p.read_text(encoding="utf-8").count(old) for p in repository.text_files(copy)}
    changed = repository.point_at(NEW + ".git/", copy)
    assert {path for path, count in before.items() if count} == set(changed)
    assert copy / "_config.yml" in changed
    assert {copy / path.relative_to(ROOT) for path in notebooks()} <= set(changed)
    for path, count in before.items():
        text = path.read_text(encoding="utf-8")
        assert old not in text
        assert text.count("somebody-else/my.course") == count
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == NEW
    assert not list(copy.rglob("*.part"))


def test_make_repo_and_back_changes_nothing(copy: Path) -> None:
    repository.point_at(NEW, copy)
    repository.point_at(URL, copy)
    for path in repository.text_files(ROOT):
        assert (copy / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert repository.point_at(URL, copy) == []


def test_badges_and_the_book_s_site_follow() -> None:
    text = "https://a.github.io/b/x https://img.shields.io/github/v/release/a/b github.com/a/b-c"
    assert repository.rewritten(text, "a/b", "n/m") == (
        "https://n.github.io/m/x https://img.shields.io/github/v/release/n/m github.com/a/b-c"
    )


@pytest.mark.parametrize(
    "url", ["", "course", "http://github.com/a/b", "https://github.com/a", "https://evil.org/a/b"]
)
def test_make_repo_refuses_what_is_no_address(copy: Path, url: str, capsys) -> None:
    with pytest.raises(ValueError, match="must look like https://github.com/owner/name"):
        repository.point_at(url, copy)
    assert (copy / "_config.yml").read_bytes() == (ROOT / "_config.yml").read_bytes()
    assert repository.main([url]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- the build ------------------------------------------------------------------------------------

pytest.importorskip("jupyter_book", reason="jupyter-book is not installed (extra: book)")


def build(root: Path, out: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Build strictly, with torch and TensorFlow out of reach; returns also the CPU seconds."""
    blocked = out / "blocked"
    blocked.mkdir(parents=True)
    for name in ("torch", "tensorflow", "pytorch_lightning", "companion"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('the book must not need {name}')\n")
    builder = str(Path(sys.executable).with_name("jupyter-book"))
    command = [builder, "build", str(root), "--path-output", str(out)]
    command += ["--warningiserror", "--nitpick", "--keep-going", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(blocked), "NO_COLOR": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Links(HTMLParser):
    """What a page loads (scripts, styles, images, frames) and what it links to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        row = {key: value or "" for key, value in attributes}
        if tag == "a":
            self.links.append(row.get("href", ""))
        elif tag in ("script", "img", "iframe", "source"):
            self.loads.append(row.get("src", ""))
        elif tag == "link" and row.get("rel") not in ("canonical", "next", "prev", "author"):
            self.loads.append(row.get("href", ""))


@pytest.mark.xdist_group("book-build")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_book_builds_strictly_without_torch_and_its_pages_are_in_order(tmp_path: Path) -> None:
    process, cpu_seconds = build(ROOT, tmp_path)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-6000:]
    # 30 s were the budget of the book's first 20 pages; each page that joins may cost as much.
    budget = 1.5 * len(list(toc_pages()))
    assert cpu_seconds < budget, f"{cpu_seconds:.0f} s of CPU time; the budget is {budget:.0f} s"
    html = tmp_path / "_build" / "html"
    config = CONFIG["repository"]
    path = URL.removeprefix("https://github.com/")
    for page in toc_pages():
        found = Links((html / f"{page}.html").read_text(encoding="utf-8"))
        foreign = [link for link in found.loads if re.match(r"(https?:)?//", link)]
        assert foreign == [], f"{page} loads from other hosts"
        assert URL in found.links, f"{page} has no repository button"
        assert any(link.startswith(f"{URL}/issues/new") for link in found.links), page
        if (ROOT / f"{page}.ipynb").exists():
            notebook = f"{path}/blob/{config['branch']}/{page}.ipynb"
            assert f"https://colab.research.google.com/github/{notebook}" in found.links
            binder = f"https://mybinder.org/v2/gh/{path}/{config['branch']}"
            assert f"{binder}?urlpath=lab/tree/{page}.ipynb" in found.links
    mathjax = html / "_static" / "vendor" / "mathjax"
    assert (mathjax / "tex-mml-chtml.js").exists()
    assert (mathjax / "LICENSE").exists()
    techniques = (html / "book" / "appendix" / "techniques.html").read_text(encoding="utf-8")
    for technique in data.load_techniques(ROOT / "companion" / "techniques.py").TECHNIQUES:
        assert f'id="technique-{technique.name}"' in techniques


CLEAN = "# Cover\n\n```{course-map}\n```\n"


def small_book(folder: Path, text: str) -> Path:
    """A book of one page with the course's configuration, data and extension."""
    (folder / "book").mkdir(parents=True)
    shutil.copytree(ROOT / "book" / "_ext", folder / "book" / "_ext")
    shutil.copytree(ROOT / "book" / "_data", folder / "book" / "_data")
    shutil.copytree(
        ROOT / "companion", folder / "companion", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copyfile(ROOT / "book" / "references.bib", folder / "book" / "references.bib")
    config = {**CONFIG, "html": {}}
    settings = dict(CONFIG["sphinx"]["config"], html_static_path=[], html_css_files=[])
    settings["html_theme_options"] = {}
    config["sphinx"] = {**CONFIG["sphinx"], "config": settings}
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (folder / "book" / "index.md").write_text(text)
    return folder


@pytest.mark.xdist_group("book-build")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "damage", "message"),
    [
        (CLEAN, None, None),
        (CLEAN + "```{evidence} no-such\n```\n", None, "technique='no-such' is not in"),
        (CLEAN + "```{picture} no-such.svg\n```\n", None, "no-such.svg is not in book/_static"),
        (CLEAN, "- id: E1\n", "book/_data/mistakes.yml: E1: lacks chapter"),
        (CLEAN + "{doc}`nowhere`\n", None, "unknown document: 'nowhere'"),
    ],
    ids=["clean", "technique", "picture", "data", "link"],
)
def test_a_build_with_bad_data_or_a_dead_link_fails_and_says_why(
    tmp_path: Path, text: str, damage: str | None, message: str | None
) -> None:
    book = small_book(tmp_path / "checkout", text)
    if damage is not None:
        (book / "book" / "_data" / "mistakes.yml").write_text(damage)
    process, _ = build(book, tmp_path / "out")
    if message is None:
        assert process.returncode == 0, process.stderr
    else:
        assert process.returncode != 0
        assert message in process.stderr
        assert "Traceback" not in process.stderr.split(message)[0]
