r"""Weights of `transformers` models in our `GPT`: only names and layouts differ.

    GPT-2                                   here
    wte, wpe                                token_embedding, positions
    h.i.attn.c_attn   (C, 3 C)              blocks.i.attention.query | key | value, each (C, C)ᵀ
    h.i.attn.c_proj, mlp.c_fc, mlp.c_proj   attention.output, feed_forward.up, feed_forward.down
    h.i.ln_1, h.i.ln_2, ln_f                attention_norm, feed_forward_norm, final_norm

    Llama                                   here
    embed_tokens, lm_head                   token_embedding, head
    layers.i.self_attn.{q,k,v,o}_proj       blocks.i.attention.{query,key,value,output}
    layers.i.mlp.{gate,up,down}_proj        feed_forward.{gate,up,down}
    input_layernorm, post_attention_layernorm, norm    attention_norm, feed_forward_norm, final_norm

GPT-2 stores its layers as `Conv1D`, (in, out), the transpose of `nn.Linear`. Llama's rotary pairs
are half-split in `transformers` (Meta's own files are interleaved), as in `RotaryPositions`.

Nothing of `transformers` is imported: the functions read `model.config` and `model.state_dict()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from companion.architectures.transformer import GPT, TransformerConfig


def from_gpt2(model: Any) -> GPT:
    """Return a GPT with the weights of a `GPT2LMHeadModel`, in evaluation mode.

    Raises:
        ValueError: another kind of model, or a variant that `GPT` does not have.
    """
    config = model.config
    _require(config, "model_type", "gpt2")
    _require(config, "activation_function", "gelu_new")
    _require(config, "scale_attn_weights", True)
    _require(config, "scale_attn_by_inverse_layer_idx", False)
    _require(config, "add_cross_attention", False)
    ours = GPT(
        TransformerConfig(
            vocab_size=config.vocab_size,
            context_length=config.n_positions,
            num_layers=config.n_layer,
            num_heads=config.n_head,
            embed_dim=config.n_embd,
            hidden_dim=config.n_inner,
            feed_forward="gelu_tanh",
            norm_eps=config.layer_norm_epsilon,
        )
    )
    theirs = _without_prefix(model.state_dict(), "transformer.")
    state = {
        "token_embedding.weight": theirs["wte.weight"],
        "positions.weight": theirs["wpe.weight"],
        "head.weight": theirs.get("lm_head.weight", theirs["wte.weight"]),
        "final_norm.weight": theirs["ln_f.weight"],
        "final_norm.bias": theirs["ln_f.bias"],
    }
    norms = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}
    layers = {"attention.output": "attn.c_proj", "feed_forward.up": "mlp.c_fc"}
    layers["feed_forward.down"] = "mlp.c_proj"
    for i in range(config.n_layer):
        for mine, name in norms.items():
            for part in ("weight", "bias"):
                state[f"blocks.{i}.{mine}.{part}"] = theirs[f"h.{i}.{name}.{part}"]
        for mine, name in layers.items():
            state[f"blocks.{i}.{mine}.weight"] = theirs[f"h.{i}.{name}.weight"].T
            state[f"blocks.{i}.{mine}.bias"] = theirs[f"h.{i}.{name}.bias"]
        weights = theirs[f"h.{i}.attn.c_attn.weight"].T.chunk(3)  # (3 C, C)
        biases = theirs[f"h.{i}.attn.c_attn.bias"].chunk(3)
        for mine, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            state[f"blocks.{i}.attention.{mine}.weight"] = weight
            state[f"blocks.{i}.attention.{mine}.bias"] = bias
    return _filled(ours, state)


def from_llama(model: Any) -> GPT:
    """Return a GPT with the weights of a `LlamaForCausalLM`, in evaluation mode.

    Raises:
        ValueError: another kind of model, or a variant that `GPT` does not have, such as rotary
            positions that are scaled for long contexts.
    """
    config = model.config
    _require(config, "model_type", "llama")
    _require(config, "hidden_act", "silu")
    _require(config, "attention_bias", False)
    _require(config, "mlp_bias", False)
    head_dim = config.hidden_size // config.num_attention_heads
    if (getattr(config, "head_dim", None) or head_dim) != head_dim:
        raise ValueError(f"head_dim={config.head_dim}: hidden_size / heads = {head_dim} is needed")
    ours = GPT(
        TransformerConfig(
            vocab_size=config.vocab_size,
            context_length=config.max_position_embeddings,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            embed_dim=config.hidden_size,
            num_kv_heads=config.num_key_value_heads,
            hidden_dim=config.intermediate_size,
            norm="rms",
            feed_forward="swiglu",
            positions="rotary",
            bias=False,
            tie_embeddings=config.tie_word_embeddings,
            norm_eps=config.rms_norm_eps,
            rotary_base=_rotary_base(config),
        )
    )
    theirs = _without_prefix(model.state_dict(), "model.")
    state = {
        "token_embedding.weight": theirs["embed_tokens.weight"],
        "head.weight": theirs.get("lm_head.weight", theirs["embed_tokens.weight"]),
        "final_norm.weight": theirs["norm.weight"],
    }
    names = {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        **{f"feed_forward.{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")},
        **{
            f"attention.{mine}": f"self_attn.{mine[0]}_proj"
            for mine in ("query", "key", "value", "output")
        },
    }
    for i in range(config.num_hidden_layers):
        for mine, name in names.items():
            state[f"blocks.{i}.{mine}.weight"] = theirs[f"layers.{i}.{name}.weight"]
    return _filled(ours, state)


def _require(config: Any, name: str, value: Any) -> None:
    found = getattr(config, name, value)
    if found != value:
        raise ValueError(f"config.{name}={found!r}: {value!r} is needed")


def _rotary_base(config: Any) -> float:
    """Read θ where it stands: `rope_parameters` since transformers 5, two attributes before."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rope_type={kind!r}: 'default' is needed, positions without scaling")
    return float(rope.get("rope_theta", getattr(config, "rope_theta", 10_000.0)))


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _filled(model: GPT, state: Mapping[str, Tensor]) -> GPT:
    """Load all of `state`, in its dtype, and switch dropout off."""
    dtype = state["token_embedding.weight"].dtype
    model.to(dtype).load_state_dict({k: torch.clone(v) for k, v in state.items()}, strict=True)
    return model.eval()
