"""One request for drafts, from its claim to its end: ask for criteria, check each against the answers it came from, keep all.

A group of the request is one question to the drafter: `waiting`, then `asked`, then `compared` while its drafts are checked. All
that is known of it follows from what was answered, so who takes the request up after a death asks nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.asked import Told
from service.domain.base import content_hash
from service.domain.drafting import Comparison, Draft, Probe, check_draft, judged_drafts, parse_drafts, probe
from service.domain.grade import Cell
from service.domain.places import GRADING, GRADING_LOCAL
from service.domain.rubric import PROMPT_PREFIX, RubricContent
from workers.drafting.asking import draft_messages
from workers.graders.judge.reply import objects_in
from workers.runs.gradings import GradingFailure, HeldGrading, PlainQuestion, Question

POLL_S = 0.5

Item = Mapping[str, Any]
"""A prompt with good and bad texts."""


@dataclass(slots=True)
class Drafting:
    """Sees `held` through."""

    held: HeldGrading
    check: Callable[[], None]
    wait: Callable[[float], None]
    asked: Callable[[], None]
    content: RubricContent = field(init=False)
    drafts: dict[int, list[Draft]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (version,) = self.held.grading.resolved["rubrics"].values()
        self.content = RubricContent.model_validate(version["content"])

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for."""
        found: dict[str, Any] = self.held.grading.resolved["drafting"]
        return found

    def run(self) -> None:
        """Until every question is answered and its drafts are checked."""
        waiting = [number for number, _ in self.held.groups("waiting")]
        if waiting:
            self.held.ask(waiting, [self._question(number) for number in waiting], 0)
            self.asked()
        open_ = {number for status in ("asked", "compared") for number, _ in self.held.groups(status)}
        checked = {number for number, _ in self.held.groups("compared")}
        while open_:
            self.check()
            ready = open_ - self.held.undone()
            for number in sorted(ready & checked):
                self._judge(number)
                open_.discard(number)
            for number in sorted(ready - checked):
                self.held.ask([number], self._checks(number), 0, status="compared")
                self.asked()
                checked.add(number)
            done = len(self.drafts)
            self.held.transact(lambda session: None, done=done, failed=len(self.failures))
            if not ready:
                self.wait(POLL_S)
        self._end()

    def _end(self) -> None:
        every = [draft for _, own in sorted(self.drafts.items()) for draft in own]
        if not every:
            reasons = "; ".join(dict.fromkeys(self.failures.values())) or "the drafter wrote no criteria"
            raise GradingFailure("no_drafts", reasons)
        taken = {criterion.key for criterion in self.content.criteria}
        judged = judged_drafts(every, taken, self.options["min_agreement"])
        summary = {
            "drafts": len(judged),
            "recommended": sum(draft.recommended for draft in judged),
            "questions": len(self.options["questions"]),
            "failures": {str(number): reason for number, reason in sorted(self.failures.items())},
        }
        self.held.succeed(
            summary, result={"drafts": [draft.model_dump(mode="json") for draft in judged], "accepted": []}
        )

    # --- asking ---

    def _items(self, number: int) -> Sequence[Item]:
        found: Sequence[Item] = self.options["questions"][number]
        return found

    def _queue(self, judge: str) -> str:
        return GRADING_LOCAL if judge in self.held.grading.resolved["local_judges"] else GRADING

    def _nonce(self, number: int) -> str:
        """Known again after a crash; as good as drawn, since no text can hold what is made of our own id."""
        return content_hash([self.held.id, number, "draft"])[:16]

    def _question(self, number: int) -> PlainQuestion:
        options = self.options
        messages = draft_messages(
            self._items(number),
            self.content.guidelines,
            options["instructions"],
            most=options["most"],
            nonce=self._nonce(number),
            version=options["prompt_version"],
        )
        return PlainQuestion(f"{number}/draft", self._queue(options["judge"]), options["judge"], [messages])

    def _read(self, number: int) -> list[Draft]:
        """What was drafted; empty with a reason among the failures where nothing can be read."""
        (told,) = self.held.told([f"{number}/draft"])[f"{number}/draft"]
        found, failure = read_drafts(told, self._nonce(number), number, self.options["grader"], self.options["most"])
        if failure is not None:
            self.failures[number] = failure
        return found

    def _checks(self, number: int) -> list[Question]:
        """The drafts on the answers that they came from, and on answers without content to the first prompt."""
        drafts = [draft for draft in self._read(number) if draft.criterion is not None]
        if not drafts:
            return []
        (name,) = self.held.grading.resolved["rubrics"]
        queue, keys = self._queue(self.options["grader"]), [f"{PROMPT_PREFIX}.{draft.key}" for draft in drafts]
        asked = []
        for place, item in enumerate(self._items(number)):
            prompt = {**item["prompt"], "criteria": [draft.criterion for draft in drafts]}
            texts = [*item["good"], *item["bad"], *(("", _echo(item["prompt"])) if place == 0 else ())]
            asked.append(Question(f"{number}/answers/{place}", queue, name, prompt, texts, keys))
            if place == 0:
                for k, draft in enumerate(drafts):
                    assert draft.criterion is not None
                    one = [keys[k]]
                    asked.append(Question(f"{number}/echo/{k}", queue, name, prompt, [draft.criterion["text"]], one))
        return asked

    # --- judging ---

    def _judge(self, number: int) -> None:
        """The checks of a question's drafts, from their cells."""
        drafts = self._read(number)
        valid = [draft for draft in drafts if draft.criterion is not None]
        items = self._items(number)
        answers = self.held.answers([question.key for question in self._checks(number)]) if valid else {}
        checked: dict[str, Draft] = {}
        for k, draft in enumerate(valid):
            key = f"{PROMPT_PREFIX}.{draft.key}"
            tables = [[row[key] for row in answers[f"{number}/answers/{place}"]] for place in range(len(items))]
            echo = answers[f"{number}/echo/{k}"][0][key]
            checks = check_draft(self._comparisons(items, tables), _probes(draft, tables[0], items[0], echo))
            checked[draft.key] = draft.model_copy(update={"checks": checks})
        self.drafts[number] = [checked.get(draft.key, draft) for draft in drafts]

    def _comparisons(self, items: Sequence[Item], tables: Sequence[Sequence[Cell]]) -> list[Comparison]:
        """Every better with every worse answer to the same prompt; of examples, whatever their prompts are."""
        goods = [[c.score for c in table[: len(item["good"])]] for item, table in zip(items, tables, strict=True)]
        bads = [
            [c.score for c in table[len(item["good"]) : len(item["good"]) + len(item["bad"])]]
            for item, table in zip(items, tables, strict=True)
        ]
        if self.options["across"]:
            goods, bads = [[s for own in goods for s in own]], [[s for own in bads for s in own]]
        return [(good, bad) for own, others in zip(goods, bads, strict=True) for good in own for bad in others]


def read_drafts(told: Told, nonce: str, number: int, judge: str, most: int) -> tuple[list[Draft], str | None]:
    """The drafts of a reply; or none, and why. Nothing is repaired."""
    if told.text is None:
        return [], f"the drafter did not answer ({told.status}): {told.reason}"
    objects = [item for item in objects_in(told.text) if item.get("nonce") == nonce]
    if len(objects) != 1:
        return [], "the drafter's reply is not one object with the nonce and 'criteria'"
    found = parse_drafts(objects[0], number, judge, most)
    return found, None if found else "the drafter's reply has no list of criteria"


def _probes(draft: Draft, first: Sequence[Cell], item: Item, echo: Cell) -> list[Probe]:
    assert draft.criterion is not None
    bad = draft.criterion.get("polarity") == "met_is_bad"
    empty, prompt = first[len(item["good"]) + len(item["bad"]) :]
    return [
        probe("empty", empty.status, empty.score, bad),
        probe("prompt_echo", prompt.status, prompt.score, bad),
        probe("rubric_echo", echo.status, echo.score, bad),
    ]


def _echo(prompt: Mapping[str, Any]) -> str:
    return str(prompt["messages"][-1]["content"])
