"""What encoders and mixtures of experts must meet; each check takes the module under test."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures.feed_forward import FeedForward
from companion.architectures.transformer import TransformerConfig

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
MASK, PAD, ORDINARY = 20, 21, 20


def config(**changes: object) -> TransformerConfig:
    sizes = {"vocab_size": 22, "context_length": 12, "num_layers": 2, "num_heads": 2}
    return TransformerConfig(**{**sizes, "embed_dim": 8, "causal": False, **changes})


def some_ids(rows: int = 3, length: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(ORDINARY, (rows, length), generator=generator)


def encoder(module: ModuleType, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    made = module.Encoder(config(**changes), pad_id=PAD).double()
    for parameter in made.parameters():  # weights of 0.02 would hide what attention does
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def check_corruption_rule(module: ModuleType) -> None:
    """15 % chosen; of these 80 % hidden, 10 % replaced, 10 % kept: each within five sigma."""
    torch.manual_seed(0)
    ids = torch.full((400, 500), 7)
    corrupted, targets = module.choose_and_corrupt(ids, MASK, ORDINARY)
    chosen = targets != -100
    assert (targets[chosen] == 7).all()
    assert (corrupted[~chosen] == 7).all()
    count = int(chosen.sum())
    shares = {
        "chosen": (chosen.double().mean(), 0.15, ids.numel()),
        "hidden": ((corrupted[chosen] == MASK).double().mean(), 0.8, count),
        # A replacement is the token itself once in ORDINARY times.
        "kept": ((corrupted[chosen] == 7).double().mean(), 0.1 + 0.1 / ORDINARY, count),
    }
    for name, (share, expected, size) in shares.items():
        sigma = (expected * (1 - expected) / size) ** 0.5
        assert abs(share - expected) < 5 * sigma, name
    replaced = corrupted[chosen & (corrupted != 7) & (corrupted != MASK)]
    assert set(replaced.tolist()) == set(range(ORDINARY)) - {7}


def check_only_blanks_count(module: ModuleType) -> None:
    """The loss is the mean negative log-probability of the chosen tokens, one by one."""
    network = encoder(module)
    learner = module.MaskedLanguageModel(network, mask_id=MASK).eval()
    ids = some_ids()
    metrics, blanks = learner.measure(ids)
    noise = torch.rand(3, *ids.shape, generator=torch.Generator().manual_seed(0))
    corrupted, targets = module.choose_and_corrupt(ids, MASK, ORDINARY, noise=noise)
    logits = network.logits(corrupted)
    terms = [
        -logits[row, place].log_softmax(-1)[ids[row, place]]
        for row, place in (targets != -100).nonzero().tolist()
    ]
    assert 0 < len(terms) < ids.numel()
    assert int(blanks) == len(terms)
    assert_close(metrics["loss"], torch.stack(terms).mean(), **TIGHT)


def check_both_sides(module: ModuleType) -> None:
    """Each position's vector depends on every token, before it and after it."""
    network = encoder(module, causal=True)
    ids = some_ids(1)
    before = network(ids)
    for place in range(ids.shape[1]):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % ORDINARY
        moved = (network(other) - before).abs().amax(-1)[0]
        assert (moved > 1e-9).all(), f"token {place} does not reach every position"


def check_padding(module: ModuleType) -> None:
    """However long the padding, vectors, blanks and classes are those of the bare sequence."""
    torch.manual_seed(0)
    network = encoder(module)
    classifier = module.EncoderClassifier(network, 3).double().eval()
    bare = some_ids(2, 5)
    padded = F.pad(bare, (0, 4), value=PAD)
    assert_close(network(padded)[:, :5], network(bare), **TIGHT)
    assert_close(classifier(padded), classifier(bare), **TIGHT)


def check_no_blank_in_padding(module: ModuleType) -> None:
    learner = module.MaskedLanguageModel(encoder(module), mask_id=MASK, mask_fraction=0.9).eval()
    padded = F.pad(some_ids(4, 5), (0, 7), value=PAD)
    noise = torch.rand(3, *padded.shape, generator=torch.Generator().manual_seed(0))
    expected = int((noise[0, :, :5] < 0.9).sum())
    assert int(learner.measure(padded)[1]) == expected


def experts(module: ModuleType, *args: int, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return module.MixtureOfExperts(6, 10, *args, **options).double()


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(1)).double()


def check_equals_naive(module: ModuleType) -> None:
    """Output and all gradients: sorted blocks, fixed places, and token by token."""
    for num_experts, top_k in ((1, 1), (4, 1), (4, 2), (5, 3), (3, 3)):
        layer = experts(module, num_experts, top_k)
        x = tokens(3, 5)
        results = []
        for forward, factor in (
            (layer.forward_naive, None),
            (layer.forward, None),
            (layer.forward, float(num_experts)),  # room for every choice
        ):
            layer.capacity_factor = factor
            leaf = x.clone().requires_grad_()
            output = forward(leaf)
            wanted = [leaf, *layer.parameters()]
            weights = torch.arange(output.numel()).double().view_as(output).cos()
            gradients = torch.autograd.grad((output * weights).sum(), wanted, allow_unused=True)
            results.append((output, gradients))
        for output, gradients in results[1:]:
            assert_close(output, results[0][0], **TIGHT)
            for mine, naive in zip(gradients, results[0][1], strict=True):
                naive = torch.zeros_like(mine) if naive is None else naive
                assert_close(mine, naive, **TIGHT)


def dense_like(layer: torch.nn.Module, expert: int) -> FeedForward:
    """The ordinary feed-forward network with the weights of one expert."""
    dense = FeedForward(6, 10).double()
    with torch.no_grad():
        dense.up.weight.copy_(layer.up_weight[expert].T)
        dense.up.bias.copy_(layer.up_bias[expert, 0])
        dense.down.weight.copy_(layer.down_weight[expert].T)
        dense.down.bias.copy_(layer.down_bias[expert, 0])
    return dense


def check_identical_experts(module: ModuleType) -> None:
    """Whatever the router says, a mean of equal networks is that network."""
    layer = experts(module, 4, 2)
    with torch.no_grad():
        for name in ("up_weight", "up_bias", "down_weight", "down_bias"):
            parameter = getattr(layer, name)
            parameter.copy_(parameter[:1].expand_as(parameter))
    x = tokens(7)
    assert_close(layer(x), dense_like(layer, 0)(x), **TIGHT)


def check_balance_loss(module: ModuleType) -> None:
    """1 for an even load, E for one busy expert, and Σ f P written out for what is between."""
    probabilities = tokens(8).softmax(-1)
    chosen = probabilities.topk(2).indices
    value = 0.0
    for e in range(6):
        share = sum(int(e in row) for row in chosen.tolist()) / (8 * 2)
        value += 6 * share * float(probabilities[:, e].mean())
    assert_close(
        float(module.load_balancing_loss(probabilities, chosen)), value, rtol=1e-10, atol=0
    )
    even = torch.full((4, 4), 0.25).double()
    assert_close(float(module.load_balancing_loss(even, torch.arange(4)[:, None])), 1.0)
    alone = F.one_hot(torch.zeros(5).long(), 4).double()
    assert_close(float(module.load_balancing_loss(alone, torch.zeros(5, 1).long())), 4.0)


def check_balance_teaches_the_router(module: ModuleType) -> None:
    """A step down the auxiliary loss evens out a load that one expert had to itself."""
    layer = experts(module, 4, 1, balance=1.0)
    x = tokens(64) + 1
    with torch.no_grad():
        layer.router.weight[0] += 1
    layer(x)
    before = layer.loads.max()
    for _ in range(60):
        layer(x)
        loss = module.auxiliary_loss(layer)
        assert loss.requires_grad
        (gradient,) = torch.autograd.grad(loss, [layer.router.weight])
        with torch.no_grad():
            layer.router.weight -= 0.5 * gradient
    layer(x)
    assert before > 0.9
    assert layer.loads.max() < 0.6


def check_task_teaches_the_router(module: ModuleType) -> None:
    for top_k in (1, 2):
        layer = experts(module, 4, top_k)
        (gradient,) = torch.autograd.grad(layer(tokens(9)).square().sum(), [layer.router.weight])
        assert gradient.abs().max() > 1e-6


def check_capacity(module: ModuleType) -> None:
    """With C places, an expert serves the first C in line; the others get nothing from it."""
    layer = experts(module, 3, 2, capacity_factor=0.7)
    x = tokens(8)
    _, chosen, weights = layer.route(x)
    free = [layer.capacity(8)] * 3
    assert free[0] == 4  # ⌈0.7 · 8 · 2 / 3⌉
    expected = torch.zeros_like(x)
    for choice in range(2):
        for row in range(8):
            e = int(chosen[row, choice])
            if free[e] > 0:
                free[e] -= 1
                expected[row] += weights[row, choice] * layer.expert(e, x[row : row + 1])[0]
    assert min(free) == 0
    assert_close(layer(x), expected, **TIGHT)
