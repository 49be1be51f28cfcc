from __future__ import annotations

import matplotlib as mpl
import matplotlib.colors as mcolors

from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style


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
