"""Recipes of the page `rnn`: what a reader would write to train each recurrent network.

As in `companion.backprop.recipes`: module, data, the arguments of `companion.training.fit`, and a
check that raises AssertionError unless the technique did its work. For the layers with hand-written
gradients the data are the digits, read row by row: 8 steps of 8 pixels.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn

from companion.architectures import rnn
from companion.architectures.chrono import chrono_init_
from companion.architectures.clipping import clip_grad_norm_
from companion.architectures.rnn import CharacterRNN, LastOutput, SequenceClassifier
from companion.architectures.truncated import TruncatedBPTT
from companion.backprop.layers import Linear, Sequential
from companion.backprop.manual import ManualBackprop
from companion.data.adding_problem import CHANCE, AddingProblem
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.data.echo import Echo
from companion.data.japanese_vowels import JapaneseVowels
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, LanguageModel, Regressor, fit

SGD = partial(torch.optim.SGD, lr=0.2)
ADAM = partial(torch.optim.Adam, lr=0.01)
OPTIONS = {"epochs": 3, "precision": "32-true"}


def rows_of_digits() -> Arrays:
    """Digits as sequences: (images, 8 steps, 8 pixels); no smaller last batch."""
    digits = Digits()
    digits.setup()
    parts = [(x.squeeze(1), y) for x, y in (digits.train, digits.validation, digits.test)]
    return Arrays(*parts, batch_size=64, drop_last=True)


def by_hand(kind: str) -> Recipe:
    """Train a layer by its hand-written backward pass; the check compares autograd's weights."""
    layer = getattr(rnn, kind)(8, 24, batch_first=True)
    network = Sequential(LastOutput(layer), Linear(24, 10))
    twin = TwinClassifier(kind)
    start = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        for theirs, ours in zip(twin.parameters(), network.parameters(), strict=True):
            theirs.copy_(ours)

    def check(result: FitResult) -> None:
        expected = fit(Classifier(twin, optimizer=SGD), rows_of_digits(), **OPTIONS)
        pairs = zip(result.module.network.named_parameters(), twin.parameters(), strict=True)
        for (name, ours), theirs in pairs:
            way = (theirs - start[name]).norm()
            error = ((ours.detach().cpu() - theirs).norm() / way).item()
            assert error < 0.02, f"{name}: {error:.1%} of its way from autograd's"
        assert abs(result.step_losses[-1] - expected.step_losses[-1]) < 0.02

    return Recipe(ManualBackprop(network, optimizer=SGD), rows_of_digits(), OPTIONS, check)


class TwinClassifier(nn.Module):
    """torch.nn's layer, last output, linear: parameters in the order of the hand-written twin."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(8, 24, batch_first=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (N, 8, 8) to logits (N, 10)."""
        return self.head(self.recurrent(x)[0][:, -1])


def elman_rnn() -> Recipe:
    """Elman's network, trained by back-propagation through time as written by hand."""
    return by_hand("RNN")


def lstm() -> Recipe:
    """Long short-term memory: four gates and the cell, all gradients by hand."""
    return by_hand("LSTM")


def gru() -> Recipe:
    """Gated recurrent units: the reset gate after the product, all gradients by hand."""
    return by_hand("GRU")


def sequence_classification() -> Recipe:
    """Nine speakers told apart by an LSTM that stops at each utterance's end."""
    torch.manual_seed(0)
    network = SequenceClassifier(12, 9, hidden_size=64, cell="lstm", padding_value=0.0)

    def check(result: FitResult) -> None:
        assert result.metrics["test_accuracy"] > 0.9
        trained = result.module.network.cpu().eval()
        data = JapaneseVowels()
        data.setup()
        x = data.test[0][:8]
        with torch.no_grad():
            longer = torch.cat((x, torch.zeros(8, 10, 12)), dim=1)
            torch.testing.assert_close(trained(longer), trained(x))  # padding does not count

    options = {"epochs": 15, "precision": "32-true", "gradient_clip_val": 1.0, "test": True}
    module = Classifier(network, optimizer=ADAM)
    return Recipe(module, JapaneseVowels(drop_last=True), options, check)


def chrono_initialization() -> Recipe:
    """An LSTM that begins with a long memory adds two numbers of a long sequence."""
    torch.manual_seed(0)
    network = SequenceClassifier(2, 1, hidden_size=48, cell="lstm")
    chrono_init_(network.recurrent, longest=40)
    data = AddingProblem(40, samples=3200, batch_size=64, held_out=320, drop_last=True)

    def check(result: FitResult) -> None:
        error = result.metrics.get("val_loss", math.inf)
        assert error < 0.1 * CHANCE, "hardly better than always answering 1"

    options = {"epochs": 8, "precision": "32-true", "gradient_clip_val": 1.0}
    return Recipe(Regressor(network, optimizer=ADAM), data, options, check)


def truncated_bptt() -> Recipe:
    """Windows of 8 steps learn an echo of 5; the state is carried across the windows."""
    torch.manual_seed(0)
    network = CharacterRNN(2, embed_dim=4, hidden_size=32)
    data = Echo(5, length=240)

    def check(result: FitResult) -> None:
        assert result.metrics.get("val_loss", math.inf) < 0.1
        trained, (x, y) = result.module.network.cpu().eval(), data.validation
        with torch.no_grad():  # bits of the window before are known at the start of a window
            _, state = trained.advance(x[:, :120])
            logits, _ = trained.advance(x[:, 120:124], state)
        right = (logits.argmax(-1) == y[:, 120:124]).float().mean()
        assert right > 0.95, "the state was not carried"

    options = {"epochs": 16, "precision": "32-true"}
    return Recipe(TruncatedBPTT(network, window=8, optimizer=ADAM), data, options, check)


class ClippedClassifier(Classifier):
    """A Classifier that clips by the course's own function; it keeps the norms before and after."""

    def on_fit_start(self) -> None:
        """Start with no norms."""
        super().on_fit_start()
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip; Lightning calls this before each step of the optimizer."""
        self.before.append(clip_grad_norm_(self.parameters(), gradient_clip_val))
        parts = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        self.after.append(torch.stack(parts).norm())


def gradient_clipping_by_norm() -> Recipe:
    """An RNN at a learning rate that would throw its weights far away, tamed by clipping."""
    torch.manual_seed(0)
    network = SequenceClassifier(8, 10, hidden_size=24, cell="rnn")
    limit, rate = 0.1, 1.0

    def check(result: FitResult) -> None:
        before, after = (
            torch.stack(norms).cpu() for norms in (result.module.before, result.module.after)
        )
        assert before.max() > 3 * limit, "no gradient was long enough to be clipped"
        wanted = before.clamp(max=limit)
        torch.testing.assert_close(after, wanted, rtol=1e-3, atol=1e-6)
        assert result.metrics.get("val_accuracy", 0.0) > 0.6

    options = OPTIONS | {"epochs": 6, "gradient_clip_val": limit}
    module = ClippedClassifier(network, optimizer=partial(torch.optim.SGD, lr=rate))
    return Recipe(module, rows_of_digits(), options, check)


def character_rnn() -> Recipe:
    """A language model learns a sentence by heart, and says it when it is given the beginning."""
    sentence = torch.tensor(list(b"to be or not to be, that is the question. "))
    ids = sentence.repeat(60) % 128
    windows = ids.unfold(0, 43, 7)
    data = Arrays((windows[:, :-1], windows[:, 1:]), batch_size=32, drop_last=True)
    torch.manual_seed(0)
    network = CharacterRNN(128, embed_dim=16, hidden_size=64)

    def check(result: FitResult) -> None:
        trained = result.module.network.cpu()
        said = trained.sample(sentence[:12].unsqueeze(0), 30, temperature=0.1)
        assert torch.equal(said[0], sentence), bytes(said[0].tolist())

    options = {"epochs": 10, "precision": "32-true", "gradient_clip_val": 1.0}
    return Recipe(LanguageModel(network, optimizer=ADAM), data, options, check)
