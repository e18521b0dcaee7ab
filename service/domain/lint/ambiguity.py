"""Regular expressions that can take exponential time: two ways round one loop on the same text.

A backtracking matcher tries every way to split a text among the turns of a loop before it gives up. If some text leads from a
place in the pattern back to it in two ways, n such texts have 2^n splits (exponential ambiguity; Weber and Seidl, "On the degree
of ambiguity of finite automata", 1991). It costs nothing while the match succeeds, so what comes after the loop must be able to
fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_POSITIONS = 150
MAX_WALK = 20_000
LOOP_FROM = 10
"""A repetition that may go on this often counts as a loop."""

Symbols = frozenset[str]

_ALPHABET = "aZ5_ \n-.,é@"
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


class _TooLarge(Exception):
    pass


@dataclass(slots=True)
class _Graph:
    """States joined by steps that read nothing; some states read a symbol.

    `guarded`: steps that an anchor may refuse. `turns`: from the last to the first state of each loop.
    """

    alphabet: Symbols
    steps: list[list[int]] = field(default_factory=list)
    reads: dict[int, tuple[Symbols, int]] = field(default_factory=dict)
    guarded: set[tuple[int, int]] = field(default_factory=set)
    turns: dict[int, int] = field(default_factory=dict)

    def state(self) -> int:
        self.steps.append([])
        return len(self.steps) - 1

    def join(self, start: int, end: int, *, guarded: bool = False) -> None:
        self.steps[start].append(end)
        if guarded:
            self.guarded.add((start, end))

    def read(self, start: int, symbols: Symbols) -> int:
        if len(self.reads) >= MAX_POSITIONS:
            raise _TooLarge
        here, end = self.state(), self.state()
        self.join(start, here)
        self.reads[here] = (symbols, end)
        return end


def is_exponential(pattern: str) -> bool:
    """Whether a loop of the pattern can be gone round in two ways, with something after it that can fail.

    False also for what cannot be analysed: syntax that only the `regex` module knows, or a very large pattern.
    """
    try:
        # The parser of the standard library; there is no public one.
        tree = re._parser.parse(re.sub(r"\\[pP]\{\^?\w+\}", r"\\w", pattern))  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError):
        return False
    graph = _Graph(frozenset(_ALPHABET) | frozenset(pattern))
    start = graph.state()
    try:
        accept = _build(graph, list(tree), start, loops=True)
        return _doubly_looped(graph, accept)
    except _TooLarge:
        return False


def _build(graph: _Graph, items: list[Any], start: int, *, loops: bool) -> int:
    for op, argument in items:
        start = _item(graph, str(op), argument, start, loops=loops)
    return start


def _item(graph: _Graph, op: str, argument: Any, start: int, *, loops: bool) -> int:
    if op in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
        return graph.read(start, _symbols(graph.alphabet, op, argument))
    if op == "BRANCH":
        end = graph.state()
        for branch in argument[1]:
            graph.join(_build(graph, list(branch), start, loops=loops), end)
        return end
    if op == "SUBPATTERN":
        return _build(graph, list(argument[3]), start, loops=loops)
    if op == "ATOMIC_GROUP":  # what it has matched is never tried otherwise
        return _build(graph, list(argument), start, loops=False)
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = argument
        return _repeat(graph, least, most, list(body), start, loops=loops and op != "POSSESSIVE_REPEAT")
    end = graph.state()  # anchors, lookarounds, references: they read nothing here, and may refuse
    graph.join(start, end, guarded=op != "AT" or "BEGINNING" not in str(argument))
    return end


def _repeat(graph: _Graph, least: int, most: int, body: list[Any], start: int, *, loops: bool) -> int:
    if not loops:
        return _build(graph, body, start, loops=False)
    end = graph.state()
    if int(most) >= LOOP_FROM:
        first, last = graph.state(), graph.state()
        graph.join(start, first)
        graph.join(_build(graph, body, first, loops=True), last)
        graph.join(last, first)
        graph.join(last, end)
        graph.turns[last] = first
        if least == 0:
            graph.join(start, end)
        return end
    for turn in range(min(int(most), 3)):
        if turn >= least:
            graph.join(start, end)
        start = _build(graph, body, start, loops=True)
    graph.join(start, end)
    return end


def _symbols(alphabet: Symbols, op: str, argument: Any) -> Symbols:
    if op == "ANY":
        return alphabet - {"\n"}
    if op == "LITERAL":
        return frozenset({chr(argument)})
    if op == "NOT_LITERAL":
        return alphabet - {chr(argument)}
    found: set[str] = set()
    negated = False
    for kind, value in argument:
        if str(kind) == "NEGATE":
            negated = True
        elif str(kind) == "LITERAL":
            found.add(chr(value))
        elif str(kind) == "RANGE":
            found |= {symbol for symbol in alphabet if value[0] <= ord(symbol) <= value[1]}
        else:
            found |= _category(alphabet, str(value))
    return alphabet - found if negated else frozenset(found)


def _category(alphabet: Symbols, name: str) -> Symbols:
    kind = next((pattern for word, pattern in _CATEGORIES.items() if name.endswith(word)), r"\w")
    inside = frozenset(symbol for symbol in alphabet if re.fullmatch(kind, symbol))
    return alphabet - inside if "_NOT_" in name else inside


def _doubly_looped(graph: _Graph, accept: int) -> bool:
    ways = {state: _ways(graph, end) for state, (_, end) in graph.reads.items()}
    reach = {state: _reachable(ways, state) for state in ways}
    for state, following in ways.items():
        if state not in reach[state] or _may_end(graph, graph.reads[state][1], accept):
            continue
        # two silent ways to the same place inside one loop
        if any(count > 1 and state in reach[place] | {place} for place, count in following.items()):
            return True
        if _parts_and_meets(graph, ways, state):
            return True
    return False


def _ways(graph: _Graph, start: int) -> dict[int, int]:
    """The reading states after `start`, each with the number of silent ways there (2 stands for more).

    A way may end one turn of a loop and begin the next, but not make a whole turn without reading: matchers refuse that too.
    """
    found: dict[int, int] = {}
    walked = 0
    stack: list[tuple[int, frozenset[int]]] = [(start, frozenset())]
    while stack:
        state, turned = stack.pop()
        walked += 1
        if walked > MAX_WALK:
            raise _TooLarge
        if state in graph.reads:
            found[state] = min(2, found.get(state, 0) + 1)
        if state in turned:
            continue
        for following in graph.steps[state]:
            again = graph.turns.get(state) == following
            stack.append((following, turned | {state} if again else turned))
    return found


def _reachable(ways: dict[int, dict[int, int]], start: int) -> set[int]:
    found: set[int] = set()
    stack = list(ways[start])
    while stack:
        state = stack.pop()
        if state not in found:
            found.add(state)
            stack.extend(ways[state])
    return found


def _may_end(graph: _Graph, start: int, accept: int) -> bool:
    """Whether the match may be over after this state, with nothing left that could refuse it."""
    seen, stack = {start}, [start]
    while stack:
        state = stack.pop()
        if state == accept:
            return True
        for following in graph.steps[state]:
            if following not in seen and (state, following) not in graph.guarded:
                seen.add(following)
                stack.append(following)
    return False


def _parts_and_meets(graph: _Graph, ways: dict[int, dict[int, int]], state: int) -> bool:
    """Whether two different walks on one text lead from `state` back to it: through a pair of different states."""
    forward = _pairs(graph, ways, (state, state))
    if not any(left != right for left, right in forward):
        return False
    return any(
        left != right and (state, state) in _pairs(graph, ways, (left, right)) for left, right in sorted(forward)
    )


def _pairs(graph: _Graph, ways: dict[int, dict[int, int]], start: tuple[int, int]) -> set[tuple[int, int]]:
    """The pairs of states that two walkers, reading the same text, can get to from `start`."""
    found: set[tuple[int, int]] = set()
    stack = [start]
    walked = 0
    while stack:
        for pair in _next(graph, ways, stack.pop()):
            if pair not in found:
                walked += 1
                if walked > MAX_WALK:
                    raise _TooLarge
                found.add(pair)
                stack.append(pair)
    return found


def _next(graph: _Graph, ways: dict[int, dict[int, int]], pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for left in ways[pair[0]]:
        for right in ways[pair[1]]:
            if graph.reads[left][0] & graph.reads[right][0]:
                yield (left, right)
