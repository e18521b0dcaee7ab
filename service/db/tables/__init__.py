"""One file per noun; importing this package makes `Base.metadata` whole."""

from service.db.tables.base import Base
from service.db.tables.checkpoints import Checkpoint
from service.db.tables.completions import CachedCell, CellBatch, CellRequest, CellRow, Completion
from service.db.tables.datasets import Dataset, DatasetBatch, DatasetRow
from service.db.tables.gradings import Grading, GradingGroup, GradingItem
from service.db.tables.jobs import Attempt, Job, JobEvent, JobLog, JobMetric, Outbox
from service.db.tables.judges import (
    EndpointAbilities,
    EndpointShare,
    EndpointState,
    Judge,
    JudgeReplies,
    JudgeReservation,
    JudgeRevision,
    JudgeSpending,
)
from service.db.tables.labels import AcceptedDraft, Calibration, Critique, CritiqueRating, HiddenCritique, Label
from service.db.tables.models import Model
from service.db.tables.projects import ApiKey, IdempotencyKey, Project
from service.db.tables.revisions import RevisionResult
from service.db.tables.rubrics import Rubric, RubricAlias, RubricVersion

__all__ = [
    "AcceptedDraft",
    "ApiKey",
    "Attempt",
    "Base",
    "CachedCell",
    "Calibration",
    "CellBatch",
    "CellRequest",
    "CellRow",
    "Checkpoint",
    "Completion",
    "Critique",
    "CritiqueRating",
    "Dataset",
    "DatasetBatch",
    "DatasetRow",
    "EndpointAbilities",
    "EndpointShare",
    "EndpointState",
    "Grading",
    "GradingGroup",
    "GradingItem",
    "HiddenCritique",
    "IdempotencyKey",
    "Job",
    "JobEvent",
    "JobLog",
    "JobMetric",
    "Judge",
    "JudgeReplies",
    "JudgeReservation",
    "JudgeRevision",
    "JudgeSpending",
    "Label",
    "Model",
    "Outbox",
    "Project",
    "RevisionResult",
    "Rubric",
    "RubricAlias",
    "RubricVersion",
]
