"""The look of the course's figures: readable in grey, on a phone and in the dark theme.

Colours are Okabe and Ito's colour-blind-safe set, ordered from dark to light so that they also
differ when printed in grey; lines differ by style as well.

In a notebook each figure carries its own description inside the PNG, made of its titles and axis
labels; the book turns it into the text that a screen reader speaks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINESTYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_course_style() -> None:
    """Set matplotlib's defaults for the session; call it once at the top of a page."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 4.0),
            "figure.dpi": 130,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "axes.prop_cycle": mpl.cycler(color=COLORS) + mpl.cycler(linestyle=LINESTYLES),
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,  # no grid lines across bars
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "image.cmap": "cividis",
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "font.size": 11,
        }
    )
    _describe_figures_in_notebooks()


def describe(figure: Figure) -> str:
    """Say in words what a figure shows: its titles, then what the axes of each panel measure."""
    titles = [figure.get_suptitle()]
    measures = []
    for axes in figure.axes:
        titles += [axes.get_title(loc=place) for place in ("left", "center", "right")]
        labels = {"x": axes.get_xlabel(), "y": axes.get_ylabel()}
        measures.append(", ".join(f"{axis}: {label}" for axis, label in labels.items() if label))
    # Formulas are spoken without their TeX signs.
    parts = [re.sub(r"[${}\\]|mathbf|mathrm", "", part) for part in (*titles, *measures)]
    said = dict.fromkeys(" ".join(part.split()).rstrip(".") for part in parts if part.strip())
    return ". ".join(["Figure", *said]) + "."


def _describe_figures_in_notebooks() -> None:
    """Make the notebook's PNG writer store :func:`describe` under the keyword "Description"."""
    try:
        # Importing the backend registers its own writer; ours has to come after it.
        import matplotlib_inline.backend_inline  # noqa: F401
        from IPython import get_ipython
        from IPython.core.pylabtools import print_figure
    except ImportError:  # a script, far from any notebook
        return
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from matplotlib.figure import Figure

    def write(figure: Figure) -> str:
        return print_figure(figure, "png", base64=True, metadata={"Description": describe(figure)})

    shell.display_formatter.formatters["image/png"].for_type(Figure, write)
