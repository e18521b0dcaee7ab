"""Formulas over named scores, such as `0.7 * right + 0.3 * min(short, polite)`: a grammar of our own, and nothing that could run.

formula    = sum [ ("<" | "<=" | ">" | ">=" | "==" | "!=") sum ]      1 if it holds, else 0
sum        = product { ("+" | "-") product }
product    = sign { ("*" | "/") sign }
sign       = [ "+" | "-" ] sign | power
power      = atom [ "^" sign ]                                          2^3^2 = 2^9, -2^2 = -4
atom       = number | name | function "(" formula { "," formula } ")" | "(" formula ")"
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_LENGTH = 1000
MAX_DEPTH = 64

Values = Mapping[str, float]
Evaluate = Callable[[Values], float]

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|[-+*/^(),<>])",
    re.ASCII,
)
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
MANY = ("min", "max")
"""Functions that take any number of arguments; the others take one. `log` is the natural logarithm."""


class FormulaError(ValueError):
    """A text that is no formula. `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed formula and the names that it uses, each once, sorted."""

    names: tuple[str, ...]
    evaluate: Evaluate
    """The value at these scores. `ArithmeticError` or `ValueError` where the formula has none, e.g. x/0 or log(0)."""


@lru_cache(maxsize=256)
def parse_formula(text: str) -> Formula:
    """Read a formula. Raises `FormulaError` with the position of what is wrong."""
    return _Parser(text).parse()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


class _Parser:
    """Recursive descent; `depth` bounds the nesting, so that no text can exhaust the stack."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise FormulaError(f"the formula has {len(text)} characters, more than {MAX_LENGTH}", MAX_LENGTH)
        self.text = text
        self.tokens = self._read()
        self.next = 0
        self.depth = 0
        self.names: set[str] = set()

    def _read(self) -> list[_Token]:
        found, position = [], 0
        while position < len(self.text):
            if self.text[position].isspace():
                position += 1
                continue
            match = _TOKEN.match(self.text, position)
            if match is None:
                raise FormulaError(f"{self.text[position]!r} has no meaning in a formula", position)
            found.append(_Token(str(match.lastgroup), match.group(), position))
            position = match.end()
        found.append(_Token("end", "", len(self.text)))
        return found

    def parse(self) -> Formula:
        evaluate = self._formula()
        if self._here.kind != "end":
            raise self._unexpected("an operator or the end")
        return Formula(tuple(sorted(self.names)), evaluate)

    @property
    def _here(self) -> _Token:
        return self.tokens[self.next]

    def _take(self, *texts: str) -> _Token | None:
        """The next token, if it is one of these."""
        token = self._here
        if token.kind != "sign" or token.text not in texts:
            return None
        self.next += 1
        return token

    def _unexpected(self, wanted: str) -> FormulaError:
        token = self._here
        found = "the formula ends" if token.kind == "end" else f"'{token.text}' stands"
        return FormulaError(f"{found} where {wanted} is expected", token.position)

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise FormulaError(f"the formula is nested more than {MAX_DEPTH} deep", self._here.position)

    def _formula(self) -> Evaluate:
        self._deeper()
        left = self._sum()
        token = self._take(*_COMPARISONS)
        if token is not None:
            left = _compared(_COMPARISONS[token.text], left, self._sum())
            if (second := self._take(*_COMPARISONS)) is not None:
                raise FormulaError("a second comparison; multiply two comparisons to have both hold", second.position)
        self.depth -= 1
        return left

    def _sum(self) -> Evaluate:
        return self._chain(self._product, "+", "-")

    def _product(self) -> Evaluate:
        return self._chain(self._sign, "*", "/")

    def _chain(self, part: Callable[[], Evaluate], *signs: str) -> Evaluate:
        """Parts from left to right; one loop, so that a long sum needs no deep stack."""
        first, rest = part(), []
        while (token := self._take(*signs)) is not None:
            rest.append((_OPERATORS[token.text], part()))
        return _chained(first, rest) if rest else first

    def _sign(self) -> Evaluate:
        self._deeper()
        token = self._take("+", "-")
        if token is None:
            value = self._power()
        else:
            value = self._sign()
            if token.text == "-":
                value = _applied(operator.neg, [value])
        self.depth -= 1
        return value

    def _power(self) -> Evaluate:
        base = self._atom()
        return base if self._take("^") is None else _applied(math.pow, [base, self._sign()])

    def _atom(self) -> Evaluate:
        token = self._here
        if self._take("("):
            value = self._formula()
            self._close(token)
            return value
        if token.kind not in ("number", "name"):
            raise self._unexpected("a number, a name or '('")
        self.next += 1
        if token.kind == "number":
            return self._number(token)
        if token.text in FUNCTIONS:
            return self._call(token)
        if self._here.text == "(":
            raise FormulaError(f"there is no function '{token.text}'; known: {', '.join(FUNCTIONS)}", token.position)
        self.names.add(token.text)
        return operator.itemgetter(token.text)

    def _number(self, token: _Token) -> Evaluate:
        number = float(token.text)
        if not math.isfinite(number):
            raise FormulaError(f"the number {token.text} is too large", token.position)
        return lambda _values: number

    def _call(self, name: _Token) -> Evaluate:
        opening = self._here
        if not self._take("("):
            raise self._unexpected(f"'(' after {name.text}")
        arguments = [self._formula()]
        while self._take(","):
            arguments.append(self._formula())
        self._close(opening)
        if name.text not in MANY and len(arguments) != 1:
            raise FormulaError(f"{name.text} takes one argument, not {len(arguments)}", name.position)
        if name.text in MANY:
            return _applied(lambda *given: FUNCTIONS[name.text](given), arguments)
        return _applied(FUNCTIONS[name.text], arguments)

    def _close(self, opening: _Token) -> None:
        if not self._take(")"):
            raise self._unexpected(f"')' for the '(' at character {opening.position}")


def _chained(first: Evaluate, rest: list[tuple[Callable[[float, float], float], Evaluate]]) -> Evaluate:
    def evaluate(values: Values) -> float:
        result = first(values)
        for join, part in rest:
            result = join(result, part(values))
        return result

    return evaluate


def _compared(holds: Callable[[float, float], bool], left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda values: float(holds(left(values), right(values)))


def _applied(function: Callable[..., float], arguments: list[Evaluate]) -> Evaluate:
    return lambda values: function(*(argument(values) for argument in arguments))
