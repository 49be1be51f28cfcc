"""Every technique of the course, one row each: data only, nothing heavy is imported.

The listing ``companion techniques``, the appendix pages, the device evidence and the tests are
all made from this table. ``target`` and ``recipe`` are import paths (``"package.module:name"``);
:func:`load` turns one into the object.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import LightningDataModule, LightningModule

    from companion.training import FitResult

FORMS = (
    "function",
    "module",
    "layer",
    "loss",
    "optimizer",
    "lightning-module",
    "callback",
    "strategy",
    "verb",
)
LEVELS = ("cpu", "cuda", "xla-cpu", "tpu-compiled", "tpu")


@dataclass(frozen=True)
class Technique:
    """One row of the table.

    Attributes:
        name: kebab-case, unique; what ``companion run`` takes.
        chapter: folder name of the chapter, e.g. ``"backprop"``.
        page: path of the page below ``book/`` without its suffix.
        target: import path of the thing itself, ``"module:name"``.
        form: one of :data:`FORMS`.
        sources: letters of the source articles that name it; empty if the course adds it.
        recipe: import path of a function without arguments that returns a :class:`Recipe`.
        devices: evidence level (of :data:`LEVELS`) -> why it is not applicable there.
    """

    name: str
    chapter: str
    page: str
    target: str
    form: str
    sources: str
    recipe: str
    devices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What a reader would write to use a technique.

    Attributes:
        module: the LightningModule to train.
        data: the LightningDataModule it trains on.
        trainer_options: keyword arguments of :func:`companion.training.fit`.
        check: called with the FitResult; raises AssertionError unless the technique did what
            makes it this technique.
    """

    module: LightningModule
    data: LightningDataModule
    trainer_options: Mapping[str, Any]
    check: Callable[[FitResult], None]


def _page(
    page: str,
    *rows: tuple[str, str, str, str],
    recipes: str = "recipes",
    devices: Mapping[str, str] | None = None,
) -> tuple[Technique, ...]:
    """Rows ``(name, "module:name" within the chapter, form, sources)`` of one page.

    The recipe is the function of the technique's name in the chapter's module `recipes`;
    `devices` holds for all of these rows.
    """
    chapter = page.split("/")[0]
    return tuple(
        Technique(
            name,
            chapter=chapter,
            page=page,
            target=f"companion.{chapter}.{target}",
            form=form,
            sources=sources,
            recipe=f"companion.{chapter}.{recipes}:{name.replace('-', '_')}",
            devices=devices or {},
        )
        for name, target, form, sources in rows
    )


TECHNIQUES: tuple[Technique, ...] = (
    *_page(
        "backprop/losses",
        ("linear-neuron", "training_loop:layer_forward", "function", "ABE"),
        ("mse-loss", "losses:mse_loss", "loss", "BE"),
        ("sigmoid", "losses:sigmoid", "function", "B"),
        ("binary-cross-entropy", "losses:binary_cross_entropy_with_logits", "loss", "E"),
        ("softmax", "losses:softmax", "function", "BD"),
        ("softmax-cross-entropy", "losses:cross_entropy", "loss", "CDE"),
        ("log-softmax", "losses:log_softmax", "function", ""),
        ("l2-regularized-loss", "losses:regularized_loss", "loss", "D"),
        ("five-step-training-loop", "training_loop:train_layer", "function", "ACE"),
    ),
    *_page(
        "backprop/layers",
        ("linear-layer", "layers:Linear", "layer", "ABE"),
        ("relu", "layers:ReLU", "layer", "CD"),
        ("tanh", "layers:Tanh", "layer", ""),
        ("gelu", "layers:GELU", "layer", ""),
        ("dropout", "layers:Dropout", "layer", ""),
        ("embedding", "layers:Embedding", "layer", "C"),
        ("layer-norm", "normalization:LayerNorm", "layer", ""),
        ("batch-norm", "normalization:BatchNorm1d", "layer", ""),
        ("manual-backprop", "manual:ManualBackprop", "lightning-module", "ABE"),
        recipes="layer_recipes",
    ),
    *_page(
        "backprop/autograd",
        ("tape-network", "tape_network:TapeClassifier", "lightning-module", ""),
        ("tape-function", "tape_network:as_torch", "function", ""),
        ("gradient-check", "gradient_check:gradient_check", "function", ""),
        ("forward-mode", "forward_mode:jvp", "function", ""),
        ("hessian-vector-product", "higher_order:hessian_vector_product", "function", ""),
        recipes="tape_recipes",
    ),
    *_page(
        "backprop/linear_regression",
        ("linear-regression", "linear_regression:least_squares", "function", "E"),
        ("gradient-descent-regression", "linear_regression:gradient_descent", "function", "E"),
        ("ridge-regression", "linear_regression:ridge", "function", "D"),
        ("feature-standardization", "features:Standardizer", "module", "E"),
        recipes="regression_recipes",
    ),
    *_page(
        "backprop/linear_regression",
        ("normal-equation", "linear_regression:normal_equation", "function", ""),
        ("one-pass-least-squares", "least_squares:LeastSquares", "lightning-module", ""),
        ("polynomial-regression", "features:polynomial_features", "function", "E"),
        recipes="regression_recipes",
        devices={
            "tpu-compiled": "torch_xla 2.9 cannot compile torch.linalg.qr: it calls the host's CPU"
        },
    ),
    *_page(
        "backprop/keras",
        ("keras-twin", "keras_twin:mlp_twin", "function", "DE"),
        recipes="regression_recipes",
        devices=dict.fromkeys(
            ("cuda", "xla-cpu", "tpu-compiled", "tpu"),
            "it compares two frameworks, so both train on one processor, the CPU",
        ),
    ),
)


def get(name: str) -> Technique:
    """Return the technique called `name`.

    Raises:
        ValueError: no such technique; the message offers the nearest names.
    """
    by_name = {technique.name: technique for technique in TECHNIQUES}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`companion techniques` lists them."
    raise ValueError(f"name={name!r} is not a technique: {hint}")


def load(path: str) -> Any:
    """Import the object that ``"module:name"`` points to."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
