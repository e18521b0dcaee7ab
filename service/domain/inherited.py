"""What a judged criterion inherits from its judge (votes, confidence), and what does not go together then.

A criterion's own values are checked where it is parsed; these checks need the judge as it is now, so they are made wherever
criteria meet their judges: at publish and when rows come in, and again when a job or a grading pins them, because a judge may
have changed since, and more may be known about what its endpoint can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from service.domain.abilities import no_logprobs
from service.domain.grader import JudgeGrader
from service.domain.judge import Confidence
from service.domain.rubric import Criterion


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """What criteria inherit from their judge, and what its endpoint is known to lack (`service.domain.abilities.lacking`)."""

    votes: int = 1
    confidence: Confidence = "verbal"
    lacks: Mapping[str, str] = field(default_factory=dict)

    def votes_for(self, grader: JudgeGrader) -> int:
        """How often a criterion is asked."""
        return grader.votes or self.votes

    def confidence_for(self, grader: JudgeGrader) -> Confidence:
        """Where its confidence comes from."""
        return grader.confidence or self.confidence


class Contradiction(NamedTuple):
    """What does not go together: a place below the criterion, and a sentence that says what to do."""

    place: str
    message: str


class Asked(NamedTuple):
    """What counts here of a judged criterion."""

    grader: JudgeGrader
    scale: str


def contradictions(criterion: Criterion, judges: Mapping[str, JudgeFacts]) -> Iterator[Contradiction]:
    """What is wrong with a criterion once its judge's own votes and confidence stand where it says nothing.

    A judge that is not among `judges` is somebody else's fault to report.
    """
    if isinstance(criterion.grader, JudgeGrader):
        yield from contradictions_of(Asked(criterion.grader, criterion.scale.type), judges)


def contradictions_of(asked: Asked, judges: Mapping[str, JudgeFacts]) -> Iterator[Contradiction]:
    """The same, where the rest of the criterion is not at hand."""
    grader = asked.grader
    if grader.judge not in judges:
        return
    facts = judges[grader.judge]
    source = facts.confidence_for(grader)
    inherited = "" if grader.confidence is not None else f", which it inherits from '{grader.judge}',"
    if source == "votes" and facts.votes_for(grader) < 2:
        whose = "it has a single one" if grader.votes is not None else f"'{grader.judge}' gives a single one"
        message = (
            f"confidence 'votes'{inherited} is the agreement of at least two votes, and {whose}; give the criterion 'votes' of 2 "
            "or more, or another 'confidence'"
        )
        yield Contradiction("grader/votes", message)
    if source == "logprob" and asked.scale == "unit":
        message = (
            f"confidence 'logprob'{inherited} compares a few answers by their probabilities, and a unit scale has a continuum of "
            "them; take an ordinal scale, e.g. with the labels 1 to 5, or give the criterion another 'confidence'"
        )
        yield Contradiction("scale", message)
    if source == "logprob" and "logprobs" in facts.lacks:
        yield Contradiction("grader/confidence", no_logprobs(facts.lacks["logprobs"], f"the judge '{grader.judge}'"))


def own_votes(judges: Mapping[str, JudgeFacts]) -> dict[str, int]:
    """Each judge's own number of votes, for criteria that say nothing."""
    return {judge: facts.votes for judge, facts in judges.items()}


def first_contradiction(criteria: Sequence[Criterion], judges: Mapping[str, JudgeFacts]) -> tuple[str, str] | None:
    """The key of the first criterion that cannot be asked as it is, and why; for those who cannot point into the rubric."""
    for criterion in criteria:
        for found in contradictions(criterion, judges):
            return criterion.key, found.message
    return None


def first_in_rows(
    rows: Iterable[tuple[str, str, int | None, Confidence | None, str | None]], judges: Mapping[str, JudgeFacts]
) -> tuple[str, str] | None:
    """The same for judged criteria that prompts bring along: (where it stands, judge, votes, confidence, type of its scale)."""
    for where, judge, votes, confidence, scale in rows:
        grader = JudgeGrader.model_construct(type="judge", judge=judge, votes=votes, confidence=confidence)
        for found in contradictions_of(Asked(grader, scale or "boolean"), judges):
            return where, found.message
    return None
