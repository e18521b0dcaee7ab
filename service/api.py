"""One line per resource."""

from __future__ import annotations

from fastapi import APIRouter

from service.calibrations.endpoints import calibrations
from service.checkpoints.endpoints import checkpoints
from service.completions.comparisons import comparisons
from service.completions.endpoints import completions
from service.completions.replies import replies
from service.critiques.endpoints import critiques
from service.critiques.endpoints_diagnostics import diagnostics
from service.critiques.endpoints_labels import labels
from service.critiques.endpoints_queue import labelling_queue
from service.datasets.endpoints import datasets
from service.datasets.endpoints_formats import dataset_formats
from service.gradings.endpoints import gradings
from service.health import health
from service.jobs.endpoints import jobs
from service.judges.endpoints import judges
from service.judges.self_agreement import judge_agreement
from service.models.endpoints import models
from service.projects.endpoints import projects
from service.revisions.endpoints import revisions
from service.rubrics.endpoints import rubrics
from service.rubrics.endpoints_drafts import rubric_drafts
from service.rubrics.endpoints_formats import rubric_formats
from service.telemetry import telemetry

ROUTERS: tuple[APIRouter, ...] = (
    health,
    telemetry,
    projects,
    rubric_formats,
    rubric_drafts,
    rubrics,
    judges,
    judge_agreement,
    models,
    datasets,
    dataset_formats,
    jobs,
    completions,
    replies,
    comparisons,
    gradings,
    revisions,
    calibrations,
    critiques,
    labels,
    labelling_queue,
    diagnostics,
    checkpoints,
)
