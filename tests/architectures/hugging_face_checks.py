"""Checks against models of `transformers`, as functions of the module under test."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import torch
from architectures.attention_checks import spread_out
from torch.testing import assert_close


def gpt2(**options: Any) -> torch.nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 3, "n_head": 4}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**(sizes | options))).eval()
    return make_uneven(model)


def llama(**options: Any) -> torch.nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 61,
        "max_position_embeddings": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return make_uneven(LlamaForCausalLM(LlamaConfig(**(sizes | options))).eval())


def make_uneven(model: torch.nn.Module) -> torch.nn.Module:
    """Weights of ordinary size and biases that are not 0, so that every one of them counts."""
    spread_out(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.sub_(1)
    return model


def check_same_logits(convert: Any, theirs: torch.nn.Module, exact: float) -> None:
    """All logits in float32 to 1e-5 and in float64 to `exact`; and the embeddings' gradient."""
    ids = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(1))
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, exact)):
        theirs = theirs.to(dtype)
        ours = convert(theirs)
        expected, logits = theirs(ids).logits, ours(ids)
        assert expected.abs().max() > 2, "the logits are too small to show a difference"
        assert_close(logits, expected, rtol=0, atol=bound)
        grads = []
        for model, table in (
            (ours, ours.token_embedding.weight),
            (theirs, theirs.get_input_embeddings().weight),
        ):
            loss = model(ids) if model is ours else model(ids).logits
            grads.append(torch.autograd.grad(loss.square().mean(), table)[0])
        assert_close(*grads, rtol=0, atol=bound)


def check_gpt2(hugging_face: ModuleType) -> None:
    check_same_logits(hugging_face.from_gpt2, gpt2(), exact=1e-12)


def check_llama(hugging_face: ModuleType) -> None:
    # transformers keeps the rotary tables in float32, whatever the weights are.
    check_same_logits(hugging_face.from_llama, llama(), exact=1e-5)
