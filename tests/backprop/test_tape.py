"""The walk back: order, accumulation, depth, freeing, changes in place, and what it refuses."""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, normal
from torch.testing import assert_close

from companion.backprop import tape
from companion.backprop.primitive import primitive
from companion.backprop.tape_network import mlp, mlp_parameters
from companion.backprop.tensor import Tensor


def number(x: float) -> Tensor:
    return Tensor(torch.tensor(x, dtype=F64), requires_grad=True)


def check_reuse_adds(module: ModuleType) -> None:
    x = number(3.0)
    (gradient,) = module.grad(x * x + x, [x])
    assert gradient.item() == 7.0


def check_diamond(module: ModuleType) -> None:
    """b has two users at different depths: it may pass its gradient on only after both."""
    x = number(2.0)
    b = x * x
    out = ((b + 1) * b).exp().log() + b  # = b² + 2b with b = x²
    (gradient,) = module.grad(out, [x])
    assert gradient.item() == pytest.approx(4 * 2.0**3 + 4 * 2.0, rel=1e-12)


def check_chain_of_diamonds(module: ModuleType) -> None:
    x = number(0.5)
    y = x
    for _ in range(10):
        y = y * y.sin() + y
    reference = torch.tensor(0.5, dtype=F64, requires_grad=True)
    z = reference
    for _ in range(10):
        z = z * z.sin() + z
    z.backward()
    (gradient,) = module.grad(y, [x])
    assert_close(gradient.value, reference.grad, rtol=1e-10, atol=0)


def check_calls_add_up(module: ModuleType) -> None:
    x = number(3.0)
    module.backward(x * x)
    module.backward(5 * x)
    assert x.grad.item() == 11.0


def check_change_in_place_is_noticed(module: ModuleType) -> None:
    x = number(3.0)
    y = x * x
    x.value.add_(1.0)
    with pytest.raises(RuntimeError, match="mul was changed in place"):
        module.grad(y, [x])


def check_second_walk_is_refused(module: ModuleType) -> None:
    x = number(3.0)
    y = x.exp()
    module.backward(y)
    with pytest.raises(RuntimeError, match="freed by an earlier backward pass"):
        module.backward(y)


def test_a_number_used_twice_gets_both_gradients():
    check_reuse_adds(tape)


def test_a_gradient_is_passed_on_only_when_all_users_have_given_their_share():
    check_diamond(tape)


def test_a_chain_of_diamonds_equals_torch():
    check_chain_of_diamonds(tape)


def test_backward_adds_to_grad():
    check_calls_add_up(tape)


def test_a_change_in_place_after_recording_is_noticed():
    check_change_in_place_is_noticed(tape)


def test_a_change_in_place_through_a_view_is_noticed():
    x = Tensor(torch.ones(4, dtype=F64), requires_grad=True)
    view = x.reshape(2, 2)
    y = (view * view).sum()
    x.value[0] = 9.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_second_backward_after_freeing_is_refused():
    check_second_walk_is_refused(tape)


def test_a_graph_that_shares_a_freed_part_is_refused():
    x = number(1.0)
    trunk = x.exp()
    first, second = trunk * 2, trunk * 3
    first.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        second.backward()


def test_retain_graph_allows_a_second_backward():
    x = number(1.0)
    y = 3 * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 6.0


def test_a_refused_backward_leaves_the_graph_whole():
    x = Tensor(torch.ones(2, dtype=F64), requires_grad=True)
    y = 2 * x
    with pytest.raises(ValueError, match="without a seed"):
        y.backward()
    y.backward(torch.ones(2, dtype=F64))
    assert_close(x.grad.value, torch.full((2,), 2.0, dtype=F64))


def test_deep_graphs_do_not_meet_the_recursion_limit():
    depth = 10_000
    assert depth > sys.getrecursionlimit()
    x = number(1.0)
    y = x
    for _ in range(depth):
        y = y * 1.0001 - y * 0.0001
    y.backward()
    assert x.grad.item() == pytest.approx(1.0, rel=1e-8)
    del y


def test_a_deep_graph_that_is_never_walked_can_be_dropped():
    x = number(1.0)
    y = x
    for _ in range(10_000):
        y = -y
    first = weakref.ref(y.node.inputs[0].value)
    del y
    assert first() is None


def test_memory_is_given_back_without_the_garbage_collector():
    x = Tensor(torch.ones(10, dtype=F64), requires_grad=True)
    gc.disable()
    try:
        middle = x.exp()
        alive = weakref.ref(middle.value)
        y = (middle * 2).sum()
        del middle
        assert alive() is not None, "the tape keeps what the rule of mul needs"
        y.backward()
        assert alive() is None, "freed by the backward pass"
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a + b.reshape(4).reshape(2, 2),
        lambda a, b: (a + b.T) * 1.0,
        lambda a, b: (a + a.detach()) + b,
    ],
)
def test_the_gradients_of_two_leaves_and_the_seed_never_share_memory(function):
    a, b = (Tensor(normal((2, 2), i), requires_grad=True) for i in (1, 2))
    seed = normal((2, 2), 3)
    function(a, b).backward(seed)
    kept_a, kept_seed = a.grad.value.clone(), seed.clone()
    b.grad.value.mul_(0.0)
    assert torch.equal(a.grad.value, kept_a)
    a.grad.value.mul_(0.0)
    assert torch.equal(seed, kept_seed)


def test_the_gradient_of_a_sum_can_be_written_to():
    """A sum repeats its gradient without copying; an optimizer must find real memory."""
    x = Tensor(normal((3, 2), 1), requires_grad=True)
    x.sum().backward()
    x.grad.value[0, 0] = 5.0
    assert x.grad.value.sum() == 10.0


def test_the_gradient_of_a_leaf_itself_is_one():
    x = number(5.0)
    x.backward()
    assert x.grad.item() == 1.0


def test_gradients_of_intermediate_results_can_be_asked_for():
    x = number(2.0)
    y = x * x
    (gradient,) = tape.grad(y * 3, [y])
    assert gradient.item() == 3.0


def test_grad_touches_no_grad():
    x = number(2.0)
    tape.grad(x * x, [x])
    assert x.grad is None


def test_an_input_that_plays_no_part_is_refused_or_gets_zeros():
    x, z = number(2.0), Tensor(torch.ones(2, 3, dtype=F64), requires_grad=True)
    with pytest.raises(ValueError, match=r"inputs\[1\] plays no part"):
        tape.grad(x * x, [x, z])
    _, zeros = tape.grad(x * x, [x, z], allow_unused=True)
    assert_close(zeros.value, torch.zeros(2, 3, dtype=F64))


def test_gradients_are_recorded_only_with_create_graph():
    x = number(2.0)
    (plain,) = tape.grad(x**3, [x])
    (recorded,) = tape.grad(x**3, [x], create_graph=True)
    assert plain.node is None
    assert recorded.node is not None
    assert tape.grad(recorded, [x])[0].item() == 12.0


def test_backward_with_create_graph_leaves_gradients_that_can_be_differentiated():
    x = number(2.0)
    (x**3).backward(create_graph=True)
    (second,) = tape.grad(x.grad, [x])
    assert second.item() == 12.0


def test_output_without_a_graph_is_refused():
    with pytest.raises(ValueError, match="does not depend on any Tensor with requires_grad=True"):
        Tensor(1.0).backward()


def test_a_seed_of_another_shape_is_refused():
    y = Tensor(torch.ones(3, dtype=F64), requires_grad=True) * 2
    with pytest.raises(ValueError, match=r"grad_output has shape \(2,\), the output \(3,\)"):
        y.backward(torch.ones(2, dtype=F64))


def test_a_rule_that_returns_another_shape_is_named():
    @primitive
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    doubled.gradients(lambda grad, out, x: grad.sum())
    with pytest.raises(ValueError, match=r"rule 0 of doubled returned shape \(\) for an input of"):
        doubled(Tensor([1.0, 2.0], requires_grad=True)).sum().backward()


def test_tape_size_counts_operations_and_each_block_of_memory_once():
    x = Tensor(torch.zeros(10, 4, dtype=F64), requires_grad=True)
    flat = x.reshape(40)  # a view: no memory of its own
    out = (flat * flat).sum()
    size = tape.tape_size(out)
    assert size == (3, 3, (40 + 40 + 1) * 8)


def test_tape_size_of_a_network_is_parameters_plus_activations():
    """(batch, width) results for each layer: product, sum with the bias, relu."""
    batch, sizes = 7, (5, 6, 3)
    leaves = {k: Tensor(v, requires_grad=True) for k, v in mlp_parameters(sizes).items()}
    out = mlp(Tensor(normal((batch, 5), 1).float()), leaves)
    parameters = 5 * 6 + 6 + 6 * 3 + 3
    activations = batch * (5 + 3 * 6 + 2 * 3)
    assert tape.tape_size(out).bytes == 4 * (parameters + activations)
    assert tape.tape_size(out).nodes == 5


def test_arrays_made_in_inference_mode_can_be_recorded():
    with torch.inference_mode():
        array = torch.ones(2, dtype=F64)
    x = Tensor(array, requires_grad=True)
    (x * x).sum().backward()
    assert_close(x.grad.value, torch.full((2,), 2.0, dtype=F64))
