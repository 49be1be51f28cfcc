# %% [markdown]
# # Encoders, experts, and what they cost
#
# **The question: a Transformer can look both ways instead of back only, and it can hold eight times
# the parameters for the work of one. What does each of these buy, and what does it cost, counted
# exactly?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# GPT-3 has 175 billion parameters {cite:p}`brown2020language`. In 16-bit numbers they take
# 350 GB. Build it here, with the class of the {doc}`previous page <transformer>`, and send a text
# of 2,048 tokens through it, on the machine in front of you:

# %%
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from companion.architectures.counting_rules import RULES
from companion.architectures.transformer import GPT, TransformerConfig
from companion.compute.counting import count, count_parameters
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style

use_course_style()
torch.set_num_threads(1)  # the networks below are small

gpt3_config = TransformerConfig(
    vocab_size=50257, context_length=2048, num_layers=96, num_heads=96, embed_dim=12288
)
start = time.perf_counter()
with torch.device("meta"):
    gpt3 = GPT(gpt3_config)
    counted = count(gpt3, torch.zeros(1, 2048, dtype=torch.int64), rules=RULES)
seconds = time.perf_counter() - start
print(f"parameters : {counted.parameters:,}")
print(f"forward    : {counted.forward.total:.3e} operations for 2,048 tokens")
print(f"backward   : {counted.backward.total:.3e}")

# %% tags=["nbval-ignore-output"]
print(f"built and counted in {seconds:.1f} s")

# %% [markdown]
# On PyTorch's *meta* device a tensor has a shape and a type and no numbers. Every layer runs, every
# shape is checked, nothing is computed, and next to no memory is needed. So a model can be counted
# before anyone pays for it. Where do its parameters and its operations sit?

# %% tags=["hide-input"]
groups = {
    "attention: 4 projections": ("query", "key", "value", "output"),
    "attention: scores and sums": ("attention",),
    "feed-forward": ("up", "down", "feed_forward"),
    "tables and output": ("token_embedding", "positions", "head"),
    "norms, residual sums": (
        "attention_norm",
        "feed_forward_norm",
        "final_norm",
        "blocks",
        "dropout",
    ),
}
held, done = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0)
for row in counted.rows:
    last = row.name.rsplit(".", 1)[-1]
    last = "blocks" if last.isdigit() else last
    group = next(key for key, names in groups.items() if last in names)
    held[group] += 0 if last == "head" else row.parameters  # the output layer is the token table
    done[group] += row.cost.forward.total
figure, axes = plt.subplots(figsize=(7.2, 3.2))
for shift, values, label, color, hatch in (
    (-0.2, held, "of the parameters", COLORS[1], None),
    (0.2, done, "of the operations", COLORS[5], "//"),
):
    shares = [100 * value / sum(values.values()) for value in values.values()]
    places = [place + shift for place in range(len(groups))]
    axes.barh(places, shares, 0.38, label=label, color=color, hatch=hatch, edgecolor="black")
    for place, share in zip(places, shares, strict=True):
        axes.text(share + 0.8, place, f"{share:.1f} %", va="center", fontsize=9)
axes.set_yticks(range(len(groups)), groups)
axes.invert_yaxis()
axes.set_xlim(0, 80)
axes.set_xlabel("share of GPT-3 (%), 2,048 tokens")
axes.set_title("Two thirds of GPT-3 are its feed-forward layers")
axes.legend()
plt.show()

# %% [markdown]
# This page first makes the counting exact, then uses it on two variants of the Transformer: the
# *encoder*, which sees both sides of a gap, and the *mixture of experts*, which grows that largest
# bar without growing its work.

# %% [markdown]
# ## Counting operations
#
# Two conventions cause most of the factors of 2 in this field. Here, and in every datasheet:
#
# - one multiply-add, $s \leftarrow s + a\,b$, is **two** floating-point operations (FLOPs);
# - *products* (matrix products, convolutions) are counted apart from *other* work, which goes
#   number by number: biases, norms, softmax, activations. Hardware does the products fast and the
#   rest at the speed of its memory.
#
# A linear layer on $n$ rows, $Y = XW + b$ with shapes $(n, d_\text{in})$, $(d_\text{in},
# d_\text{out})$, forms $n\,d_\text{out}$ dot products of length $d_\text{in}$:
#
# $$\text{forward} = 2\,n\,d_\text{in}\,d_\text{out}, \qquad
# \text{backward} = \underbrace{2\,n\,d_\text{in}\,d_\text{out}}_{\delta W^\top}
# + \underbrace{2\,n\,d_\text{in}\,d_\text{out}}_{X^\top \delta} .$$
#
# The backward pass is twice the forward pass, except in the first layer, where nobody asks for
# $\delta W^\top$. ($\delta = \partial L / \partial Y$, as in {doc}`../backprop/layers`.)
#
# | layer | products, forward |
# |---|---|
# | linear, $n$ rows | $2\,n\,d_\text{in}\,d_\text{out}$ |
# | convolution, $g$ groups, $k \times k$ | $2 \cdot \text{outputs} \cdot k^2 c_\text{in}/g$ |
# | LSTM, $T$ steps, $h$ units | $2\,T\,n \cdot 4h\,(d_\text{in} + h)$; GRU 3, RNN 1 for the 4 |
# | attention, $H$ heads of size $D$ | $2\,H\,T\,S\,D$ for $QK^\top$, as much for $PV$ |
# | embedding, norm | 0 |
#
# ($T$ queries look at $S$ keys; "outputs" is how many numbers the convolution gives. A causal mask
# changes nothing here: all pairs are computed, then half of them are masked.) In code it is one
# line each. An independent check is a counter that knows none of these formulas: PyTorch's
# `FlopCounterMode` watches the matrix products that are really carried out.

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from companion.compute import operations


def watched(module, *inputs, backend=SDPBackend.MATH):
    """What torch's counter sees of a forward and a backward pass."""
    with sdpa_kernel(backend), FlopCounterMode(display=False) as forward:
        output = module(*inputs)
    output = output[0] if isinstance(output, tuple) else output
    with sdpa_kernel(backend), FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


small = TransformerConfig(96, 64, num_layers=2, num_heads=4, embed_dim=64)
layers = {
    "Linear(20, 30)": (nn.Linear(20, 30), torch.ones(8, 20)),
    "Conv2d(4, 6, 3, stride=2)": (nn.Conv2d(4, 6, 3, stride=2), torch.ones(8, 4, 15, 15)),
    "LSTM(5, 7), 2 layers": (nn.LSTM(5, 7, 2).double(), torch.ones(9, 8, 5).double()),
    "GPT, 2 blocks": (GPT(small), torch.zeros(8, 64, dtype=torch.int64)),
}
print(f"{'':26s}{'forward':>14s}{'backward':>14s}")
for name, (layer, value) in layers.items():
    ours = count(layer, value, rules=RULES)
    assert (ours.forward.products, ours.backward.products) == watched(layer, value)
    print(f"{name:26s}{ours.forward.products:14,}{ours.backward.products:14,}   as the library")

# %% [markdown]
# `count` hangs a *forward hook* on every module that it has a rule for and runs the model once. The
# rules are the formulas above, in `companion.compute.operations`. A layer that it does not know
# stops it: a silent 0 would be worse.

# %% tags=["raises-exception"]
count(nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 2)), torch.ones(1, 4))

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# The library's counter is put on two more cases: the attention of the GPT by its *fused* kernel,
# and a convolution in two groups. Where will it agree with the formulas?
# :::

# %%
model, ids = layers["GPT, 2 blocks"]
ours = count(model, ids, rules=RULES)
fused, _ = watched(model, ids, backend=SDPBackend.FLASH_ATTENTION)
attention = operations.attention(8, num_heads=4, queries=64, keys=64, head_dim=16)
missing = (ours.forward.products - fused) / attention.forward.products
print(f"fused attention on the CPU: the library misses the attention of {missing:.0f} blocks")

conv, images = nn.Conv2d(4, 6, 3, groups=2), torch.ones(8, 4, 15, 15)
ours, theirs = count(conv, images).backward.products, watched(conv, images)[1]
print(f"grouped convolution, backward: ours {ours:,}, the library {theirs:,}")

# %% [markdown]
# Neither. On the CPU the library has no formula for its own fused kernel and counts 0 (asked for
# its plain kernel, it agrees with us). And for the weights' gradient of a grouped convolution it
# forgets to divide by the number of groups. The tests of this page settle that by
# multiplying all patches with all kernels and counting the products. A reference is a witness, not
# a judge.

# %% [markdown]
# ## The size of a Transformer
#
# A block of width $d$ has four projections of $d \times d$ and two feed-forward maps of $d \times
# 4d$. With $L$ blocks, and all that grows only like $d$ left aside,
#
# $$N \approx L\,(4 d^2 + 8 d^2) = 12\,L\,d^2 .$$
#
# How good is the rule, and how well do papers count? Here are published models: sizes from their
# papers, parameters counted from the sizes.

# %%
from companion.compute.language_models import (
    PUBLISHED,
    flops_per_token,
    key_value_cache_bytes,
    parameters,
    rule_of_thumb,
    training_flops,
)

assert parameters(PUBLISHED["GPT-3 175B"].shape) == counted.parameters
print(f"{'':14s}{'published':>12s}{'counted':>18s}{'12 L d²':>11s}")
for name, model in PUBLISHED.items():
    exact = parameters(model.shape)
    thumb = rule_of_thumb(model.shape) / exact - 1
    print(f"{name:14s}{model.parameters / 1e6:10,.0f} M{exact:18,}{thumb:+11.1%}")

# %% [markdown]
# The rule misses the tables, almost a third of the smallest GPT-2 and next to nothing of GPT-3.
# The counts of BERT and GPT-2 equal those of an independent library to the last parameter (a test
# holds that); so the numbers in GPT-2's paper {cite:p}`radford2019language` are too small, the
# smallest by 7 million, while those for BERT {cite:p}`devlin2019bert` are rounded up. For its 13
# billion model GPT-3's paper prints a width of 5,140, but 40 heads of 128 make 5,120, and 5,120 is
# what agrees with the number of parameters in the paper's appendix D.
#
# (mistake-e21)=
# :::{admonition} Widespread mistake E21: "large" as a number of parameters
# :class: mistake
# A large model is one with more than $10^9$ parameters, says one text; with $10^8$ or more, like
# GPT-3 and BERT, says another. The first throws BERT out. The second puts two models in one class
# of which one needs a laptop and the other a machine room.
# :::

# %%
bert, gpt = (parameters(PUBLISHED[name].shape) for name in ("BERT-large", "GPT-3 175B"))
print(f"BERT-large: above 1e8: {bert > 1e8}, above 1e9: {bert > 1e9}")
print(f"GPT-3     : above 1e8: {gpt > 1e8}, above 1e9: {gpt > 1e9}; {gpt / bert:.0f} times as many")
print("share of the memory that is needed", f"{'to use':>10s}{'to train':>10s}")
for device, gigabytes in (("laptop, 16 GB", 16), ("accelerator, 80 GB", 80)):
    for name, number in (("BERT-large", bert), ("GPT-3", gpt)):
        use, train = (each * number / 1e9 / gigabytes for each in (2, 16))
        print(f"  {name:10s} {device:22s}{use:10.2f}{train:10.2f}")

# %% [markdown]
# (2 bytes a parameter to use it in 16 bits; 16 bytes to train it with Adam: weight, gradient, two
# moments, in 32 bits. Activations come on top.) What is large depends on the memory of the device
# that must hold it, and on whether it is to be trained: BERT-large trains on a laptop, GPT-3 does
# not even fit on the accelerator to be used. A threshold in parameters ages; the ratio does not.
#
# ### 6N, and when it is wrong
#
# Each weight of a matrix does one multiply-add a token: $2N$ operations forward, twice that
# backward, together **6N a token** {cite:p}`kaplan2020scaling`. For $D$ tokens, $6ND$. The whole
# training run of GPT-3 on 300 billion tokens, which its authors put at $3.14 \cdot 10^{23}$:

# %%
run = training_flops(gpt, 300e9)
print(f"6 N D = {run:.3e}")
assert abs(run / 3.14e23 - 1) < 0.005

# %% [markdown]
# The rule leaves out the attention, which has no weights: $QK^\top$ and $PV$ cost $4\,L\,T\,d$
# a token in a text of $T$ tokens. Against $2N \approx 24\,L\,d^2$ that is $T/6d$.
#
# :::{admonition} Predict first
# :class: predict
# From which length on does the attention cost as much as all weights of the blocks: in GPT-2
# ($d = 768$)? In GPT-3 ($d = 12{,}288$)?
# :::

# %%
lengths = [2**power for power in range(7, 19)]
shares = {}
for name in ("GPT-2", "GPT-2 XL", "GPT-3 175B"):
    shape = PUBLISHED[name].shape
    parts = [flops_per_token(shape, length) for length in lengths]
    shares[name] = [100 * p["attention"] / (p["attention"] + p["weights"]) for p in parts]
    print(f"{name:11s} half of the work is attention at {6 * shape.embed_dim:,} tokens")

# %% tags=["hide-input"]
for (name, values), color, style, marker in zip(
    shares.items(), COLORS, LINESTYLES, MARKERS, strict=False
):
    shape = PUBLISHED[name].shape
    plt.plot(lengths, values, color=color, linestyle=style, marker=marker, label=name)
plt.axhline(50, color="#888888", linewidth=0.8, linestyle="-")
plt.text(lengths[-1], 45, "half", ha="right", fontsize=9)
plt.xscale("log", base=2)
plt.xticks(lengths[::2], [f"{length:,}" for length in lengths[::2]], fontsize=9)
plt.title("6N is good for short texts and wide models")
plt.xlabel("tokens in the text, T")
plt.ylabel("attention's share of a block's products (%)")
plt.legend()
plt.show()

# %% [markdown]
# A generating model keeps keys and values of all tokens so far. That cache is memory, not work:
# two vectors of width $d$ for each layer and token.

# %%
shape = PUBLISHED["GPT-3 175B"].shape
one_text = key_value_cache_bytes(shape, 2048)
print(f"GPT-3's cache for one text of 2,048 tokens: {one_text / 1e9:.1f} GB in 16 bits")
print(f"texts whose caches outweigh the parameters: {2 * gpt / one_text:.0f}")

# %% [markdown]
# ## An encoder: look both ways
#
# A GPT predicts the next token, so it must not see it: a causal mask. **BERT**
# {cite:p}`devlin2019bert` drops the mask. Every position sees all others, and the next token is no
# task any more, since it is in view. The task becomes a cloze: hide some tokens, predict those.
# These are the two families: *decoders* (GPT) generate, *encoders* (BERT) read.
#
# Of all tokens 15 % are chosen. Of the chosen ones 80 % are replaced by a token `[MASK]`, 10 % by a
# token at random, 10 % stay. The loss is the mean over the *chosen* positions $S$,
#
# $$L = -\frac{1}{|S|} \sum_{(i,t) \in S} \log p_\theta(x_{it} \mid \tilde x_i), \qquad
# \tilde x: (N, T), \quad \text{logits}: (N, T, V).$$
#
# `[MASK]` never occurs when the model is used. Without the two times 10 % it would need an opinion
# only where it sees `[MASK]`. Here is the rule on Shakespeare, where a character is a token:

# %%
from companion.architectures.encoder import (
    Encoder,
    EncoderClassifier,
    MaskedLanguageModel,
    choose_and_corrupt,
)
from companion.data.shakespeare import ALPHABET
from companion.data.verse_or_prose import MASK_ID, PAD_ID, VOCAB_SIZE, VerseOrProse

passages = VerseOrProse(batch_size=16, length=64, limit=300)
passages.setup()
text = passages.unlabelled  # (windows, 64): the running text of 31 plays
print(f"{len(text):,} windows of {text.shape[1]} characters")


def show(ids):
    symbols = [*ALPHABET, "", "_"]  # padding, mask
    return "".join(symbols[index] for index in ids.tolist()).replace("\n", " ")


torch.manual_seed(2)
corrupted, targets = choose_and_corrupt(text[1000:1001], MASK_ID, len(ALPHABET))
chosen = targets[0] != -100
print("text     :", show(text[1000]))
print("corrupted:", show(corrupted[0]))
print("asked for:", "".join("^" if asked else " " for asked in chosen.tolist()))

# %% [markdown]
# An `Encoder` is the `GPT` of the last page with `causal=False`. We train one of each: the same
# sizes, the same text, the same batches of 16 windows.

# %% tags=["nbval-ignore-output"]
from functools import partial

from companion.data.arrays import Arrays
from companion.training import Classifier, LanguageModel, fit


def one_cycle(steps, lr):
    """AdamW; the learning rate rises over a fifth of the steps and falls to 0."""
    return {
        "optimizer": partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), fused=True),
        "scheduler": partial(
            torch.optim.lr_scheduler.OneCycleLR,
            max_lr=lr,
            total_steps=steps,
            pct_start=0.2,
            cycle_momentum=False,
        ),
        "scheduler_interval": "step",
    }


def train(learner, data, steps):
    """Fit; return what `fit` returns and the processor time in seconds."""
    start = time.process_time()
    run = fit(learner, data, max_steps=steps, precision="32-true")
    return run, time.process_time() - start


config = TransformerConfig(
    VOCAB_SIZE,
    context_length=64,
    num_layers=2,
    num_heads=4,
    embed_dim=64,
    positions="rotary",
    norm="rms",
    bias=False,
)
windows = Arrays((text, text), batch_size=16)
shifted = Arrays((text[:, :-1], text[:, 1:]), batch_size=16)

torch.manual_seed(0)
encoder = Encoder(config, pad_id=PAD_ID)
untrained = Encoder(config, pad_id=PAD_ID)
cloze = MaskedLanguageModel(
    encoder, mask_id=MASK_ID, num_tokens=len(ALPHABET), mask_fraction=0.2, **one_cycle(400, 4e-3)
)
cloze_run, cloze_seconds = train(cloze, windows, 400)

torch.manual_seed(0)
decoder = GPT(config)
decoder_run, decoder_seconds = train(LanguageModel(decoder, **one_cycle(160, 4e-3)), shifted, 160)
for name, run, seconds in (
    ("cloze", cloze_run, cloze_seconds),
    ("next character", decoder_run, decoder_seconds),
):
    tail = sum(run.step_losses[-30:]) / 30
    steps = len(run.step_losses)
    print(f"{name:15s}: {steps} steps, {seconds:4.1f} s, loss of the last 30 {tail:.2f} nats")

# %% [markdown]
# The encoder gets more steps and hides 20 % of the characters instead of 15 %: a step teaches it
# less, as it is asked for some of the characters and the decoder for all.
#
# Now the exam, on plays that neither has seen. One character of a passage is hidden. The encoder is
# asked twice: with the whole passage, and with everything to the right of the gap cut off.
# The decoder has its left side anyway.
#
# :::{admonition} Predict first
# :class: predict
# At which places of a passage does the right side help the encoder most, and where can it not? And
# who will be better from the left alone, the encoder or the decoder?
# :::

# %% tags=["nbval-ignore-output"]
exam = passages.test[0]
exam = exam[(exam != PAD_ID).all(1)][:300]
places = [1, 2, 4, 8, 16, 32, 48, 62, 63]
both, alone, ahead = "encoder, both sides", "encoder, left side only", "decoder, left side only"
losses, right = {both: [], alone: [], ahead: []}, {}
encoder.eval(), decoder.eval()
with torch.no_grad():
    from_left = decoder(exam)
    for place in places:
        blank = exam.clone()
        blank[:, place] = MASK_ID
        for name, logits in (
            (both, encoder.logits(blank)[:, place]),
            (alone, encoder.logits(blank[:, : place + 1])[:, place]),
            (ahead, from_left[:, place - 1]),
        ):
            losses[name].append(F.cross_entropy(logits, exam[:, place]).item())
            if place == 32:
                right[name] = (logits.argmax(1) == exam[:, place]).float().mean().item()
for name, share in right.items():
    print(f"{name:24s}: {share:.0%} of the characters in the middle")
middle = places.index(32)
assert losses[both][middle] < losses[alone][middle] - 0.1
assert sum(losses[ahead]) < sum(losses[alone])
assert abs(losses[both][-1] - losses[alone][-1]) < 1e-4

# %% tags=["hide-input"]
ticks = range(len(places))
for (name, values), color, style, marker in zip(
    losses.items(), (COLORS[1], COLORS[6], COLORS[2]), LINESTYLES, MARKERS, strict=False
):
    plt.plot(ticks, values, color=color, linestyle=style, marker=marker, label=name)
plt.xticks(ticks, places)
plt.title("The encoder gains from the right side of a gap, until there is none")
plt.xlabel("place of the hidden character in a passage of 64")
plt.ylabel("loss on unseen plays (nats a character)")
plt.ylim(bottom=0)
plt.legend(loc="lower left")
plt.show()

# %% tags=["nbval-ignore-output"]
blank = exam[:5].clone()
blank[:, 20:40:5] = MASK_ID
with torch.no_grad():
    filled = torch.where(blank == MASK_ID, encoder.logits(blank)[..., :96].argmax(-1), blank)
for row in range(3):
    print("hidden:", show(blank[row]))
    print("filled:", show(filled[row]))

# %% [markdown]
# The two curves of the encoder are the same network, so their distance is what the right side is
# worth. At the last place there is none, and they meet.
#
# From the left side alone the decoder is the better guesser, after less than half as many steps:
# every character of every window was a question to it. With the right side in view the encoder does
# better; whether it overtakes the decoder depends on how long it has trained. (The loss of the
# cloze stays on a plateau first, and when it leaves that differs from run to run: a few steps more
# or fewer can change the picture.) And only the decoder's guess can write, token by token. Both are
# reasons why today's large models are decoders. They can use the right side too, at a price: put
# each of the $V$ candidates into the gap and compare the probabilities of the whole text, $V$
# passes for one character (exercise 2).
#
# ## Reading: classification with an encoder
#
# What is an encoder good for that cannot write? Its vectors. A head on their mean,
# $\text{logits} = W \cdot \operatorname{mean}_t h_t + b$, sorts texts, and all weights are trained
# on from where the cloze left them: *fine-tuning*.
#
# Shakespeare wrote verse and prose. In print the lines give it away. Take the line ends out, and
# a passage of 64 characters has only its rhythm, its words, and a capital here and there, which may
# begin a line or a name. With 300 labelled passages, is it verse?
#
# Texts have unequal lengths. Short ones are filled up with padding, and padding must change
# nothing: no attention to it, no share in the mean.

# %% tags=["nbval-ignore-output"]
classifier = EncoderClassifier(encoder, 2).eval()
short = passages.test[0][:4, :50].clone()
longer = F.pad(short, (0, 14), value=PAD_ID)
with torch.no_grad():
    torch.testing.assert_close(classifier(short), classifier(longer), rtol=1e-4, atol=1e-5)
    ignored = classifier(longer, torch.ones_like(longer, dtype=torch.bool))
    change = (ignored - classifier(short)).abs().max().item()
assert change > 1e-3
print("with and without padding the logits are the same")
print(f"largest change of a logit if the padding is not hidden: {change:.2f}")

# %% tags=["nbval-ignore-output"]
import copy

runs = {}
for name, start_from in (("pre-trained", encoder), ("from scratch", untrained)):
    torch.manual_seed(0)
    network = EncoderClassifier(copy.deepcopy(start_from), 2)
    learner = Classifier(network, **one_cycle(100, 2e-3))
    options = {"max_steps": 100, "limit_val_batches": 0, "precision": "32-true"}
    runs[name] = fit(learner, passages, test=True, **options)
    print(f"{name:13s}: {runs[name].metrics['test_accuracy']:.1%} of the test passages")
size = len(passages.test[0])
print(f"{size:,} passages of 3 unseen plays; a coin gets 50.0 % ± {50 / size**0.5:.1f}")
gain = runs["pre-trained"].metrics["test_accuracy"] - runs["from scratch"].metrics["test_accuracy"]
assert gain > 0

# %% tags=["hide-input"]
for (name, run), color, style in zip(
    runs.items(), (COLORS[1], COLORS[2]), LINESTYLES, strict=False
):
    smooth = torch.tensor(run.step_losses).unfold(0, 15, 1).mean(1)
    label = f"{name}: {run.metrics['test_accuracy']:.0%} of the test right"
    plt.plot(range(7, 7 + len(smooth)), smooth, color=color, linestyle=style, label=label)
plt.axhline(0.6931, color="#888888", linewidth=0.8, linestyle="-")
plt.text(93, 0.705, "a coin: ln 2", ha="right", fontsize=9)
plt.title(f"Reading first helps: {100 * gain:.0f} points more from the same 300 labels")
plt.xlabel("step (16 passages each)")
plt.ylabel("training loss, mean of 15 steps (nats)")
plt.ylim(0, 0.8)
plt.legend(loc="lower left")
plt.show()

# %% [markdown]
# The labels are few, the text is not: what the cloze taught about letters, capitals and words need
# not be learnt from 300 passages. That is why BERT changed how classifiers are made.
# It is one run each on a small budget. The gap is larger than the noise of the test set; its size
# will differ with other seeds and other plays.

# %% [markdown]
# ## A mixture of experts: more parameters, the same work
#
# Two thirds of GPT-3 are its feed-forward layers. A **mixture of experts** puts $E$ of them side by
# side and lets each token visit $k$ {cite:p}`shazeer2017outrageously`. A *router* $W_r$ of shape
# $(E, d)$ decides. For a token $x$ of shape $(d,)$:
#
# $$p = \operatorname{softmax}(W_r x), \qquad y = \sum_{e \in \text{top-}k(p)} w_e\,
# \operatorname{FFN}_e(x), \qquad w_e = \frac{p_e}{\sum_{e' \in \text{top-}k} p_{e'}} .$$
#
# Parameters grow with $E$, the work of a token with $k$. The gradient reaches the router through
# $w_e$ alone: the choice itself is a step function. (Hence for $k = 1$ one takes $w = p$
# {cite:p}`fedus2022switch`; renormalised, it would be 1 whatever the router says.)
#
# Naively, token by token. The real version sorts the choices by expert, so that each expert works
# on one block of rows.

# %%
from companion.architectures.mixture_of_experts import (
    BalancedLanguageModel,
    MixtureOfExperts,
    add_experts_,
    load_balancing_loss,
)


def naive(layer, tokens):
    rows = []
    for token in tokens:
        p = (layer.router.weight @ token).softmax(0)
        best = p.topk(layer.top_k).indices
        weights = p[best] / p[best].sum()
        outputs = [layer.expert(e, token[None])[0] for e in best.tolist()]
        rows.append(sum(w * y for w, y in zip(weights, outputs, strict=True)))
    return torch.stack(rows)


torch.manual_seed(0)
layer = MixtureOfExperts(embed_dim=64, hidden_dim=128, num_experts=8, top_k=2).double()
tokens = torch.randn(50, 64).double()
torch.testing.assert_close(layer(tokens), naive(layer, tokens), rtol=1e-10, atol=1e-12)
print("sorted blocks equal the loop")

with torch.no_grad():
    for weight in (layer.up_weight, layer.up_bias, layer.down_weight, layer.down_bias):
        weight.copy_(weight[:1].expand_as(weight))  # all experts become the first
torch.testing.assert_close(layer(tokens), layer.expert(0, tokens), rtol=1e-10, atol=1e-12)
print("eight equal experts are one ordinary layer")

# %% [markdown]
# ### The load must be spread
#
# An expert that gets more tokens learns faster, and is chosen more. Left alone, some experts take
# most of the work and others idle. So an auxiliary loss is added, with $f_e$ the share of the
# choices that fell on $e$ and $P_e$ the mean of $p_e$ over the batch:
#
# $$L_\text{balance} = E \sum_{e=1}^{E} f_e\,P_e .$$
#
# :::{admonition} Predict first
# :class: predict
# What is it if the load is even? If one expert gets everything, with probability 1? And
# which of the two factors carries the gradient?
# :::

# %%
even = torch.full((8, 4), 0.25)
one = F.one_hot(torch.zeros(8).long(), 4).float()
print("even load :", load_balancing_loss(even, torch.arange(8)[:, None] % 4).item())
print("one expert:", load_balancing_loss(one, torch.zeros(8, 1).long()).item())
p = torch.randn(8, 4).softmax(1).requires_grad_()
load_balancing_loss(p, p.topk(2).indices).backward()
f = F.one_hot(p.topk(2).indices.flatten(), 4).float().mean(0)
torch.testing.assert_close(p.grad, (4 / 8 * f).expand(8, 4))
print("gradient by each p: E/n times f =", [round(value, 3) for value in p.grad[0].tolist()])

# %% [markdown]
# $f$ counts, and a count has no gradient. The gradient comes through $P$ and is proportional to
# $f$: busy experts are made less likely.
#
# Now on Shakespeare. Eight experts, two a token, each half as wide as the layer that they replace:
# the same work a token. The decoder from above is the rival.


# %% tags=["nbval-ignore-output"]
def with_experts(balance):
    torch.manual_seed(0)
    model = add_experts_(GPT(config), 8, top_k=2, hidden_dim=128, balance=balance)
    learner = BalancedLanguageModel(model, **one_cycle(160, 4e-3))
    return model, train(learner, shifted, 160)[1]


free, free_seconds = with_experts(balance=0.0)
balanced, balanced_seconds = with_experts(balance=0.01)
dense_cost, sparse_cost = (count(m, exam[:1, :-1], rules=RULES) for m in (decoder, balanced))
print(f"{'':22s}{'parameters':>11s}{'products a token':>18s}{'seconds':>9s}{'loss':>7s}")
results = {}
for name, model, seconds in (
    ("dense", decoder, decoder_seconds),
    ("experts", free, free_seconds),
    ("experts, balanced", balanced, balanced_seconds),
):
    model.eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(exam[:, :-1]).flatten(0, 1), exam[:, 1:].flatten()).item()
    cost = count(model, exam[:1, :-1], rules=RULES)  # one passage of 63 tokens
    each = cost.forward.products // 63
    results[name] = loss
    print(f"{name:22s}{cost.parameters:11,}{each:18,}{seconds:9.1f}{loss:7.3f}")
assert max(results.values()) - min(results.values()) < 0.3
assert sparse_cost.forward.products < 1.05 * dense_cost.forward.products
assert sparse_cost.parameters > 2.5 * dense_cost.parameters

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
loads = {"without the loss": free, "with the loss": balanced}
with torch.no_grad():
    for (name, model), axes in zip(loads.items(), panels, strict=True):
        model(exam[:, :-1])
        for index, (block, color, hatch) in enumerate(
            zip(model.blocks, (COLORS[1], COLORS[5]), (None, "//"), strict=True)
        ):
            load = 100 * block.feed_forward.loads.sort(descending=True).values
            where = [place + 0.4 * index - 0.2 for place in range(1, 9)]
            look = {"color": color, "hatch": hatch, "edgecolor": "black"}
            axes.bar(where, load, 0.38, label=f"block {index + 1}", **look)
        axes.axhline(100 / 8, color="black", linewidth=1.2, linestyle="--")
        axes.set_title(name.capitalize(), fontsize=11)
        axes.set_xlabel("experts, busiest first")
        axes.set_xticks(range(1, 9))
panels[0].set_ylabel("share of the choices (%)")
panels[1].legend()
figure.suptitle(
    "Left alone, some experts are hardly asked (dashed: an even load)",
    fontsize=12,
    fontweight="bold",
)
plt.show()
for one, other in zip(free.blocks, balanced.blocks, strict=True):
    assert one.feed_forward.loads.min() < other.feed_forward.loads.min()

# %% [markdown]
# What was bought, and for what price:
#
# - **Parameters**: almost three times as many in the whole model, four times in its feed-forward
#   layers, for the same products a token but for the router.
# - **Loss**: after so few steps, close to the dense model's. It is one run each, and no gain that
#   you could count on. The papers' gains are for models and runs that are many thousand times
#   larger.
# - **Time**: the products are the same, but they come in eight small pieces instead of one, and
#   sorting, gathering and adding back are not products. (Processor time is shown; it depends on the
#   machine.) With experts on several devices, tokens must also travel.
# - **Memory**: all experts must be there, whoever is chosen.
#
# On several devices each expert has a fixed number of places, its **capacity**
# $C = \lceil c \cdot n k / E \rceil$ for $n$ tokens and a factor $c$ of 1 to 2
# {cite:p}`fedus2022switch`; what comes after that is dropped and passes by on the residual stream.
# Shapes are then fixed, as compilers want them. With room for everyone, nothing changes:

# %%
torch.manual_seed(0)
layer = MixtureOfExperts(64, 128, num_experts=8, top_k=2).double()
reference = layer(tokens)
for factor in (8.0, 1.25, 0.5):
    layer.capacity_factor = factor
    same = torch.isclose(layer(tokens), reference, rtol=1e-10, atol=1e-12).all(1)
    print(f"factor {factor:4}: {layer.capacity(50):3d} places each, {same.sum()} of 50 unchanged")

# %% [markdown]
# Devices come in through `fit` alone:
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(cloze, windows, max_steps=400, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(cloze, windows, max_steps=400, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(cloze, windows, max_steps=400, accelerator="tpu")  # experts: give them a capacity_factor
# ```
# :::
# ::::
#
# :::{evidence} masked-language-model
# :::

# %% [markdown]
# ## Exercises
#
# :::{exercise} A training step of a convolution
# :label: ex-transformer-variants-1
# Count the products of a convolution in one training step by hand: from 64 to 128 channels, kernel
# 3 × 3, stride 2, padding 1, on 32 images of 56 × 56, once with 1 group and once with 64. Compare
# with `operations.convolution`.
# :::
#
# :::{solution} ex-transformer-variants-1
# :class: dropdown
# Stride 2 leaves 28 × 28 places. Each of the $32 \cdot 128 \cdot 28^2$ outputs is a dot product
# over $9 \cdot 64/g$ numbers, two operations each; backward twice that.
# :::

# %% tags=["hide-cell"]
# Solution
for groups_ in (1, 64):
    by_hand = 2 * (32 * 128 * 28 * 28) * (64 // groups_ * 3 * 3)
    cost = operations.convolution(32, 64, 128, (3, 3), (28, 28), groups=groups_)
    assert cost.forward.products == by_hand
    assert cost.backward.products == 2 * by_hand
    print(f"groups={groups_:2d}: {by_hand:,} forward, three times that for a step")

# %% [markdown]
# :::{exercise} A decoder that fills gaps
# :label: ex-transformer-variants-2
# Let the *decoder* use both sides of a gap: put each of the 96 characters into place 16 of a
# passage of 32, score the whole text, and compare the 96 scores. By Bayes' rule their softmax is
# the model's guess at the gap, given both sides. Do it for 40 passages. Is the guess better than
# from the left alone? How many forward passes did it take?
# :::
#
# :::{solution} ex-transformer-variants-2
# :class: dropdown
# It is, on average: what stands to the right must still be likely. It takes 96 passes a gap instead
# of one. (Accuracies of 40 guesses are too coarse to show it; losses are not.)
# :::

# %% tags=["hide-cell", "nbval-ignore-output"]
# Solution
rows, place, scores = exam[:40, :32], 16, []
with torch.no_grad():
    for row in rows:
        candidates = row.repeat(96, 1)  # (96, 32)
        candidates[:, place] = torch.arange(96)
        logits = decoder(candidates[:, :-1]).transpose(1, 2)  # (96, V, 31)
        scores.append(-F.cross_entropy(logits, candidates[:, 1:], reduction="none").sum(1))
    from_both = F.cross_entropy(torch.stack(scores), rows[:, place]).item()
    from_left = F.cross_entropy(decoder(rows)[:, place - 1], rows[:, place]).item()
print(f"from the left alone: {from_left:.2f} nats; by scoring the text: {from_both:.2f} nats")
assert from_both < from_left

# %% [markdown]
# :::{exercise} Sixty-four experts
# :label: ex-transformer-variants-3
# Replace each feed-forward network of a dense model by $E = 64$ experts of the same width, $k = 1$.
# By which factor do the parameters of a block grow, if the feed-forward part is 8 of its 12 $d^2$?
# By which factor does the work grow? Check with `count` for $d = 64$.
# :::
#
# :::{solution} ex-transformer-variants-3
# :class: dropdown
# The parameters grow by $(4 + 64 \cdot 8)/12 = 43$. A token still visits one network of the old
# width, so the work grows by the router's product alone, $2 \cdot 64\,d$ a token.
# :::

# %% tags=["hide-cell"]
# Solution
dense, sparse = GPT(config).blocks[0], add_experts_(GPT(config), 64, top_k=1).blocks[0]
before, after = (count(block, torch.ones(1, 64, 64), rules=RULES) for block in (dense, sparse))
growth = after.parameters / before.parameters
extra = after.forward.products - before.forward.products
print(f"counted: {growth:.1f} times the parameters, router included")
assert extra == 2 * 64 * 64 * 64  # 64 tokens, width 64, 64 experts
assert count_parameters(sparse) == after.parameters

# %% [markdown]
# ## Summary
#
# - A multiply-add is two operations; a backward pass is twice the forward pass; $N \approx
#   12 L d^2$, and a token costs $6N$ to train on while the text is shorter than about $d$.
# - "Large" is relative to the memory of the device that must hold the model.
# - An encoder sees both sides and learns from a cloze, of which a step teaches less than a step of
#   a decoder; its vectors make classifiers that need few labels.
# - A mixture of experts buys parameters with memory and communication instead of products; without
#   a balancing loss some experts idle.
#
# Sources: BERT {cite:p}`devlin2019bert` (section 3, A.1); GPT-2 {cite:p}`radford2019language`
# (table 2); GPT-3 {cite:p}`brown2020language` (table 2.1, appendix D); counting
# {cite:p}`kaplan2020scaling` (section 2.1); experts {cite:p}`shazeer2017outrageously` (section 2),
# {cite:p}`fedus2022switch` (section 2.2).
