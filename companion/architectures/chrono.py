r"""Begin an LSTM with a memory as long as the task: chrono initialisation.

A cell state that is only kept, c_t = f c_{t-1}, shrinks like f^t: it lasts about 1/(1 − f) steps.
torch.nn starts with forget-gate biases near 0, f ≈ 1/2, a memory of two steps. With the bias
log(τ), f = τ/(1 + τ), it lasts 1 + τ steps. Chrono initialisation draws τ for every unit anew, so
that there are memories of all lengths up to the longest lag, and lets in as little as is forgotten:

    b_f = log(τ), τ uniform in [1, longest − 1]        b_i = −b_f

Source: Tallec and Ollivier, "Can recurrent neural networks warp time?", ICLR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from companion.architectures.rnn import LSTM
from companion.arguments import check_integer


@torch.no_grad()
def chrono_init_(recurrent: nn.Module, longest: int) -> nn.Module:
    """Set the gate biases of an LSTM, ours or torch.nn's, and return it.

    Args:
        recurrent: an LSTM with biases.
        longest: steps that the longest memory is to last, at least 3.

    Raises:
        ValueError: another kind of layer, one without biases, or `longest` below 3.
    """
    check_integer("longest", longest, minimum=3)
    if not isinstance(recurrent, nn.LSTM | LSTM):
        raise ValueError(f"recurrent={type(recurrent).__name__}: an LSTM has a forget gate")
    biases = {name: p for name, p in recurrent.named_parameters() if name.startswith("bias_")}
    if not biases:
        raise ValueError("recurrent: it has no biases; build it with bias=True")
    for name, bias in biases.items():
        input_gate, forget_gate, *_ = bias.chunk(4)  # views: i, f, g, o
        if name.startswith("bias_hh"):  # the two biases add up; all of it stands in bias_ih
            input_gate.zero_()
            forget_gate.zero_()
            continue
        steps: Tensor = torch.empty_like(forget_gate).uniform_(1, longest - 1)
        forget_gate.copy_(steps.log())
        input_gate.copy_(-forget_gate)
    return recurrent
