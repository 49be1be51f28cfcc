"""The drawn graph shows every number once, inputs to the left of their users."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from companion.backprop.autograd import Scalar, topological_order
from companion.backprop.graph_picture import draw_graph, graph_layout, written


@pytest.fixture
def graph() -> Scalar:
    x, w = Scalar(2.0, "x"), Scalar(-3.0, "w")
    product = (x * w).named("p")
    return (product * product + x).tanh().named("L")


def test_inputs_stand_left_of_their_users(graph):
    place = graph_layout(graph)
    for node in topological_order(graph):
        for x, _ in node.inputs:
            assert place[id(x)][0] < place[id(node)][0]


def test_no_two_numbers_share_a_place(graph):
    place = graph_layout(graph)
    assert len(set(place.values())) == len(place) == len(topological_order(graph))


def test_values_gradients_and_local_derivatives_are_drawn(graph):
    graph.backward()
    figure, ax = plt.subplots()
    draw_graph(graph, ax, title="A graph")
    texts = [text.get_text() for text in ax.texts]
    for node in topological_order(graph):
        wanted = f"value {written(node.value)}\ngrad {written(node.grad)}"
        assert any(wanted in text for text in texts)
        for _, local in node.inputs:
            assert f"×{written(local)}" in texts
    assert ax.get_title(loc="left") == "A graph" or ax.get_title() == "A graph"
    plt.close(figure)


def test_a_single_number_can_be_drawn():
    figure, ax = plt.subplots()
    draw_graph(Scalar(1.0, "x"), ax)
    assert len(ax.texts) == 1
    plt.close(figure)


def test_numbers_are_written_with_a_minus_sign():
    assert written(-0.51234) == "−0.5123"
    assert written(1e-7) == "1e−07"
