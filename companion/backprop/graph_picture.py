"""Draw the graph of a :class:`~companion.backprop.autograd.Scalar` with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from companion.backprop.autograd import Scalar, topological_order
from companion.figures import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def written(number: float) -> str:
    """Four digits, with a minus sign that is not a hyphen."""
    return f"{number:.4g}".replace("-", "−")


def graph_layout(root: Scalar) -> dict[int, tuple[float, float]]:
    """Place every number: the column is its longest distance from a given number.

    Returns:
        (column, row) by ``id``; rows of one column are one apart and centred on 0.
    """
    column: dict[int, int] = {}
    order = topological_order(root)
    for node in order:
        column[id(node)] = 1 + max((column[id(x)] for x, _ in node.inputs), default=-1)
    first_use: dict[int, int] = {}
    for node in order:
        for x, _ in node.inputs:
            first_use[id(x)] = min(first_use.get(id(x), column[id(node)]), column[id(node)])
    for node in order:  # a given number stands just before its first use
        if not node.inputs and id(node) in first_use:
            column[id(node)] = first_use[id(node)] - 1
    place: dict[int, tuple[float, float]] = {}
    for c in range(max(column.values()) + 1):
        nodes = [n for n in order if column[id(n)] == c]
        heights = {
            id(n): sum(place[id(x)][1] for x, _ in n.inputs) / len(n.inputs)
            for n in nodes
            if n.inputs
        }
        nodes.sort(key=lambda n: heights.get(id(n), -100.0 - order.index(n)), reverse=True)
        for row, node in enumerate(nodes):
            place[id(node)] = (float(c), (len(nodes) - 1) / 2 - row)
    return place


def draw_graph(root: Scalar, ax: Axes, title: str = "") -> None:
    """Draw values and gradients in boxes, local derivatives on the arrows.

    Args:
        root: the result, drawn at the right; call ``root.backward()`` first to see gradients.
        ax: axes that receive the picture; its frame and ticks are removed.
        title: what the picture shows.
    """
    place = graph_layout(root)
    for node in topological_order(root):
        x, y = place[id(node)]
        color = COLORS[1] if node.operation else COLORS[2]
        name = node.label or node.operation or "given"
        if node.label and node.operation:
            name = f"{node.label}:  {node.operation}"
        ax.text(
            x,
            y,
            f"{name}\nvalue {written(node.value)}\ngrad {written(node.grad)}",
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": color, "lw": 1.8},
            zorder=3,
        )
        for number, (source, local) in enumerate(node.inputs):
            start = place[id(source)]
            twice = sum(other is source for other, _ in node.inputs) > 1
            bend = (0.25 if number else -0.25) if twice else 0.0
            ax.annotate(
                "",
                xy=(x - 0.3, y),
                xytext=(start[0] + 0.3, start[1]),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#555555",
                    "connectionstyle": f"arc3,rad={bend}",
                },
                zorder=1,
            )
            ax.text(
                (start[0] + x) / 2,
                (start[1] + y) / 2 - bend / 2,
                f"×{written(local)}",
                ha="center",
                va="center",
                fontsize=8,
                color=COLORS[1],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
                zorder=2,
            )
    columns, rows = zip(*place.values(), strict=True)
    ax.set_xlim(min(columns) - 0.45, max(columns) + 0.45)
    ax.set_ylim(min(rows) - 0.5, max(rows) + 0.5)
    ax.set_axis_off()
    ax.set_title(title)
