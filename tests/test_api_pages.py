"""The API reference: docstrings and signatures as the source has them, nothing imported."""

from __future__ import annotations

import ast
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from course import api, docstrings, source  # noqa: E402
from course.checks import DataError  # noqa: E402
from course.data import load_course  # noqa: E402


def package(tmp_path: Path, **modules: str) -> Path:
    """A checkout with these modules in companion/backprop."""
    folder = tmp_path / "companion" / "backprop"
    folder.mkdir(parents=True)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    (tmp_path / "_config.yml").write_text(
        "repository:\n  url: https://github.com/a/b\n  branch: main\n"
    )
    return tmp_path


def page(tmp_path: Path, **modules: str) -> str:
    return api.api_page(package(tmp_path, **modules), "backprop")


def test_a_function_is_shown_with_its_signature_and_docstring(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        losses='''
        """Losses."""
        import nothing_like_this

        def loss(z: Tensor, /, *, scale: float = 1.0, **rest: int) -> Tensor:
            """Return it.

            Args:
                z: any shape,
                    floating point.
                scale: factor.

            Raises:
                ValueError: scale is 0.
            """

        def _hidden(): ...
        ''',
    )
    assert "{py:function} loss(z: Tensor, /, *, scale: float=1.0, **rest: int) -> Tensor" in text
    assert "- `z`: any shape, floating point." in text
    assert "- `ValueError`: scale is 0." in text
    assert "_hidden" not in text
    assert "(https://github.com/a/b/blob/main/companion/backprop/losses.py)" in text


def test_classes_show_fields_methods_and_properties(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        classes='''
        """Classes."""
        @dataclass(frozen=True)
        class Row:
            """A row."""
            name: str
            size: int = 3
            _hidden: int = 0
            rows: ClassVar[int] = 0

        class Layer(nn.Module):
            def __init__(self, inputs: int) -> None:
                """Keep them."""
            def forward(self, x): "Do it."
            def __call__(self, x): ...
            @property
            def shape(self) -> tuple: "Both."
            @staticmethod
            def make(size: int): "One."
            @classmethod
            def load(cls, path): "Two."
        ''',
    )
    assert "{py:class} Row(name: str, size: int = 3)\n" in text
    assert "{py:class} Layer(inputs: int)\n" in text
    assert "Bases: `nn.Module`" in text
    assert "{py:method} Layer.forward(x)" in text
    assert "{py:property} Layer.shape\n:module: companion.backprop.classes\n:type: tuple" in text
    assert "{py:method} Layer.make(size: int)" in text
    assert "{py:method} Layer.load(path)" in text
    assert "__call__" not in text


def test_a_page_can_be_rendered_twice(tmp_path: Path) -> None:
    root = package(tmp_path, a='"""A."""\nclass C:\n    def f(self, x, y): "F."\n')
    first = api.api_page(root, "backprop")
    assert "C.f(x, y)" in first
    assert api.api_page(root, "backprop") == first


def test_only_what_all_names_is_shown_where_it_exists(tmp_path: Path) -> None:
    text = page(tmp_path, a='"""A."""\n__all__ = ["f"]\ndef f(): "F."\ndef g(): "G."\nSIZE = 3\n')
    assert "{py:function} f()" in text
    assert "{py:function} g()" not in text
    assert "SIZE" not in text


def test_constants_and_type_aliases_are_shown(tmp_path: Path) -> None:
    text = page(tmp_path, a='"""A."""\nSIZE: int = 3\nPair = tuple[int, int]\nsmall = 1\n')
    assert "{py:data} SIZE\n:module: companion.backprop.a\n:type: int\n:value: 3" in text
    assert "{py:data} Pair\n:module: companion.backprop.a\n:value: 'tuple[int, int]'" in text
    assert "small" not in text


def test_two_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        tensor='"""T."""\nclass Tensor: "Ours."\ndef f(x: Tensor | None) -> list[Tensor]: "F."\n',
        other='"""O."""\nfrom torch import Tensor\ndef g(x: Tensor): "G."\n',
        user='"""U."""\nfrom companion.backprop.tensor import Tensor as T\ndef h(x: T): "H."\n',
    )
    ours = "companion.backprop.tensor.Tensor"
    assert f"f(x: {ours} | None) -> list[{ours}]" in text
    assert "g(x: torch.Tensor)" in text
    assert f"h(x: {ours})" in text


def test_a_class_that_a_module_passes_on_keeps_the_name_of_its_home(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        home='"""H."""\nclass Config: "C."\n',
        shop='"""S."""\nfrom companion.backprop.home import Config as Sizes\n',
        user='"""U."""\nfrom companion.backprop.shop import Sizes\ndef h(x: Sizes): "H."\n',
    )
    assert "h(x: companion.backprop.home.Config)" in text


def test_a_module_that_begins_with_an_underscore_is_private(tmp_path: Path) -> None:
    root = package(tmp_path, _inner='"""I."""\n', outer='"""O."""\n')
    assert [module.name for module in source.read_package(root)] == ["companion.backprop.outer"]


def test_a_folder_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder 'energy' holds no public module"):
        api.api_page(package(tmp_path, a='"""A."""\n'), "energy")


def test_a_new_folder_must_get_a_page(tmp_path: Path) -> None:
    root = package(tmp_path, a='"""First sentence.\n\nMore.\n"""\n')
    found = load_course(ROOT)
    with pytest.raises(DataError, match=r"book/appendix/api/backprop\.md is missing"):
        api.api_index(found, set(), root)
    text = api.api_index(found, {"book/appendix/api/backprop"}, root)
    assert "| {py:mod}`companion.backprop.a` | First sentence. |" in text


def test_every_public_module_of_the_package_is_on_a_page() -> None:
    modules = source.read_package(ROOT)
    assert {"companion.training", "companion.backprop.losses"} <= {m.name for m in modules}
    for folder in {module.folder for module in modules}:
        text = api.api_page(ROOT, folder)
        for module in (m for m in modules if m.folder == folder):
            assert f"## {module.name}\n" in text
            assert ast.get_docstring(module.tree), f"{module.path} does not say what it is"


# --- docstrings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("y = w_1 * x_1, and a*b*c", "y = w\\_1 \\* x\\_1, and a\\*b\\*c"),
        ("`a_b` and ``c*d``", "`a_b` and ``c*d``"),
        ("see :func:`companion.training.fit`", "see {py:func}`companion.training.fit`"),
        ("|x − x̂| ≤ [0, 1]", "|x − x̂| ≤ \\[0, 1\\]"),
        ("f(x) for x < 0 {twice}", "f(x) for x \\< 0 \\{twice\\}"),
        ("costs $3 ~ or so", "costs \\$3 \\~ or so"),
        ("# (B, H, T)", "\\# (B, H, T)"),
        ("-----", "\\-----"),
        ("+ more", "\\+ more"),
        ("- an item", "- an item"),
        ("the course *Compute for All*, and *args", "the course *Compute for All*, and \\*args"),
        ("like this::", "like this:"),
        ("text\n\n    code = a_b * c\n\n    more\n\ntext_", None),
    ],
)
def test_formulas_survive_markdown(text: str, shown: str | None) -> None:
    if shown is None:
        shown = "text\n\n    code = a_b * c\n\n    more\n\ntext\\_"
    assert docstrings.markdown(text) == shown + "\n"


def test_an_entry_list_that_is_none_stays_prose() -> None:
    text = docstrings.markdown("Do.\n\nReturns:\n    the loss: a scalar\n\nAfterwards.")
    assert text == "Do.\n\n**Returns**\n\nthe loss: a scalar\n\nAfterwards.\n"


def test_quotes_of_a_value_survive() -> None:
    shown = api.fence("py:data", "LAST", "", {"value": "'last.ckpt'"})
    assert ":value: '''last.ckpt'''\n" in shown


def test_a_fence_is_longer_than_any_inside() -> None:
    inner = api.fence("py:method", "C.f()", "text")
    outer = api.fence("py:class", "C", inner)
    assert inner.startswith(":::{py:method}")
    assert outer.startswith("::::{py:class}")
    assert outer.rstrip().endswith("\n::::")
