from __future__ import annotations

import base64
import io

import matplotlib as mpl
import matplotlib.colors as mcolors
import nbformat
import pytest
from matplotlib.figure import Figure
from PIL import Image

from companion.figures import COLORS, LINESTYLES, MARKERS, describe, use_course_style


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.1."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in mcolors.to_rgb(color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_style_cycles_through_colours_and_line_styles_together() -> None:
    with mpl.rc_context():
        use_course_style()
        cycle = list(mpl.rcParams["axes.prop_cycle"])
    assert [step["color"] for step in cycle] == list(COLORS)
    assert [step["linestyle"] for step in cycle] == list(LINESTYLES)
    assert len(MARKERS) == len(COLORS)


def test_neighbouring_colours_differ_when_printed_in_grey() -> None:
    grey = [luminance(color) for color in COLORS[:3]]
    assert grey == sorted(grey)
    assert all(b - a > 0.04 for a, b in zip(grey, grey[1:], strict=False))


def test_the_style_keeps_a_white_card_for_the_dark_theme() -> None:
    with mpl.rc_context():
        use_course_style()
        assert mpl.rcParams["figure.facecolor"] == "white"


def test_a_figure_is_described_by_its_titles_and_labels() -> None:
    figure = Figure()
    figure.suptitle("Two rates")
    left, right = figure.subplots(1, 2)
    left.set_title("slow\n(η = 0.01)")
    left.set(xlabel="step", ylabel="loss")
    right.set_title("fast.", loc="left")
    right.set(xlabel="step", ylabel="loss")
    assert describe(figure) == "Figure. Two rates. slow (η = 0.01). fast. x: step, y: loss."


def test_formulas_in_titles_lose_their_tex_signs() -> None:
    figure = Figure()
    figure.subplots().set_title(r"Up to $2/\ell_{\mathbf{max}}$ and no further")
    assert describe(figure) == "Figure. Up to 2/ell_max and no further."


def test_a_figure_without_words_says_so() -> None:
    figure = Figure()
    figure.subplots()
    assert describe(figure) == "Figure."


@pytest.mark.parametrize("title", ["plain words", "Greek η, falling"])
def test_a_notebook_stores_the_description_inside_the_png(title: str, monkeypatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own backend shows the figure
    code = (
        "import matplotlib.pyplot as plt\n"
        "from companion.figures import use_course_style\n"
        "use_course_style()\n"
        f"plt.plot([1, 2]); plt.title({title!r}); plt.show()"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook).execute()
    png = base64.b64decode(notebook.cells[0].outputs[0].data["image/png"])
    assert Image.open(io.BytesIO(png)).text["Description"] == f"Figure. {title}."
