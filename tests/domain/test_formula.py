"""Formulas: what they mean, and what is refused where."""

import math
import sys

import pytest

from service.domain.formula import MAX_DEPTH, MAX_LENGTH, FormulaError, parse_formula

AT = {"a": 0.25, "b": 0.5, "c": 1.0, "min_len": 0.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 0.25),
        ("0.5 * a + 0.5 * b", 0.375),
        ("a + b * c - a", 0.5),
        ("a - b - c", -1.25),  # from left to right
        ("c / b / a", 8.0),
        ("(a + b) / 2", 0.375),
        ("2 ^ 3 ^ 2", 512.0),  # from right to left
        ("-2 ^ 2", -4.0),  # the power binds closer than the sign
        ("2 ^ -1", 0.5),
        ("--a", 0.25),
        ("1e-1 + .5 + 2.", 2.6),
        ("min(a, b, c)", 0.25),
        ("max(a, b + c)", 1.5),
        ("min(b)", 0.5),
        ("abs(a - c)", 0.75),
        ("floor(b + a) + ceil(a)", 1.0),
        ("exp(log(b))", 0.5),
        ("sqrt(a)", 0.5),
        ("min_len", 0.0),  # a name may begin like a function
        ("a < b", 1.0),
        ("a >= b", 0.0),
        ("(a == 0.25) * (b != c)", 1.0),
        ("b * (c > a)", 0.5),
        ("a\n+\tb", 0.75),
    ],
)
def test_values(text, expected):
    assert parse_formula(text).evaluate(AT) == pytest.approx(expected, abs=1e-15)


def test_names_are_known_each_once():
    assert parse_formula("b + min(a, b) * 2").names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("", 0, "the formula ends"),
        ("a +", 3, "the formula ends"),
        ("a b", 2, "'b' stands"),
        ("(a + b", 6, "')' for the '(' at character 0"),
        ("a + b)", 5, "')' stands"),
        ("min(a,)", 6, "')' stands"),
        ("min()", 4, "')' stands"),
        ("min a", 4, "'(' after min"),
        ("abs(a, b)", 0, "one argument, not 2"),
        ("pow(a, 2)", 0, "no function 'pow'"),
        ("a(b)", 0, "no function 'a'"),
        ("a < b < c", 6, "a second comparison"),
        ("a = b", 2, "'=' has no meaning"),
        ("a.real", 1, "'.' has no meaning"),
        ("a[0]", 1, "'[' has no meaning"),
        ("'x'", 0, "has no meaning"),
        ("a ** b", 3, "'*' stands"),
        ("1e999", 0, "too large"),
        ("a\x00", 1, "has no meaning"),
        ("é", 0, "has no meaning"),
    ],
)
def test_faults_have_a_place(text, position, said):
    with pytest.raises(FormulaError) as caught:
        parse_formula(text)
    assert caught.value.position == position
    assert said in str(caught.value)
    assert f"at character {position}" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["(" * (MAX_DEPTH + 1) + "a", "-" * (MAX_DEPTH + 1) + "a", "2^" * (MAX_DEPTH + 1) + "a"]
)
def test_depth_is_bounded(text):
    with pytest.raises(FormulaError, match="deep"):
        parse_formula(text)


def test_length_is_bounded_and_a_long_sum_needs_no_stack():
    with pytest.raises(FormulaError, match="characters"):
        parse_formula("1+" * (MAX_LENGTH // 2) + "1")
    terms = MAX_LENGTH // 2
    longest = parse_formula("+".join(["1"] * terms))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len_of_stack() + 60)
    try:
        assert longest.evaluate({}) == terms
    finally:
        sys.setrecursionlimit(limit)


def len_of_stack():
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


@pytest.mark.parametrize(
    "text", ["c / min_len", "log(min_len)", "sqrt(-c)", "exp(1000)", "10 ^ 400", "(-c) ^ 0.5", "floor(1e308 * 10)"]
)
def test_what_has_no_value_raises_arithmetic_or_value_error(text):
    with pytest.raises((ArithmeticError, ValueError)):
        parse_formula(text).evaluate(AT)


def test_nan_comes_out_as_nan():
    assert math.isnan(parse_formula("1e308 * 10 - 1e308 * 10").evaluate({}))
