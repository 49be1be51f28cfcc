"""What fit decides before it trains: arguments, precision, layout, silence, global states."""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import (
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    XLAAccelerator,
)
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import nn

from companion import fitting
from companion.checkpoints import AtomicCheckpointIO
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.training import Classifier, Regressor, evaluate, fit


def data() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    return Arrays((x, x.sum(dim=1, keepdim=True)), batch_size=8)


def regressor(dtype: torch.dtype = torch.float32) -> Regressor:
    torch.manual_seed(0)
    return Regressor(nn.Linear(3, 1, dtype=dtype))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for accelerator in (CUDAAccelerator, MPSAccelerator, XLAAccelerator):
        monkeypatch.setattr(accelerator, "is_available", staticmethod(lambda: False))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0: an integer of at least 1 is needed"),
        ({"epochs": 2.5}, "epochs=2.5: an integer"),
        ({"max_steps": 0}, "max_steps=0: an integer of at least 1"),
        ({"seed": -1}, "seed=-1: an integer of at least 0"),
        (
            {"accelerator": "quantum"},
            "accelerator='quantum' is unknown; known: cpu, gpu, cuda, mps, tpu, auto",
        ),
        ({"accelerator": None}, "accelerator=None is unknown"),
        ({"accelerator": ["cpu"]}, "is unknown; known: cpu"),
        ({"accelerator": "gpu"}, "accelerator='gpu': this machine has no CUDA GPU"),
        ({"accelerator": "cuda"}, "accelerator='cuda': this machine has no CUDA GPU"),
        ({"accelerator": "mps"}, "accelerator='mps': this machine has no Apple GPU"),
        ({"accelerator": "tpu"}, "accelerator='tpu': this machine has no TPU"),
        ({"devices": 0}, "devices=0: at least 1 is needed"),
        ({"devices": -1}, "devices=-1: at least 1 is needed"),
        ({"devices": True}, "devices=True: a positive number"),
        ({"devices": "two"}, "devices='two': a positive number or 'auto'"),
        ({"devices": [0, 1]}, r"devices=\[0, 1\]: a positive number"),
        ({"devices": None}, "devices=None: a positive number"),
        ({"strategy": "magic"}, "strategy='magic'"),
        ({"precision": "3-bit"}, "Precision '3-bit' is invalid"),
        ({"callbacks": pl.Callback()}, "callbacks=<.*>: a list of Lightning callbacks"),
        ({"callbacks": ["early"]}, r"callbacks=\['early'\]"),
        ({"colour": "red"}, "colour='red': neither fit nor Trainer has such an argument"),
        ({"max_epochs": 3}, "max_epochs=3: use epochs instead"),
        ({"enable_progress_bar": True}, "enable_progress_bar=True: use progress instead"),
        ({"enable_checkpointing": True}, "use checkpoint_dir instead"),
        ({"gradient_clip_val": "x"}, "gradient_clip_val"),
        ({"resume_from": "/nowhere"}, "resume_from='/nowhere': there is no checkpoint"),
        ({"checkpoint_dir": "/dev/null/x"}, "checkpoint_dir='/dev/null/x': no file can be written"),
        ({"test": True}, "data: it has no test set"),
        ({"module": nn.Linear(3, 1)}, "module=Linear: a LightningModule is needed"),
        ({"data": torch.zeros(3)}, "data=Tensor: a LightningDataModule or a loader is needed"),
        ({"data": [(torch.zeros(2, 3), torch.zeros(2, 1))]}, "data=list: a LightningDataModule"),
        ({"data": None}, "data=NoneType"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    arguments = {"module": regressor(), "data": data()} | options
    with pytest.raises(ValueError, match=message) as caught:
        fit(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "split='train': 'test' or 'validation'"),
        ({"split": "validation"}, "data: it has no validation set"),
        ({}, "data: it has no test set"),
        ({"accelerator": "gpu"}, "this machine has no CUDA GPU"),
        ({"seed": "a"}, "seed='a'"),
        ({"module": 3}, "module=int"),
    ],
)
def test_evaluate_refuses_likewise(options: dict[str, Any], message: str) -> None:
    arguments = {"module": regressor(), "data": data()} | options
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))
    for devices in (1, 2, -1, "auto", [1], "0,1"):
        fitting.check_devices("gpu", devices)
    with pytest.raises(ValueError, match="devices=3: this machine has 2 for 'gpu'"):
        fitting.check_devices("gpu", 3)
    with pytest.raises(ValueError, match="devices=0: at least 1 is needed"):
        fitting.check_devices("gpu", 0)


def test_an_accelerator_object_is_taken_as_it_is() -> None:
    fitting.check_devices(CPUAccelerator(), [3])
    result = fit(regressor(), data(), accelerator=CPUAccelerator())
    assert isinstance(result.trainer.accelerator, CPUAccelerator)


class Manual(Regressor):
    automatic_optimization = False


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("fast", [True, False])
def test_precision_follows_network_and_processor(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fitting, "multiplies_bfloat16", lambda: fast)
    mixed = "bf16-mixed" if fast else "32-true"
    assert fitting.choose_precision(regressor(), "cpu", 1) == mixed
    assert fitting.choose_precision(regressor(), "auto", 1) == mixed
    assert fitting.choose_precision(regressor(torch.float64), "cpu", 1) == "64-true"
    assert fitting.choose_precision(regressor(torch.bfloat16), "cpu", 1) == "32-true"
    assert fitting.choose_precision(Manual(nn.Linear(3, 1)), "cpu", 1) == "32-true"
    for accelerator in ("tpu", "mps", CPUAccelerator()):
        assert fitting.choose_precision(regressor(), accelerator, 1) == "32-true"
    assert fit(regressor(), data()).trainer.precision == mixed
    assert fit(regressor(), data(), precision="32-true").trainer.precision == "32-true"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed")])
def test_a_gpu_multiplies_bfloat16_from_ampere_on(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert fitting.choose_precision(regressor(), "gpu", 1) == precision


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags : fpu amx_bf16 amx_tile\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        ("vmx flags : avx512_bf16\nflags : fpu avx2\n", False),
        ("processor : 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("Features : fp asimd\n", False),
        ("", False),
    ],
)
def test_the_processor_is_asked_for_bfloat16(tmp_path: Path, text: str, fast: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert fitting.multiplies_bfloat16(str(tmp_path / "cpuinfo")) is fast


def test_a_machine_without_a_list_of_features_has_none(tmp_path: Path) -> None:
    assert fitting.multiplies_bfloat16(str(tmp_path / "nothing")) is False


def test_the_kernel_and_pytorch_agree_on_bfloat16() -> None:
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        pytest.skip(f"torch {torch.__version__} has no torch.cpu.get_capabilities")
    found = ask()
    if found.get("architecture") != "x86_64":
        pytest.skip("the names of the features are those of x86")
    assert fitting.multiplies_bfloat16() == (found["avx512_bf16"] or found["amx_bf16"])


def convolutional(*tail: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *tail, nn.Linear(4 * 36, 10))


class View(nn.Module):
    """The idiom that needs contiguous activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1)


@pytest.mark.parametrize("channels_last", [True, False])
def test_convolutions_are_stored_channels_last(channels_last: bool) -> None:
    network = nn.Conv2d(3, 4, 3)
    module = Classifier(nn.Sequential(network, nn.Flatten(), nn.Linear(64, 10)))
    x, y = torch.randn(8, 3, 6, 6), torch.arange(8)
    fit(module, Arrays((x, y)), channels_last=channels_last)
    assert network.weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_view_after_a_convolution_fails_with_a_hint() -> None:
    with pytest.raises(RuntimeError, match="view size is not compatible") as caught:
        fit(Classifier(convolutional(View())), Digits(), max_steps=1)
    assert "use flatten or reshape" in caught.value.__notes__[0]
    fit(Classifier(convolutional(View())), Digits(), max_steps=1, channels_last=False)


def test_both_layouts_compute_the_same() -> None:
    options = {"max_steps": 5, "precision": "64-true", "test": True}
    results = [
        fit(Classifier(convolutional(nn.Flatten()).double()), Digits(dtype=torch.float64),
            channels_last=channels_last, **options)
        for channels_last in (True, False)
    ]  # fmt: skip
    assert results[0].step_losses == pytest.approx(results[1].step_losses, rel=1e-10)


def test_the_trainer_is_plain() -> None:
    trainer = fitting.make_trainer({})
    assert trainer.loggers == []
    assert trainer.num_sanity_val_steps == 0
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_the_caller_has_the_last_word() -> None:
    mine = TorchCheckpointIO()
    trainer = fitting.make_trainer({"num_sanity_val_steps": 2, "plugins": mine}, max_epochs=3)
    assert trainer.num_sanity_val_steps == 2
    assert trainer.max_epochs == 3
    assert trainer.strategy.checkpoint_io is mine


def test_fit_and_evaluate_print_nothing(capfd: pytest.CaptureFixture) -> None:
    dataset = torch.utils.data.TensorDataset(*data().train)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    # Shown by pytest as a list, warnings would not reach stderr: raise them instead.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(regressor(), data(), epochs=2)
        fit(regressor(), loader, epochs=2)
        evaluate(regressor(), loader)
        fit(Classifier(convolutional(nn.Flatten())), Digits(), max_steps=3, test=True)
        fit(regressor().eval(), data())
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture) -> None:
    fit(regressor(), data(), progress=True)
    assert "Epoch 0" in "".join(capfd.readouterr())


class Talkative(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        warnings.warn("mine", UserWarning, stacklevel=1)
        logging.getLogger("mine").warning("line")
        return super().training_step(batch, batch_idx)


def test_the_warnings_and_log_lines_of_others_pass(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(UserWarning, match="mine"):
        fit(Talkative(nn.Linear(3, 1)), data())
    assert "line" in caplog.messages


def test_silence_ends_with_the_call() -> None:
    logger = logging.getLogger("pytorch_lightning")
    level, filters = logger.level, list(warnings.filters)
    fit(regressor(), data())
    with pytest.raises(ValueError, match="prediction of shape"):
        fit(Regressor(nn.Linear(3, 2)), data())
    assert (logger.level, warnings.filters) == (level, filters)


def states() -> tuple[Any, ...]:
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )


class Careless(Regressor):
    """Draws from every global generator, and may fail."""

    fails = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        random.random(), np.random.rand(), torch.rand(1)
        assert torch.are_deterministic_algorithms_enabled()
        if self.fails:
            raise KeyError("a fault of the module")
        return super().training_step(batch, batch_idx)


def test_the_callers_global_states_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    module = Careless(nn.Linear(3, 1, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    numbers = Arrays((x, x[:, :1]), test=(x, x[:, :1]))
    before = states()
    fit(module, numbers, test=True)
    assert states() == before
    evaluate(module, numbers)
    assert states() == before
    module.fails = True
    with pytest.raises(KeyError, match="a fault of the module"):
        fit(module, numbers)
    assert states() == before


def test_a_caller_can_do_without_deterministic_algorithms() -> None:
    seen = []

    class Watch(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    fit(regressor(), data(), callbacks=[Watch()], deterministic=False)
    fit(regressor(), data(), callbacks=[Watch()])
    assert seen == [False, True]
