"""One request for revisions, from its claim to its end: ask the reviser, grade both texts afresh, decide, publish.

A group of the request is `waiting`, then `asked` (the reviser writes), then `compared` (both texts are graded), then `done`.
Every step is one transaction; who takes the request up after a death finds what was asked, and asks nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from service.db.queries import revisions as queries
from service.domain.asked import Told
from service.domain.criteria import criteria_of, criterion_weights
from service.domain.ids import new_id
from service.domain.revision import Comparison, compare
from workers.revisions.asking import critiques_for, revision_messages, written
from workers.revisions.deciding import pair_rows
from workers.revisions.publishing import conclusion
from workers.revisions.rows import EQUAL, Pair, Side, result_row, unfit
from workers.revisions.work import Contents, PairWork, pairs_of, prepare, queue_of, take
from workers.runs.gradings import HeldGrading, PlainQuestion

POLL_S = 0.5
TOGETHER = 64
"""Pairs are taken up and finished together up to this many."""


@dataclass(slots=True)
class Revising:
    """Sees `held` through. At most `most` pairs are open at once."""

    held: HeldGrading
    most: int
    check: Callable[[], None]
    wait: Callable[[float], None]
    asked: Callable[[], None]
    contents: Contents = field(init=False)
    writing: dict[int, PairWork] = field(default_factory=dict)
    comparing: dict[int, PairWork] = field(default_factory=dict)
    decided: int = 0
    rejected: int = 0
    _taken: int = -1

    def __post_init__(self) -> None:
        self.contents = Contents(self.held)

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for."""
        found: dict[str, Any] = self.held.grading.resolved["revision"]
        return found

    def run(self) -> None:
        """Until every pair is decided and what was accepted is published."""
        plan(self.held, revises=self.options["reviser"] is not None, options=self.options)
        self.decided, self.rejected = self.held.grading.done, self.held.grading.failed
        self._recover()
        while True:
            self.check()
            more = self._take_up()
            if self._advance():
                continue
            if not self.writing and not self.comparing and not more:
                break
            self.wait(POLL_S)
        self.held.conclude(lambda session: conclusion(session, self.held, self.options))

    # --- taking up ---

    def _recover(self) -> None:
        """What a worker before this one has asked."""
        for pair in self._load([number for number, _ in self.held.groups("asked")]):
            pair.keys = [_reviser_key(pair)]
            self.writing[pair.number] = pair
        lost = self._load([number for number, _ in self.held.groups("compared")])
        written_before = self.held.told([_reviser_key(pair) for pair in lost if pair.kind == "revision"])
        for pair in lost:
            if pair.kind == "revision":
                told = written_before[_reviser_key(pair)][0]
                pair.better, pair.keys = Side(new_id("completion"), written(told.text or "")), [_reviser_key(pair)]
                self._note_reviser(pair, told)
            prepare(pair, self.contents, self.options["votes"])
            pair.keys += [question.key for question in pair.questions]
            self.comparing[pair.number] = pair

    def _take_up(self) -> bool:
        """Ask about the next pairs while there is room; whether any are left."""
        while (room := self.most - len(self.writing) - len(self.comparing)) > 0:
            waiting = self.held.groups("waiting", self._taken, min(room, TOGETHER))
            if not waiting:
                return False
            numbers = [number for number, _ in waiting]
            self._taken = numbers[-1]
            pairs = self._load(numbers)
            self._ask_reviser([pair for pair in pairs if pair.kind == "revision"])
            self._compare([pair for pair in pairs if pair.kind != "revision"])
        return True

    def _load(self, numbers: list[int]) -> list[PairWork]:
        if not numbers:
            return []
        rows = self.held.read(lambda session: list(session.execute(queries.pairs(self.held.id, numbers))))
        pairs = pairs_of(rows)
        for pair in pairs:
            pair.lineage |= {"request": self.held.id, "votes": self.options["votes"]}
        self._note_critiques([pair for pair in pairs if pair.kind == "revision"])
        return pairs

    def _note_critiques(self, pairs: list[PairWork]) -> None:
        """What the originals' graders said stands in the lineage; the reviser is told it."""
        ids = [pair.original.id for pair in pairs]
        rows = self.held.read(lambda session: list(session.execute(queries.CRITIQUES, {"ids": ids}))) if ids else []
        cells: dict[str, dict[str, Any]] = {}
        for row in rows:
            cells.setdefault(row.completion_id, {})[row.criterion] = row
        for pair in pairs:
            criteria = criteria_of(self.contents.of(pair.rubric), pair.prompt)
            mine = cells.get(pair.original.id, {})
            pair.critiques = critiques_for(criteria, mine, {key: cell.critique_id for key, cell in mine.items()})
            told = {criterion.key for criterion in criteria if not criterion.audit}
            pair.lineage["critiques"] = [
                *(critique.id for critique in pair.critiques if critique.id),
                *(name for key, cell in mine.items() if key in told for name in cell.people),
            ]

    def _ask_reviser(self, pairs: list[PairWork]) -> None:
        reviser = self.options["reviser"]
        questions = [
            PlainQuestion(
                _reviser_key(pair),
                queue_of(self.held, reviser),
                reviser,
                [
                    revision_messages(
                        pair.prompt,
                        pair.original.text,
                        pair.critiques,
                        self.contents.of(pair.rubric).guidelines,
                        self.options["prompt_version"],
                    )
                ],
            )
            for pair in pairs
        ]
        for pair in pairs:
            pair.keys = [_reviser_key(pair)]
            self.writing[pair.number] = pair
        if questions:
            self.held.ask([pair.number for pair in pairs], questions, 0)
            self.asked()

    # --- going on ---

    def _advance(self) -> bool:
        """Take what has been answered; whether anything had."""
        if not self.writing and not self.comparing:
            return False
        undone = self.held.undone()
        written_now = [pair for number, pair in sorted(self.writing.items()) if number not in undone]
        graded = [pair for number, pair in sorted(self.comparing.items()) if number not in undone]
        for part in _parts(written_now):
            self._read(part)
        for part in _parts(graded):
            self._decide(part)
        return bool(written_now or graded)

    def _read(self, pairs: list[PairWork]) -> None:
        """Take the revisions: what is none is rejected, the others are graded beside their originals."""
        told = self.held.told([_reviser_key(pair) for pair in pairs])
        good, bad = [], []
        for pair in pairs:
            answer = told[_reviser_key(pair)][0]
            del self.writing[pair.number]
            self._note_reviser(pair, answer)
            refusal = _refusal(pair, answer)
            if refusal is not None:
                bad.append((pair, refusal))
                continue
            pair.better = Side(new_id("completion"), written(answer.text or ""))
            good.append(pair)
        self._finish(bad)
        self._compare(good)

    def _note_reviser(self, pair: PairWork, told: Told) -> None:
        reviser = self.options["reviser"]
        pair.lineage["reviser"] = {
            "judge": reviser,
            "revision": self.held.grading.resolved["judges"][reviser],
            "prompt_version": self.options["prompt_version"],
        }
        pair.reply = told.model_dump(mode="json", exclude={"criterion", "text"})

    def _compare(self, pairs: list[PairWork]) -> None:
        """Have both texts graded, blind: each is asked about by itself, and nothing says which it is."""
        refused = {pair.number: unfit(pair.kind, *pair.texts) for pair in pairs}
        self._finish([(pair, found) for pair in pairs if (found := refused[pair.number]) is not None])
        open_ = [pair for pair in pairs if refused[pair.number] is None]
        for pair in open_:
            prepare(pair, self.contents, self.options["votes"])
            pair.keys += [question.key for question in pair.questions]
            self.comparing[pair.number] = pair
        questions = [question for pair in open_ for question in pair.questions]
        if open_:
            self.held.ask([pair.number for pair in open_], questions, 0, status="compared")
            self.asked()

    def _decide(self, pairs: list[PairWork]) -> None:
        keys = [question.key for pair in pairs for question in pair.questions]
        answers = self.held.answers(keys)
        decided = []
        for pair in pairs:
            take(pair, answers, self.contents.calibrator(pair.rubric))
            del self.comparing[pair.number]
            weights = criterion_weights(pair.criteria)
            keep = pair.kind == "revision"
            found = compare(weights, *pair.cells, margin=self.options["margin"], keep_verifiers=keep)
            decided.append((pair, found))
        self._finish(decided)

    def _finish(self, decided: list[tuple[PairWork, Comparison]]) -> None:
        """Results, and the completions of what was graded, in the transaction that ends their groups."""
        if not decided:
            return
        completions: list[dict[str, Any]] = []
        cells: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for pair, found in decided:
            original, better = pair.original, pair.better
            if pair.cells and better is not None:
                original, better = self._rows(pair, completions, cells)
            pair.lineage["judges"] = _judges(pair)
            done = Pair(pair.kind, pair.number, pair.prompt, original, better, found, pair.lineage)
            row = result_row(done, set(self.options["uses"]))
            row["data"]["reply"] = pair.reply
            results.append({**row, **self._owned, "request_id": self.held.id, "attempt": 1, "step": 0})
        self.decided += len(decided)
        self.rejected += sum(not found.accepted for _, found in decided)

        def also(session: Session) -> None:
            session.execute(*queries.add_results(results))

        self.held.finish(
            [pair.number for pair, _ in decided],
            [key for pair, _ in decided for key in pair.keys],
            completions=completions,
            cells=cells,
            done=self.decided,
            failed=self.rejected,
            also=also,
        )

    @property
    def _owned(self) -> dict[str, Any]:
        return {"project_id": self.held.project_id, "fence": self.held.fence}

    def _rows(
        self, pair: PairWork, completions: list[dict[str, Any]], cells: list[dict[str, Any]]
    ) -> tuple[Side, Side]:
        """Add what was graded; both sides, with the ids of the completions that have the fresh cells."""
        assert pair.better is not None
        regraded = {"purpose": "regraded", "revision_of": None}
        original = {"id": new_id("completion"), **regraded, "source_id": pair.original.id}
        if pair.kind == "revision":
            better = {"id": pair.better.id, "purpose": "revision", "revision_of": pair.original.id, "source_id": None}
        else:
            better = {"id": new_id("completion"), **regraded, "source_id": pair.better.id}
        rows = pair_rows(
            {**self._owned, "grading_id": self.held.id},
            prompt=pair.prompt,
            texts=pair.texts,
            cells=pair.cells,
            criteria=pair.criteria,
            rubric=pair.rubric,
            sides=(original, better),
            number=pair.number,
        )
        completions += rows[0]
        cells += rows[1]
        return replace(pair.original, regraded=original["id"]), replace(pair.better, regraded=better["id"])


def plan(held: HeldGrading, *, revises: bool, options: dict[str, Any]) -> None:
    """Items and groups, unless they are there already."""
    if held.grading.planned:
        return
    source = held.grading.source
    if not held.grading.expanded and "completions" not in source:
        kind = "job" if "job" in source else "grading"
        values = {
            "revises": revises,
            "pairs": "pairs_from_group" in options.get("uses", ("pairs_from_group",)),
            "each": False,
            "per_group": options.get("per_group"),
            **(
                {"job_id": source["job"], "purpose": source["purpose"]}
                if kind == "job"
                else {"source_id": source["grading"]}
            ),
        }
        held.add_items(queries.add_items(kind, each=False), values, expanded=1)
    items, pairs = held.read(lambda session: session.execute(queries.count_items(held.id)).one())
    held.plan(items, pairs)


def _reviser_key(pair: PairWork) -> str:
    return f"{pair.number}/reviser"


def _refusal(pair: PairWork, told: Told) -> Comparison | None:
    """Why there is nothing to compare."""
    if told.text is None:
        return Comparison(reason="no_revision", message=f"the reviser gave no answer ({told.status}): {told.reason}")
    text = written(told.text)
    if not text:
        return Comparison(reason="empty", message="the reviser's answer is empty")
    if text == pair.original.text.strip():
        return EQUAL
    return None


def _judges(pair: PairWork) -> dict[str, int]:
    """The revisions of the judges that graded both."""
    return {
        cell.judge: cell.revision
        for row in pair.cells
        for cell in row.values()
        if cell.judge is not None and cell.revision is not None
    }


def _parts(pairs: list[PairWork]) -> list[list[PairWork]]:
    return [pairs[start : start + TOGETHER] for start in range(0, len(pairs), TOGETHER)]
