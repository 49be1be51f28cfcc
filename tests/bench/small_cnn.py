"""How fast SmallCNN learns Fashion-MNIST on this machine, beside the usual ways to train one.

Three questions, one run, in turn so that drift hits all sides alike: seconds of an epoch (`fit`,
a raw loop with the same options, Keras with the same network); test accuracy after 3 epochs and
after a longer run; time until 0.90 of the test images are right (ours, and the recipes of Keras'
and PyTorch's own introductions). Evaluation is not timed. The test set chooses nothing here: our
recipe was settled on a validation part of the training images.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.cnn import SmallCNN
from companion.data.fashion_mnist import FashionMNIST
from companion.optimization.augmentation import RandomHorizontalFlip
from companion.training import Classifier, evaluate, fit

BATCH, ROUNDS, SEEDS = 128, 3, (0, 1, 2)
PEAK, DECAY = 6e-3, 0.05  # peak learning rate of the one cycle, weight decay
LONG_EPOCHS = 20
GOAL = 0.90


def ours(data: FashionMNIST, epochs: int, seed: int) -> tuple[float, float]:
    """Train through `fit`; return its seconds and the test accuracy."""
    torch.manual_seed(seed)
    steps = len(data.train[0]) // BATCH
    learner = Classifier(
        nn.Sequential(RandomHorizontalFlip(), SmallCNN()),
        optimizer=functools.partial(torch.optim.AdamW, lr=PEAK, weight_decay=DECAY, fused=True),
        scheduler=functools.partial(
            torch.optim.lr_scheduler.OneCycleLR, max_lr=PEAK, total_steps=epochs * steps
        ),
        scheduler_interval="step",
    )
    result = fit(learner, data, epochs=epochs, seed=seed, limit_val_batches=0)
    return result.seconds, evaluate(result.module, data)["test_accuracy"]


def raw_epoch(data: FashionMNIST) -> float:
    """Seconds of the tightest loop we know for the same epoch, with the same options."""
    torch.manual_seed(0)
    x, y = data.train
    start = time.perf_counter()
    network = nn.Sequential(RandomHorizontalFlip(), SmallCNN()).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, weight_decay=DECAY, fused=True)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    order = torch.randperm(len(x))
    for step in range(steps):
        index = order[step * BATCH : (step + 1) * BATCH]
        images, labels = x.index_select(0, index), y.index_select(0, index)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


def keras_network(tutorial: bool) -> Any:
    """SmallCNN in Keras, or the network of Keras' introduction to convolutional networks."""
    import keras

    pad = "valid" if tutorial else "same"
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, padding=pad, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding=pad, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5 if tutorial else 0.25),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return network


def keras_epoch(data: FashionMNIST) -> Callable[[], float]:
    """A callable that trains SmallCNN in Keras for one epoch and returns its seconds."""
    x, y = (tensor.numpy() for tensor in data.train)
    x = x.transpose(0, 2, 3, 1)
    network = keras_network(tutorial=False)
    steps = len(x) // BATCH

    def run() -> float:
        start = time.perf_counter()
        network.fit(x[: steps * BATCH], y[: steps * BATCH], batch_size=BATCH, verbose=0)
        return time.perf_counter() - start

    return run


def until_goal(epochs: Iterator[tuple[float, float]]) -> dict[str, Any]:
    """Follow ``(seconds of the epoch, test accuracy)`` until GOAL, or to the end."""
    seconds, curve = 0.0, []
    for spent, accuracy in epochs:
        seconds += spent
        curve.append([round(seconds, 2), round(accuracy, 4)])
        if accuracy >= GOAL:
            break
    reached = curve[-1][1] >= GOAL
    return {"curve": curve, "seconds_to_goal": round(seconds, 1) if reached else None}


def keras_tutorial(data: FashionMNIST) -> Iterator[tuple[float, float]]:
    """Keras' introduction: Adam at 1e-3, batches of 128, 10 % held out, 15 epochs."""
    import keras

    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = (
        (images.numpy().transpose(0, 2, 3, 1), labels.numpy())
        for images, labels in (data.train, data.test)
    )
    network = keras_network(tutorial=True)
    for _ in range(15):
        start = time.perf_counter()
        network.fit(x, y, batch_size=128, validation_split=0.1, verbose=0)
        spent = time.perf_counter() - start
        yield spent, network.evaluate(x_test, y_test, batch_size=1000, verbose=0)[1]


class TutorialNet(nn.Module):
    """The network of PyTorch's MNIST example (pytorch/examples, mnist)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.dense = nn.Sequential(
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(9216, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, 1, 28, 28) to logits (batch, 10)."""
        return self.dense(self.convolutions(x))


def pytorch_tutorial(data: FashionMNIST) -> Iterator[tuple[float, float]]:
    """PyTorch's example: Adadelta at 1.0, times 0.7 an epoch, batches of 64, 14 epochs."""
    torch.manual_seed(0)
    network = TutorialNet()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    samples = torch.utils.data.TensorDataset(*data.train)
    loader = torch.utils.data.DataLoader(samples, batch_size=64, shuffle=True)
    x_test, y_test = data.test
    for _ in range(14):
        start = time.perf_counter()
        network.train()
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        spent = time.perf_counter() - start
        network.eval()
        with torch.no_grad():
            answers = torch.cat([network(part).argmax(1) for part in x_test.split(1000)])
        yield spent, (answers == y_test).double().mean().item()


def run() -> dict[str, Any]:
    """Measure everything; about ten minutes on two cores."""
    data = FashionMNIST(batch_size=BATCH, validation_fraction=0.0, drop_last=True)
    data.setup()
    keras = keras_epoch(data)
    sides = {"fit": lambda: ours(data, 1, 0)[0], "raw": lambda: raw_epoch(data), "keras": keras}
    for side in sides.values():
        side()  # warm up
    rounds = [{name: side() for name, side in sides.items()} for _ in range(ROUNDS)]
    seconds = {name: statistics.median(r[name] for r in rounds) for name in sides}
    short = [ours(data, 3, seed) for seed in SEEDS]
    long_seconds, long_accuracy = ours(data, LONG_EPOCHS, 0)
    return {
        "threads": torch.get_num_threads(),
        "epoch_seconds": seconds,
        "fit_over_raw": statistics.median(r["fit"] / r["raw"] for r in rounds),
        "fit_over_keras": statistics.median(r["fit"] / r["keras"] for r in rounds),
        "after_3_epochs": [accuracy for _, accuracy in short],
        "seconds_of_3_epochs": [spent for spent, _ in short],
        "long_run": {"epochs": LONG_EPOCHS, "seconds": long_seconds, "accuracy": long_accuracy},
        "goal": GOAL,
        "ours": {"seconds_to_goal": statistics.median(spent for spent, _ in short)},
        "keras_tutorial": until_goal(keras_tutorial(data)),
        "pytorch_tutorial": until_goal(pytorch_tutorial(data)),
    }
