"""The ``companion`` command.

Heavy imports stand inside the commands, so that ``companion --help`` answers at once. A user's
mistake ends in one line on stderr and exit status 2; a check that ran and failed in status 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import companion

app = typer.Typer(
    name="companion",
    help="The code behind the course Compute for Large Models: list it, run it, grade with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="The data sets: what they are, where they were found, how to get them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Accelerator = Annotated[str, typer.Option(help="cpu, gpu, tpu or xla-cpu.")]


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table that wraps to the terminal's width, or plain wide columns into a pipe."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=160, color_system=None)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(companion.__version__)
        raise typer.Exit


@app.command("techniques")
def list_techniques(
    chapter: Annotated[str | None, typer.Option(help="Only this chapter.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every technique of the course."""
    from dataclasses import asdict

    from companion.techniques import TECHNIQUES

    chapters = sorted({t.chapter for t in TECHNIQUES})
    if chapter is not None and chapter not in chapters:
        raise ValueError(f"chapter={chapter!r} is unknown: it must be one of {', '.join(chapters)}")
    rows = [t for t in TECHNIQUES if chapter in (None, t.chapter)]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        ["name", "chapter", "form", "import from"],
        [[t.name, t.chapter, t.form, t.target] for t in rows],
    )
    typer.echo(f"\n{len(rows)} techniques. `companion run NAME` runs one.")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A name from `companion techniques`.")],
    accelerator: Accelerator = "cpu",
    steps: Annotated[
        int | None, typer.Option(help="Stop after so many optimizer steps; skips the check.")
    ] = None,
    devices: Annotated[int, typer.Option(help="How many devices or processes.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run one technique's recipe on this machine and check that it did what it should."""
    from companion import techniques
    from companion.devices import run as run_recipe

    technique = techniques.get(name)
    try:
        result = run_recipe(
            technique,
            accelerator,
            steps=steps,
            devices=devices,
            progress=sys.stderr.isatty() and not as_json,
        )
    except AssertionError as error:
        reason = str(error).strip().splitlines()
        typer.echo(f"{name}: the check failed: {reason[0] if reason else 'no reason'}", err=True)
        raise typer.Exit(1) from error
    losses = result.step_losses
    summary = {
        "technique": name,
        "accelerator": accelerator,
        "seconds": round(result.seconds, 2),
        "steps": len(losses),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "metrics": result.metrics,
        "check": "passed" if steps is None else "left out (--steps)",
    }
    if as_json:
        print_json(summary)
        return
    for key, value in summary.items():
        if key == "metrics":
            for metric, number in sorted(result.metrics.items()):
                typer.echo(f"{metric:>16}  {number:.4f}")
        else:
            typer.echo(f"{key:>16}  {f'{value:.6g}' if isinstance(value, float) else value}")


@app.command()
def devices(
    out: Annotated[Path, typer.Option(help="The evidence file to write (JSON).")],
    accelerator: Accelerator = "cpu",
    chapter: Annotated[str | None, typer.Option(help="Only this chapter's recipes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Cut each run to so many steps.")] = None,
) -> None:
    """Run all recipes on one accelerator and write the evidence file."""
    from companion.devices import evidence, require_accelerator, write_evidence
    from companion.techniques import TECHNIQUES, Technique

    require_accelerator(accelerator)
    chosen = [t for t in TECHNIQUES if chapter in (None, t.chapter)]
    if not chosen:
        raise ValueError(f"chapter={chapter!r} has no techniques")
    if not out.resolve().parent.is_dir():
        raise ValueError(f"out={str(out)!r}: there is no folder {str(out.resolve().parent)!r}")

    def announce(technique: Technique, number: int, total: int) -> None:
        typer.echo(f"[{number}/{total}] {technique.name}", err=True)

    found = evidence(accelerator, chosen=chosen, steps=steps, announce=announce)
    write_evidence(out, found)
    counts: dict[str, int] = {}
    for row in found["results"].values():
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    typer.echo(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    for name, row in found["results"].items():
        if row["status"] == "failed":
            typer.echo(f"{name}: {row['reason']}", err=True)
    if counts.get("failed"):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say in plain words what this machine has, what runs on it, and what the rest would need."""
    from companion.doctor import examine

    findings = examine()
    if as_json:
        print_json([{"topic": f.topic, "ok": f.ok, "text": f.text} for f in findings])
        return
    for finding in findings:
        typer.echo(f"{'yes' if finding.ok else ' no'}  {finding.topic}: {finding.text}")


@data_app.command("list")
def list_data(as_json: AsJson = False) -> None:
    """List the data sets and where each was found on this machine."""
    from companion.data import sources

    rows = [
        {
            "name": "digits",
            "title": "1,797 grey images, 8 x 8, of handwritten digits",
            "licence": "BSD-3-Clause",
            "found": "bundled with scikit-learn",
            "problems": [],
        }
    ]
    for status in sources.status():
        rows.append(
            {
                "name": status.dataset.name,
                "title": status.dataset.title,
                "licence": status.dataset.licence,
                "found": str(status.located.place) if status.located else None,
                "problems": list(status.problems),
            }
        )
    if as_json:
        print_json(rows)
        return
    print_table(
        ["name", "found", "licence", "what it is"],
        [[row["name"], row["found"] or "not here", row["licence"], row["title"]] for row in rows],
    )
    for row in rows:
        for problem in row["problems"]:
            typer.echo(f"{row['name']}: {problem}", err=True)


@data_app.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help="A name from `companion data list`.")],
) -> None:
    """Download a data set into the cache, checked before it is kept."""
    from companion.data import sources

    sources.get(name)  # a wrong name is refused before anything is shown
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            tasks: dict[str, Any] = {}

            def advance(file: str, done: int, total: int | None) -> None:
                if file not in tasks:
                    tasks[file] = bar.add_task(file)
                bar.update(tasks[file], completed=done, total=total)

            located = sources.fetch(name, progress=advance)
    else:
        located = sources.fetch(name)
    typer.echo(f"{name}: {located.place}")


@app.command()
def check(
    chapter: Annotated[str, typer.Argument(help="A chapter with homework, e.g. backprop.")],
    file: Annotated[Path | None, typer.Argument(help="Your file.")] = None,
    stub: Annotated[
        bool, typer.Option("--stub", help="Print the file to start from, and stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Grade a homework file: points for each task, a hint where one failed."""
    from companion import homework

    if stub:
        typer.echo(homework.stub(chapter), nl=False)
        return
    if file is None:
        raise ValueError("FILE.py is missing: companion check CHAPTER FILE.py")
    report = homework.grade(chapter, file)
    typer.echo(report.to_json() if as_json else report.to_text())
    raise typer.Exit(0 if report.passed else 1)


def main() -> None:
    """Entry point: one clear line and status 2 for what the caller can mend."""
    try:
        app()
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"companion: {message}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("companion: stopped", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
