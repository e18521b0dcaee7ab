"""How much counts for what: modules and criteria that drown the others, weights that do nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from service.domain.base import Value
from service.domain.diff import shares
from service.domain.lint.finding import Finding, Subject

MODULE_SHARE = 0.75
CRITERION_SHARE = 0.6
ONE_OF_TWO_SHARE = 0.9
LEAST_SHARE = 0.005


class Shares(Value):
    """Shares of Σw: by criterion, and by module (`""`: the rubric's own criteria)."""

    criteria: dict[str, float]
    modules: dict[str, float]


def shares_of(subject: Subject) -> Shares:
    """Who counts for how much; audit criteria count for nothing."""
    by_criterion = shares(subject.flat.criteria)
    modules: dict[str, list[float]] = {}
    for key, share in by_criterion.items():
        modules.setdefault(key.split(".")[0] if "." in key else "", []).append(share)
    return Shares(criteria=by_criterion, modules={name: math.fsum(parts) for name, parts in modules.items()})


def rules(subject: Subject) -> Iterator[Finding]:
    """Weights as authors rarely mean them."""
    found = shares_of(subject)
    places = {criterion.key: place for place, criterion in subject.everything()}
    yield from _modules(subject, found.modules)
    yield from _criteria(found.criteria, places)


def _modules(subject: Subject, modules: Mapping[str, float]) -> Iterator[Finding]:
    if len(modules) < 2:
        return
    name, share = max(modules.items(), key=lambda item: (item[1], item[0]))
    if share <= MODULE_SHARE:
        return
    told = ", ".join(f"{other or 'own criteria'} {part:.0%}" for other, part in modules.items())
    places = {include.as_: f"/includes/{k}/weight" for k, include in enumerate(subject.authored.includes)}
    who = f"the module '{name}' counts" if name else "the rubric's own criteria count"
    message = (
        f"{who} for {share:.0%} of the weight ({told}); weights of a module add up, so lower the include's 'weight'"
    )
    yield Finding(code="dominant_module", severity="warning", pointer=places.get(name, "/criteria"), message=message)


def _criteria(by_criterion: Mapping[str, float], places: Mapping[str, str]) -> Iterator[Finding]:
    if len(by_criterion) < 2:
        return
    key, share = max(by_criterion.items(), key=lambda item: (item[1], item[0]))
    if share > (ONE_OF_TWO_SHARE if len(by_criterion) == 2 else CRITERION_SHARE):
        message = (
            f"'{key}' counts for {share:.0%} of the weight, so the others hardly move the reward; lower its weight, or make it a "
            "gate if it is a condition"
        )
        yield _weight(places, key, "dominant_criterion", message)
    for name, part in by_criterion.items():
        if part < LEAST_SHARE:
            message = f"'{name}' counts for {part:.2%} of the weight: judging it is paid for and changes nothing; raise it or drop it"
            yield _weight(places, name, "weight_extremes", message)


def _weight(places: Mapping[str, str], key: str, code: str, message: str) -> Finding:
    return Finding(code=code, severity="warning", pointer=f"{places[key]}/weight", message=message)
