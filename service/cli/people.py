"""`grape label`, `grape critique`, and what people's labels make of judges and rubrics: agreement, calibrations, diagnostics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from service.cli.common import USAGE, DataDir, Json, Limit, client, err, first, out, print_json, show, show_list, stop
from service.cli.gradings import read_lines

labels = typer.Typer(help="Labels: people's scores of completions.", no_args_is_help=True)
critiques = typer.Typer(help="Critiques: what judges and people wrote about completions.", no_args_is_help=True)

LABEL = ("id", "completion", "criterion", "person", "score", "blind", "comment", "created_at")
CRITIQUE = ("id", "completion", "criterion", "score", "source.type", "ratings", "text")
CALIBRATION = ("id", "version", "revision", "method", "labels", "in_use", "created_at")

Person = Annotated[str | None, typer.Option(help="who says it; the API key without it")]
Blind = Annotated[bool, typer.Option("--blind", help="the person has not seen what judges say")]


def _verdict(text: str) -> Any:
    """`true`, `false`, a number, `null` for what cannot be assessed, or a level's label."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@labels.command("add")
def add(
    completion: str,
    verdicts: Annotated[list[str], typer.Argument(help="criterion=verdict: true, false, a number, a level, or null")],
    comment: Annotated[str | None, typer.Option(help="why; stands with every label")] = None,
    person: Person = None,
    blind: Blind = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Label a completion."""
    given = []
    for item in verdicts:
        criterion, equals, verdict = item.partition("=")
        if not equals:
            stop(f"'{item}' is not of the form criterion=verdict", USAGE)
        given.append({"criterion": criterion, "verdict": _verdict(verdict), "comment": comment})
    with client(data_dir) as api:
        made = api.post(f"/v1/completions/{completion}/labels", {"labels": given, "person": person, "blind": blind})
        show_list(made["data"], as_json, LABEL)


@labels.command("import")
def import_labels(
    file: Annotated[Path, typer.Argument(help="NDJSON, JSON or YAML: {completion, labels, person?, blind?} each")],
    data_dir: DataDir = None,
) -> None:
    """Add the labels of a file, completion by completion; the first that is refused stops it, and a repeat changes nothing."""
    rows = read_lines(file)
    with client(data_dir) as api:
        for number, row in enumerate(track(rows, "labels", console=err, transient=True), 1):
            if not isinstance(row, dict) or "completion" not in row:
                stop(f"entry {number} of {file} names no 'completion'", USAGE)
            body = {name: value for name, value in row.items() if name != "completion"}
            api.post(f"/v1/completions/{row['completion']}/labels", body)
    out.print(f"{len(rows)} completions labelled")


@labels.command("list")
def list_labels(
    completion: str | None = None,
    rubric: str | None = None,
    criterion: str | None = None,
    person: str | None = None,
    history: Annotated[bool, typer.Option("--history", help="also those that were replaced")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 100,
) -> None:
    """List labels, oldest first."""
    query = {"completion": completion, "rubric": rubric, "criterion": criterion, "person": person, "history": history}
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/labels", **query), limit), as_json, LABEL)


@labels.command("queue")
def queue(
    job: str | None = None,
    grading: str | None = None,
    rubric: str | None = None,
    reason: Annotated[str | None, typer.Option(help="disagreement, low_confidence, drift or audit")] = None,
    person: Annotated[str | None, typer.Option(help="for whom")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="show nothing of what judges think")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 20,
) -> None:
    """What is worth labelling, and why."""
    query = {"job": job, "grading": grading, "rubric": rubric, "reason": reason, "person": person, "blind": blind}
    with client(data_dir) as api:
        rows = first(api.pages("/v1/labelling-queue", **query), limit)
    if not as_json:
        rows = [{**row, "reasons": "; ".join(w["message"] or w["type"] for w in row["reasons"])} for row in rows]
    show_list(rows, as_json, ("completion", "criterion", "priority", "score", "confidence", "reasons"))


@labels.command("withdraw")
def withdraw(label_id: str, data_dir: DataDir = None) -> None:
    """A label counts no more; it stays in the history."""
    with client(data_dir) as api:
        api.delete(f"/v1/labels/{label_id}")
    out.print(f"{label_id} is withdrawn")


@critiques.command("list")
def list_critiques(
    job: str | None = None,
    grading: str | None = None,
    completion: str | None = None,
    criterion: str | None = None,
    source: Annotated[str | None, typer.Option(help="judge or person")] = None,
    q: Annotated[str | None, typer.Option(help="text that they contain")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 20,
) -> None:
    """Find critiques."""
    query = {"job": job, "grading": grading, "completion": completion, "criterion": criterion, "source": source, "q": q}
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/critiques", **query), limit), as_json, CRITIQUE)


@critiques.command("rate")
def rate(
    critique_id: str,
    rating: Annotated[str, typer.Argument(help="up or down")],
    person: Person = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """A thumb up or down."""
    if rating not in ("up", "down"):
        stop("a rating is 'up' or 'down'", USAGE)
    with client(data_dir) as api:
        body = {"rating": 1 if rating == "up" else -1, "person": person}
        show(api.put(f"/v1/critiques/{critique_id}/rating", body), as_json, CRITIQUE)


@critiques.command("hide")
def hide(
    critique_id: str,
    reason: str | None = None,
    show_again: Annotated[bool, typer.Option("--undo", help="show it again")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Hide a critique from lists and from revisers."""
    with client(data_dir) as api:
        found = api.patch(f"/v1/critiques/{critique_id}", {"hidden": not show_again, "reason": reason})
        show(found, as_json, (*CRITIQUE, "hidden"))


@critiques.command("correct")
def correct(
    critique_id: str,
    verdict: Annotated[str, typer.Argument(help="what is right: true, false, a number, or a level")],
    text: Annotated[str | None, typer.Option(help="why; becomes a critique of your own")] = None,
    person: Person = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say what a critique should have said: a label."""
    body = {"verdict": _verdict(verdict), "text": text, "person": person}
    with client(data_dir) as api:
        show(api.post(f"/v1/critiques/{critique_id}/corrections", body)["label"], as_json, LABEL)


def calibrate(
    judge_id: str,
    method: Annotated[str, typer.Option(help="isotonic, temperature, or none: as the judge states it")] = "isotonic",
    revision: Annotated[int | None, typer.Option(help="the current one without it")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="only labels by people who had not seen the judge's")] = False,
    diagram: Annotated[Path | None, typer.Option(help="write the reliability diagram there, an SVG")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Fit a judge's confidence to people's labels; jobs and gradings from now on use it."""
    with client(data_dir) as api:
        made = api.post(
            f"/v1/judges/{judge_id}/calibrations", {"method": method, "revision": revision, "blind": blind or None}
        )
        if diagram is not None:
            if method == "none":
                stop("there is nothing to draw: the confidence is taken as it is stated", USAGE)
            path = f"/v1/judges/{judge_id}/calibrations/{made['version']}/diagram"
            diagram.write_bytes(api.request("GET", path).content)
    if as_json:
        print_json(made)
        return
    show(made, False, CALIBRATION)
    rows = [{**c, **c["report"]} for c in made["criteria"]]
    if rows:
        names = ("rubric", "criterion", "source", "labels", "own_curve", "reliability", "bias", "loss_stated")
        show_list(rows, False, (*names, "loss_calibrated"))


def calibrations(judge_id: str, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List a judge's calibrations."""
    with client(data_dir) as api:
        show_list(first(api.pages(f"/v1/judges/{judge_id}/calibrations"), limit), as_json, CALIBRATION)


def agreement(
    judge_id: str,
    with_judge: Annotated[str | None, typer.Option("--with", help="another judge, instead of people")] = None,
    revision: int | None = None,
    rubric: str | None = None,
    criterion: str | None = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """How far a judge agrees with people, or with another judge, criterion by criterion."""
    query = {"with": with_judge, "revision": revision, "rubric": rubric, "criterion": criterion}
    with client(data_dir) as api:
        found = api.get(f"/v1/judges/{judge_id}/agreement", **query)
    if as_json:
        print_json(found)
        return
    rows = [
        {
            "criterion": c["criterion"],
            "texts": c["people"]["texts"],
            **{name: c["people"][name]["value"] for name in ("agreement", "kappa", "weighted_kappa", "alpha", "f1")},
            "ece": c["confidence"]["ece"]["value"] if c["confidence"] else None,
            "advice": "; ".join(c["advice"]),
        }
        for c in found["criteria"]
    ]
    names = ("criterion", "texts", "agreement", "kappa", "weighted_kappa", "alpha", "f1", "ece", "advice")
    show_list(rows, False, names)


def diagnostics(
    rubric_id: str,
    version: Annotated[str, typer.Argument(help="a number, an alias, or latest")] = "latest",
    job: str | None = None,
    grading: str | None = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """What a version's criteria do, and proposals to change them; nothing is changed."""
    with client(data_dir) as api:
        found = api.get(f"/v1/rubrics/{rubric_id}/versions/{version}/diagnostics", job=job, grading=grading)
    if as_json:
        print_json(found)
        return
    names = (
        "criterion",
        "cells",
        "null_share",
        "mean_score",
        "common_share",
        "groups_with_spread",
        "discrimination",
        "length",
    )
    show_list(found["criteria"], False, names)
    for proposal in found["proposals"]:
        out.print(
            f"{proposal['action']} '{proposal['criterion']}': {proposal['because']}", highlight=False, markup=False
        )
