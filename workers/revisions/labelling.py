"""RLAIF (grape.md §7): a judge says which of two completions is better, once in each order; where it contradicts itself it is a tie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from service.db.queries import revisions as queries
from service.domain.asked import Told
from service.domain.base import content_hash
from service.domain.grade import storable
from service.domain.revision import Comparison
from workers.graders.judge.reply import objects_in
from workers.revisions.asking import preference_messages
from workers.revisions.publishing import conclusion
from workers.revisions.rows import Pair, result_row, unfit
from workers.revisions.run import POLL_S, TOGETHER, plan
from workers.revisions.work import Contents, PairWork, pairs_of, queue_of
from workers.runs.gradings import HeldGrading, PlainQuestion

NEITHER = "neither"
ORDERS = ("original_first", "original_second")


@dataclass(slots=True)
class Labelling:
    """Sees `held` through. At most `most` pairs are open at once."""

    held: HeldGrading
    most: int
    check: Callable[[], None]
    wait: Callable[[float], None]
    asked: Callable[[], None]
    contents: Contents = field(init=False)
    open: dict[int, PairWork] = field(default_factory=dict)
    decided: int = 0
    rejected: int = 0
    _taken: int = -1

    def __post_init__(self) -> None:
        self.contents = Contents(self.held)

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for."""
        found: dict[str, Any] = self.held.grading.resolved["labelling"]
        return found

    def run(self) -> None:
        """Until every pair is labelled and what the judge said twice is published."""
        plan(self.held, revises=False, options=self.options)
        self.decided, self.rejected = self.held.grading.done, self.held.grading.failed
        self.open = {pair.number: pair for pair in self._load([number for number, _ in self.held.groups("asked")])}
        while True:
            self.check()
            more = self._take_up()
            if self._advance():
                continue
            if not self.open and not more:
                break
            self.wait(POLL_S)
        self.held.conclude(lambda session: conclusion(session, self.held, self.options))

    def _load(self, numbers: list[int]) -> list[PairWork]:
        if not numbers:
            return []
        rows = self.held.read(lambda session: list(session.execute(queries.pairs(self.held.id, numbers))))
        return pairs_of(rows)

    def _take_up(self) -> bool:
        while (room := self.most - len(self.open)) > 0:
            waiting = self.held.groups("waiting", self._taken, min(room, TOGETHER))
            if not waiting:
                return False
            pairs = self._load([number for number, _ in waiting])
            self._taken = waiting[-1][0]
            refused = {pair.number: unfit(pair.kind, *pair.texts) for pair in pairs}
            self._finish([(pair, found, []) for pair in pairs if (found := refused[pair.number]) is not None])
            different = [pair for pair in pairs if refused[pair.number] is None]
            self.open |= {pair.number: pair for pair in different}
            if different:
                questions = [self._question(pair) for pair in different]
                self.held.ask([pair.number for pair in different], questions, 0)
                self.asked()
        return True

    def _question(self, pair: PairWork) -> PlainQuestion:
        """Both orders."""
        judge = self.options["judge"]
        own = self.contents.of(pair.rubric).guidelines
        guidelines = "\n\n".join(part for part in (own.strip(), self.options["guidelines"].strip()) if part)
        asked = [
            preference_messages(
                pair.prompt,
                first,
                second,
                guidelines,
                nonce=self._nonce(pair, order),
                version=self.options["prompt_version"],
            )
            for order, (first, second) in zip(ORDERS, (pair.texts, pair.texts[::-1]), strict=True)
        ]
        return PlainQuestion(_key(pair), queue_of(self.held, judge), judge, asked)

    def _nonce(self, pair: PairWork, order: str) -> str:
        """Known again after a crash; as good as drawn, since no text can hold what is made of the whole text and our own id."""
        return content_hash([self.held.id, pair.number, order, pair.texts])[:16]

    def _advance(self) -> bool:
        if not self.open:
            return False
        undone = self.held.undone()
        ready = [pair for number, pair in sorted(self.open.items()) if number not in undone]
        for start in range(0, len(ready), TOGETHER):
            part = ready[start : start + TOGETHER]
            told = self.held.told([_key(pair) for pair in part])
            labelled = []
            for pair in part:
                assert pair.better is not None
                ids = (pair.original.id, pair.better.id)
                verdicts = [
                    read_verdict(*(ids if order == ORDERS[0] else ids[::-1]), answer, self._nonce(pair, order))
                    for order, answer in zip(ORDERS, told[_key(pair)], strict=True)
                ]
                preferred, found = label(verdicts)
                if preferred == pair.original.id:
                    pair.original, pair.better = pair.better, pair.original
                labelled.append((pair, found, verdicts))
                del self.open[pair.number]
            self._finish(labelled)
        return bool(ready)

    def _finish(self, labelled: list[tuple[PairWork, Comparison, list[dict[str, Any]]]]) -> None:
        if not labelled:
            return
        judge = self.options["judge"]
        shared = {"request": self.held.id, "judges": {judge: self.held.grading.resolved["judges"][judge]}}
        results = []
        for pair, found, verdicts in labelled:
            assert pair.better is not None
            lineage = {**pair.lineage, **shared, "verdicts": verdicts}
            done = Pair("label", pair.number, pair.prompt, pair.original, pair.better, found, lineage)
            owned = {"project_id": self.held.project_id, "fence": self.held.fence, "request_id": self.held.id}
            results.append({**result_row(done, {"labels"}), **owned, "attempt": 1, "step": 0})
        self.decided += len(labelled)
        self.rejected += sum(not found.accepted for _, found, _ in labelled)

        def also(session: Session) -> None:
            session.execute(*queries.add_results(results))

        numbers, keys = [pair.number for pair, _, _ in labelled], [_key(pair) for pair, _, _ in labelled]
        self.held.finish(numbers, keys, completions=(), cells=(), done=self.decided, failed=self.rejected, also=also)


def _key(pair: PairWork) -> str:
    return f"{pair.number}/label"


def read_verdict(first: str, second: str, told: Told, nonce: str) -> dict[str, Any]:
    """One answer: the id of the completion that it prefers, `neither`, or null with the reason. Nothing is repaired."""
    found: dict[str, Any] = {"first": first, "second": second, "prefers": None, "reasoning": None}
    if told.text is None:
        return {**found, "status": told.status, "reason": told.reason}
    objects = [item for item in objects_in(told.text) if item.get("nonce") == nonce]
    said = objects[0].get("better") if len(objects) == 1 else None
    answers = {"first": first, "second": second, "neither": NEITHER}
    if not isinstance(said, str) or said not in answers:
        reason = "the reply is not one object with the nonce and 'better': first, second or neither"
        return {**found, "status": "parse_error", "reason": reason}
    reasoning = objects[0].get("reasoning")
    told_why = storable(reasoning) if isinstance(reasoning, str) else None
    return {**found, "prefers": answers[said], "reasoning": told_why, "status": "ok", "reason": None}


def label(verdicts: Sequence[Mapping[str, Any]]) -> tuple[str | None, Comparison]:
    """Which completion both verdicts prefer; else null, and why: a tie, or no verdict."""
    for verdict in verdicts:
        if verdict["prefers"] is None:
            message = f"no verdict where {verdict['first']} stands first ({verdict['status']}): {verdict['reason']}"
            return None, Comparison(reason="no_verdict", message=message)
    said = [verdict["prefers"] for verdict in verdicts]
    if NEITHER in said or len(set(said)) > 1:
        message = f"asked in both orders the judge prefers {' and '.join(said)}"
        return None, Comparison(reason="tie", message=message)
    return said[0], Comparison()
