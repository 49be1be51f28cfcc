"""The comparisons of the judges: what they accept, what they say of what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from companion.homework.tasks import Answers, Wrong, agree, expect_close

WANT = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]])


def refusal(got: np.ndarray, want: np.ndarray = WANT, **options) -> Wrong:
    with pytest.raises(Wrong) as caught:
        expect_close("it", got, want, **options)
    return caught.value


def test_rounding_is_accepted_and_a_relative_error_of_1e_8_is_not() -> None:
    expect_close("it", WANT * (1 + 1e-12), WANT)
    assert "1.0e-08" in str(refusal(WANT * (1 + 1e-8)))


def test_where_terms_cancel_the_largest_element_sets_the_scale() -> None:
    assert agree(np.array([1.0, 1e-14]), np.array([1.0, 0.0]))
    assert not agree(np.array([1.0, 1e-9]), np.array([1.0, 0.0]))
    assert not agree(np.array([1e-14]), np.array([0.0]))
    assert agree(np.array([1e-14]), np.array([0.0]), scale=1.0)


def test_shapes_must_be_equal_even_where_they_broadcast() -> None:
    wrong = refusal(WANT[:1])
    assert "has shape (1, 3); it must be (2, 3)" in str(wrong)
    assert "transposed" in refusal(WANT.T).hint


def test_an_answer_that_is_not_a_number_is_called_so() -> None:
    wrong = refusal(np.where(WANT == 3, np.nan, WANT))
    assert "holds nan" in str(wrong)
    assert "overflows" in wrong.hint
    assert "holds inf" in str(refusal(np.where(WANT == 3, np.inf, WANT)))
    assert "int64" in str(refusal(WANT.astype(np.int64) + 1))


def test_a_constant_factor_is_named() -> None:
    assert "2.5 times" in refusal(2.5 * WANT).hint
    assert "sign" in refusal(-WANT).hint
    assert refusal(3 * WANT, factors=[("the batch", 3.0)]).hint == "the batch"
    assert refusal(3 * WANT, factors=[("the batch", 2.0)]).hint == "every element is 3 times" + (
        " what it must be"
    )


def test_a_number_alone_is_not_said_to_be_a_multiple() -> None:
    assert refusal(np.array(3.0), np.array(2.0)).hint == ""


def test_a_known_mistake_is_named_before_any_other_guess() -> None:
    suspects = [("not this", WANT + 1), ("this", 2 * WANT)]
    assert refusal(2 * WANT, suspects=suspects).hint == "this"
    assert refusal(WANT + 7, suspects=suspects, otherwise="who knows").hint == "who knows"


def test_a_suspect_that_equals_the_right_answer_is_passed_over() -> None:
    assert refusal(WANT + 5, suspects=[("no", WANT)]).hint == ""


def test_a_suspect_may_have_another_shape_or_hold_infinities() -> None:
    assert refusal(WANT[0], suspects=[("not summed", WANT[0])]).hint == "not summed"
    holes = np.where(WANT == 3, np.inf, WANT)
    assert refusal(holes, suspects=[("overflow", holes)]).hint == "overflow"


def test_an_answer_in_single_precision_is_nearly_right() -> None:
    got = (WANT / 3).astype(np.float32).astype(np.float64)
    assert "nearly right" in refusal(got, WANT / 3).hint


def test_answers_that_are_missing_or_of_another_kind_are_wrong() -> None:
    answers = Answers({"x": WANT, "n": 3, "t": "text", "b": True})
    assert answers.array("x") is WANT
    assert answers.integer("n") == 3
    assert answers.text("t") == "text"
    for read, name in [
        (answers.array, "n"),
        (answers.array, "y"),
        (answers.integer, "b"),
        (answers.integer, "x"),
        (answers.text, "n"),
    ]:
        with pytest.raises(Wrong, match="missing"):
            read(name)
