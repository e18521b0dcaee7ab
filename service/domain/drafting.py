"""Criteria that a model drafts from better and worse answers, and the checks that each passes or fails before anybody accepts it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from service.domain.base import Value, refuse
from service.domain.conversation import NonEmptyText, Text
from service.domain.dataset import PreferenceRow
from service.domain.grader import JudgeId
from service.domain.grading import Prompt
from service.domain.job import DatasetId
from service.domain.master_keys import PASSES
from service.domain.rubric import Criterion, VersionName
from service.domain.scoring import mean
from service.domain.spending import JudgeBudget

PROMPT_VERSION = 1
MOST_PAIRS = 64
PER_QUESTION = 8
"""Pairs that a drafter sees at once; what it drafts is checked against these."""

SOURCES = ("preferences", "pairs", "examples")
PROBES = ("empty", "prompt_echo", "rubric_echo")


class ExampleIn(Value):
    """An answer that is good, or not."""

    prompt: Prompt
    text: Text
    good: bool


class DraftSpec(Value):
    """What is POSTed to `/v1/rubrics/{id}/drafts`: what to draft from, and who drafts.

    One of `preferences` (a dataset: `most_pairs` of its pairs, evenly spaced), `pairs` and `examples` (good and bad answers).
    `grader`: the judge that the drafts are for, and that grades the checks; the drafter unless said otherwise. `most`: drafts for
    each question of eight pairs. `min_agreement`: the share of pairs that a draft must tell apart the right way, ties half.
    """

    judge: JudgeId
    grader: JudgeId | None = None
    version: VersionName = "latest"
    preferences: DatasetId | None = None
    pairs: Annotated[list[PreferenceRow], Field(min_length=1, max_length=MOST_PAIRS)] | None = None
    examples: Annotated[list[ExampleIn], Field(min_length=2, max_length=2 * MOST_PAIRS)] | None = None
    most_pairs: Annotated[int, Field(ge=1, le=MOST_PAIRS)] = 24
    most: Annotated[int, Field(ge=1, le=12)] = 4
    min_agreement: Annotated[float, Field(ge=0.5, le=1)] = 0.65
    instructions: Annotated[Text, StringConstraints(max_length=20_000)] = ""
    limits: JudgeBudget = JudgeBudget()

    @model_validator(mode="after")
    def _consistent(self) -> DraftSpec:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            said = f", and {' and '.join(given)} are there" if given else ""
            refuse(((), "one_of", f"give exactly one of {', '.join(SOURCES)}{said}"))
        if self.examples is not None and len({example.good for example in self.examples}) < 2:
            missing = "bad" if self.examples[0].good else "good"
            refuse((("examples",), "one_sided", f"there is no {missing} answer among them: nothing to tell apart"))
        if "most_pairs" in self.model_fields_set and self.preferences is None:
            refuse(
                (
                    ("most_pairs",),
                    "invalid_option",
                    "'most_pairs' says how many pairs of a dataset of preferences are read",
                )
            )
        return self


class Probe(Value):
    """What an answer without content scored. `passed`: it got through a criterion that asks for something good."""

    kind: Literal["empty", "prompt_echo", "rubric_echo"]
    status: str
    score: float | None
    passed: bool


class Checks(Value):
    """A draft against the answers that it came from: how many better-and-worse comparisons it decides rightly, wrongly, not at all, and
    how many had no score. `agreement` = (agree + ties/2)/(agree + ties + disagree)."""

    agree: int
    ties: int
    disagree: int
    unjudged: int
    agreement: float | None
    mean_good: float | None
    mean_bad: float | None
    probes: list[Probe]


class Draft(Value):
    """A criterion as it was drafted. `problems`: why it should not be accepted; without any it is `recommended`."""

    key: str
    question: int
    criterion: dict[str, Any] | None
    said: dict[str, Any]
    checks: Checks | None = None
    problems: list[str] = []
    recommended: bool = False


class AcceptedIn(Value):
    """One of the drafts that are accepted; `as` gives it another key."""

    key: NonEmptyText
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    as_: Annotated[NonEmptyText | None, Field(alias="as")] = None


class AcceptIn(Value):
    """Drafts that become criteria of the rubric's next version. `override`: why some are taken that failed a check."""

    criteria: Annotated[list[AcceptedIn], Field(min_length=1, max_length=100)]
    message: Text = ""
    override: Annotated[NonEmptyText, StringConstraints(max_length=2000)] | None = None


def parse_drafts(said: Mapping[str, Any], number: int, judge: str, most: int) -> list[Draft]:
    """The drafts of a reply's object, each valid or with what is wrong with it; at most `most`, keys unique among them."""
    listed = said.get("criteria")
    if not isinstance(listed, list):
        return []
    found: list[Draft] = []
    for position, item in enumerate(listed[:most]):
        raw = item if isinstance(item, dict) else {"text": item}
        key = _free(
            _slug(raw.get("key") or raw.get("title") or f"draft {position + 1}"), {draft.key for draft in found}
        )
        criterion, problem = _criterion(raw, key, judge)
        shown = {name: raw[name] for name in ("key", "title", "text", "good_when_met", "levels", "why") if name in raw}
        problems = [problem] if problem else []
        found.append(Draft(key=key, question=number, criterion=criterion, said=shown, problems=problems))
    return found


def _criterion(raw: Mapping[str, Any], key: str, judge: str) -> tuple[dict[str, Any] | None, str | None]:
    text, title = raw.get("text"), raw.get("title") or ""
    if not isinstance(text, str) or not text.strip() or not isinstance(title, str):
        return None, "it has no text that says what to look for"
    if "{{" in text + title:
        return None, "its text holds a template ({{ … }}), which only an author may write"
    body: dict[str, Any] = {
        "key": key,
        "title": title,
        "text": text,
        "weight": 1.0,
        "grader": {"type": "judge", "judge": judge},
    }
    levels = raw.get("levels")
    if levels:
        if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels) or len(levels) < 2:
            return None, "its levels are not a list of two or more, worst first"
        last = len(levels) - 1
        body["scale"] = {
            "type": "ordinal",
            "levels": [
                {
                    "label": str(level.get("label", place)),
                    "value": place / last,
                    "anchor": str(level.get("anchor") or ""),
                }
                for place, level in enumerate(levels)
            ],
        }
    elif raw.get("good_when_met") is False:
        body["polarity"] = "met_is_bad"
    try:
        return Criterion.model_validate(body).model_dump(mode="json", exclude_unset=True), None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return None, f"{'/'.join(map(str, first['loc']))}: {first['msg']}"


def _slug(name: Any) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")[:40].strip("_")
    return words if re.match(r"[a-z]", words) else f"draft_{words}".strip("_")


def _free(key: str, taken: Collection[str]) -> str:
    number = 2
    found = key
    while found in taken:
        found, number = f"{key}_{number}", number + 1
    return found


Comparison = tuple[float | None, float | None]
"""What the better and the worse answer scored; null without a score."""


def check_draft(comparisons: Sequence[Comparison], probes: Sequence[Probe]) -> Checks:
    """Count them."""
    judged = [(good, bad) for good, bad in comparisons if good is not None and bad is not None]
    agree, disagree = sum(good > bad for good, bad in judged), sum(good < bad for good, bad in judged)
    ties = len(judged) - agree - disagree
    return Checks(
        agree=agree,
        ties=ties,
        disagree=disagree,
        unjudged=len(comparisons) - len(judged),
        agreement=(agree + ties / 2) / len(judged) if judged else None,
        mean_good=mean(good for good, _ in judged) if judged else None,
        mean_bad=mean(bad for _, bad in judged) if judged else None,
        probes=list(probes),
    )


def probe(
    kind: Literal["empty", "prompt_echo", "rubric_echo"], status: str, score: float | None, met_is_bad: bool
) -> Probe:
    """An answer that says nothing has no faults either: it may pass a criterion that is met by what is bad."""
    return Probe(kind=kind, status=status, score=score, passed=not met_is_bad and score is not None and score >= PASSES)


def judged_drafts(drafts: Iterable[Draft], taken: Collection[str], min_agreement: float) -> list[Draft]:
    """All drafts with free keys and their problems: below the agreement, passed by answers that say nothing, said twice."""
    found: list[Draft] = []
    keys, texts = set(taken), dict[str, str]()
    for draft in drafts:
        problems = list(draft.problems)
        text = " ".join(str((draft.criterion or {}).get("text", "")).lower().split())
        if text and text in texts:
            problems.append(f"it says the same as '{texts[text]}'")
        if draft.checks is not None:
            problems += _failed(draft.checks, min_agreement)
        key = _free(draft.key, keys)
        keys.add(key)
        texts.setdefault(text, key)
        criterion = None if draft.criterion is None else {**draft.criterion, "key": key}
        changes = {"key": key, "criterion": criterion, "problems": problems, "recommended": not problems}
        found.append(draft.model_copy(update=changes))
    return found


def _failed(checks: Checks, min_agreement: float) -> list[str]:
    found = []
    if checks.agreement is None:
        found.append("the judge gave no score to compare by")
    elif checks.agreement < min_agreement:
        found.append(
            f"it tells {checks.agreement:.0%} of the answers apart the right way, and {min_agreement:.0%} are asked for"
        )
    said = {
        "empty": "an empty answer",
        "prompt_echo": "the prompt, repeated,",
        "rubric_echo": "its own text, repeated,",
    }
    found += [f"{said[p.kind]} passes it" for p in checks.probes if p.passed]
    if any(p.score is None for p in checks.probes):
        found.append("not every answer without content could be graded")
    return found
