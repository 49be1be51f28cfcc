"""What the cover shows besides its picture: where to start, and the map of the chapters."""

from __future__ import annotations

from pathlib import Path

import yaml

from course.checks import require
from course.data import Course
from course.tables import count


def read_repository(root: Path) -> tuple[str, str]:
    """The address and the branch that `_config.yml` gives.

    Raises:
        DataError: it gives none, or one that is not on GitHub.
    """
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    repository = config.get("repository", {})
    url, branch = repository.get("url", ""), repository.get("branch", "main")
    require(url.startswith("https://github.com/"), "_config.yml", f"repository.url={url!r}")
    return url, branch


def start_here(course: Course, pages: set[str], root: Path) -> str:
    """Three cards: read a first page, run it without installing anything, build everything."""
    url, branch = read_repository(root)
    path = url.removeprefix("https://github.com/")
    notebook = "book/backprop/losses.ipynb"
    colab = f"https://colab.research.google.com/github/{path}/blob/{branch}/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{path}/{branch}?urlpath=lab/tree/{notebook}"
    cards = [
        "**Read.** Start with {doc}`/book/backprop/losses`: its first figure comes before its "
        "first formula.\n\nOr take the chapter from its beginning: {doc}`/book/backprop/index`.",
        f"**Run.** Open that page in [Colab]({colab}) or on [Binder]({binder}); nothing to install."
        "\n\nEvery notebook page has both under its rocket button.",
        f"**Own.** Two commands on a fresh clone:\n\n```console\n$ git clone {url}\n"
        "$ make book\n$ make test\n```",
    ]
    body = "\n".join(f"::::{{container}} start-card\n{card}\n::::\n" for card in cards)
    return f":::::{{container}} start-here\n{body}:::::\n"


def course_map(course: Course, pages: set[str]) -> str:
    """A card for each chapter: a link where the chapter exists, a plain card where it does not."""
    cards = []
    for chapter in course.chapters:
        index = f"book/{chapter.folder}/index"
        inside = [page for page in pages if page.startswith(f"book/{chapter.folder}/")]
        ready = index in pages
        title = f"{{doc}}`{chapter.title} </{index}>`" if ready else chapter.title
        state = count(len(inside) - 1, "page") if ready else "to come"
        cards.append(
            f"::::{{container}} chapter-card {'ready' if ready else 'planned'}\n"
            f"{{.number}}\n{chapter.number}\n\n"
            f"{{.title}}\n{title}\n\n"
            f"{chapter.question}\n\n"
            f"{{.holds}}\n{', '.join(chapter.holds)}\n\n"
            f"{{.state}}\n{state}\n::::\n"
        )
    return ":::::{container} course-map\n" + "\n".join(cards) + ":::::\n"
