r"""What every hand-written layer shares: a pair of plain functions, and the module around them.

    compute(x, *parameters)  ->  (output, saved)              the forward pass; what to keep
    vjp(grad_output, *saved) ->  (grad_x, *grad_parameters)   the backward pass

`vjp` is the vector–Jacobian product: given δ = ∂L/∂output it returns ∂L/∂x = δ · ∂output/∂x, and
the same for each parameter, without ever forming a Jacobian. `Layer` wraps such a pair in an
`nn.Module`: `forward` keeps `saved`, `backward` spends it.

Source: Baydin, Pearlmutter, Radul and Siskind, "Automatic differentiation in machine learning: a
survey", JMLR 18 (2018), section 3.2, for reverse mode as vector–Jacobian products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, tuple[Any, ...]]


class Layer(nn.Module):
    """A layer with a hand-written backward pass.

    `forward(x)` keeps what `backward` needs; `backward(grad_output)` adds to `.grad` of the
    parameters, returns ∂L/∂x and lets go of what was kept. Subclasses write `compute` and `vjp`.
    """

    _saved: tuple[Any, ...] | None = None

    @staticmethod
    def compute(x: Tensor, *parameters: Tensor | None) -> Pair:
        """Return the output and the tuple that `vjp` will need."""
        raise NotImplementedError

    @staticmethod
    def vjp(grad_output: Tensor, *saved: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients for x and for each parameter, in the order of `compute`."""
        raise NotImplementedError

    def parameter_vjp(self, grad_output: Tensor, *saved: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the parameters only."""
        return self.vjp(grad_output, *saved)[1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.keep(*self.compute(x, *self._parameters.values()))

    def keep(self, output: Tensor, saved: tuple[Any, ...]) -> Tensor:
        """Keep `saved` for the backward pass, and the shape that its argument must have."""
        self._saved = tuple(s.detach() if isinstance(s, Tensor) else s for s in saved)
        self._versions = _versions(self._saved)
        self._output_shape = output.shape
        return output

    @torch.no_grad()
    def backward(self, grad_output: Tensor, *, input_gradient: bool = True) -> Tensor | None:
        """Accumulate the gradients of the parameters and return that of the input.

        Args:
            grad_output: ∂L/∂output, in the shape of the last output; it is not written to.
            input_gradient: False spares the work where nobody wants ∂L/∂x (the input is data).

        Returns:
            ∂L/∂x; None if it was not asked for or x is a tensor of indices.

        Raises:
            RuntimeError: no forward pass came before, or what it kept was changed in place since.
            ValueError: grad_output has another shape than the output.
        """
        saved = self._release(grad_output)
        if input_gradient:
            grad_input, *gradients = self.vjp(grad_output, *saved)
        else:
            grad_input, gradients = None, self.parameter_vjp(grad_output, *saved)
        for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
            if parameter is not None and parameter.requires_grad:
                # Under autocast the products are bfloat16; .grad has the parameter's dtype.
                gradient = gradient.to(parameter.dtype)
                if parameter.grad is None:
                    parameter.grad = gradient
                else:
                    parameter.grad += gradient
        return grad_input

    def _release(self, grad_output: Tensor) -> tuple[Any, ...]:
        name = type(self).__name__
        if self._saved is None:
            raise RuntimeError(f"{name}.backward needs a forward pass before each call")
        if grad_output.shape != self._output_shape:
            raise ValueError(
                f"grad_output has shape {tuple(grad_output.shape)}; it must have that of the "
                f"output of {name}, {tuple(self._output_shape)}"
            )
        saved, self._saved = self._saved, None
        if _versions(saved) != self._versions:
            raise RuntimeError(f"{name}: a tensor kept for backward was changed in place since")
        return saved


def _versions(saved: tuple[Any, ...]) -> list[int]:
    # Every in-place change counts a tensor's version up; inference tensors have none.
    return [s._version for s in saved if isinstance(s, Tensor) and not s.is_inference()]


class ManualFunction(torch.autograd.Function):
    """Set a pair into autograd's graph: `ManualFunction.apply(Linear, x, weight, bias)`.

    The backward pass recomputes `saved` from the inputs, so autograd can follow it and
    differentiate it once more: what `gradcheck` and `gradgradcheck` need.
    """

    @staticmethod
    def forward(ctx: Any, layer: type[Layer], *inputs: Any) -> Tensor:
        ctx.layer = layer
        ctx.constants = [None if isinstance(i, Tensor) else i for i in inputs]
        ctx.save_for_backward(*[i if isinstance(i, Tensor) else None for i in inputs])
        return layer.compute(*inputs)[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.constants, strict=True)
        inputs = [c if t is None else t for t, c in pairs]
        gradients = ctx.layer.vjp(grad_output, *ctx.layer.compute(*inputs)[1])
        return None, *gradients, *[None] * (len(inputs) - len(gradients))


def kept_tensors(network: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor that the layers of `network` keep at the moment for backward."""
    for layer in network.modules():
        for saved in getattr(layer, "_saved", None) or ():
            if isinstance(saved, Tensor):
                yield saved


def kept_bytes(network: nn.Module) -> int:
    """Return the bytes kept for backward: each piece of memory once, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    pieces = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in kept_tensors(network)}
    return sum(piece.nbytes() for address, piece in pieces.items() if address not in own)


def require_positive(**sizes: int) -> None:
    """Raise ValueError unless each size is a whole number of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size}; it must be a whole number >= 1")


def require_trailing_shape(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the last dimensions of x are `shape` and x is floating point."""
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}; it must be floating point")
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"x has shape {tuple(x.shape)}; its last dimensions must be {shape}")
