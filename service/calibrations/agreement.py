"""How far a judge agrees with people, with itself and with another judge, criterion by criterion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import BaseModel

from service.domain.agreement import (
    Comparison,
    ConfidenceCheck,
    Level,
    Statistic,
    among,
    check_confidence,
    compare,
    krippendorff_alpha,
    votes_alpha,
)
from service.domain.label import values_of
from service.labelled import JudgedCell, Labelled, newest_of

TRAINABLE_ALPHA, FINE_ALPHA = 0.667, 0.8
"""Krippendorff's customary cut-offs."""
POOR_ECE = 0.15

Revision = tuple[str, int]


class CriterionAgreement(BaseModel):
    """One question, wherever it is asked. `people`: the judge with people (or with the other judge). `among_people`: alpha of
    people with each other. `votes` and `regrades`: alpha of the judge with itself, over votes of one cell, and over cells of one
    text that were asked for afresh; of labelled texts (GET …/self-agreement has all that were voted on). `confidence`: Brier
    score and calibration error of what it stated. `advice`: what that means for training."""

    rubric: str
    criterion: str
    question: str
    scale: str
    people: Comparison | None
    among_people: Statistic | None
    votes: Statistic
    regrades: Statistic
    confidence: ConfidenceCheck | None
    advice: list[str]


class AgreementOut(BaseModel):
    """Undefined is null: where nobody ever varied, no agreement beyond chance can be told from chance."""

    judge: str
    revision: int
    against: dict[str, str | int]
    criteria: list[CriterionAgreement]


LEVELS: dict[str, Level] = {"boolean": "nominal", "nominal": "nominal", "ordinal": "ordinal", "unit": "interval"}
"""Scale -> level of measurement."""


def agreement_of(loaded: Sequence[Labelled], judge: Revision, other: Revision | None = None) -> AgreementOut:
    """Of labelled texts; or, with `other`, of texts that both judges have graded."""
    by_question: dict[str, list[Labelled]] = defaultdict(list)
    for one in loaded:
        by_question[one.question].append(one)
    found = [_criterion(own, judge, other) for _, own in sorted(by_question.items())]
    against: dict[str, str | int] = {"type": "people"}
    if other is not None:
        against = {"type": "judge", "judge": other[0], "revision": other[1]}
    return AgreementOut(
        judge=judge[0], revision=judge[1], against=against, criteria=[one for one in found if one is not None]
    )


def _criterion(own: Sequence[Labelled], judge: Revision, other: Revision | None) -> CriterionAgreement | None:
    ratings, stated = [], []
    last: JudgedCell | None = None
    for one in own:
        cell = newest_of(one.cells, *judge)
        if cell is None or cell.score is None:
            continue
        others = tuple(one.people.values())
        if other is not None:
            second = newest_of(one.cells, *other)
            others = (second.score,) if second is not None and second.score is not None else ()
        if not others:
            continue
        last = cell
        ratings.append((others, cell.score))
        if cell.stated is not None:
            stated.append((cell.stated, ratings[-1]))
    if last is None:
        return None
    level, values = LEVELS[last.asked.scale.type], values_of(last.asked)
    mine = [[c for c in one.cells if (c.judge, c.revision) == judge and c.status == "ok"] for one in own]
    compared = compare(ratings, level, values)
    confidence = check_confidence(stated, values) if other is None else None
    votes = votes_alpha(
        (c.votes, c.score, c.vote_variance) for cells in mine for c in cells if c.score is not None and not c.cached
    )
    afresh = [[c.score for c in cells if c.score is not None and not c.cached] for cells in mine]
    regrades = krippendorff_alpha(afresh, "interval")
    return CriterionAgreement(
        rubric=last.rubric,
        criterion=last.criterion,
        question=last.question,
        scale=last.asked.scale.type,
        people=compared,
        among_people=among([list(one.people.values()) for one in own], level) if other is None else None,
        votes=Statistic(value=votes),
        regrades=Statistic(value=regrades),
        confidence=confidence,
        advice=_advice(compared, confidence, other is None),
    )


def _advice(compared: Comparison | None, confidence: ConfidenceCheck | None, people: bool) -> list[str]:
    found = []
    alpha = compared.alpha.value if compared is not None else None
    if people and alpha is not None and alpha < TRAINABLE_ALPHA:
        found.append(
            f"alpha {alpha:.2f} is below {TRAINABLE_ALPHA}: do not train on this criterion by this judge before it agrees better"
        )
    elif people and alpha is not None and alpha < FINE_ALPHA:
        found.append(f"alpha {alpha:.2f} is below {FINE_ALPHA}: conclusions are tentative")
    ece = confidence.ece.value if confidence is not None else None
    if ece is not None and ece > POOR_ECE:
        found.append(
            f"its confidence is off by {ece:.2f} on average: calibrate it, or aggregate with weighting 'uniform'"
        )
    return found
