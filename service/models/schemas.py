"""What goes in and out of `/v1/models`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, model_validator

from service.db.tables import Model
from service.domain.base import Value, refuse
from service.domain.conversation import Name, NonEmptyText
from service.domain.model import UNNORMALISED_WARNING, ModelKind, Normalisation

HubName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?(@[\w.\-/]+)?$", max_length=200)]


class ModelSource(Value):
    """Exactly one place: a local folder, a name on the hub (with `@revision` if wanted), or a checkpoint of ours.

    `merged`: an adapter's checkpoint becomes a whole model, the adapter added to the weights that it was trained on.
    """

    path: NonEmptyText | None = None
    hub: HubName | None = None
    checkpoint: Annotated[str, StringConstraints(pattern=r"^ckpt_[0-9a-z]+$")] | None = None

    merged: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> ModelSource:
        if sum(place is not None for place in (self.path, self.hub, self.checkpoint)) != 1:
            refuse(((), "one_of", "give exactly one of 'path', 'hub' and 'checkpoint'"))
        if self.merged and self.checkpoint is None:
            refuse((("merged",), "invalid_option", "only an adapter's checkpoint can be merged: give 'checkpoint'"))
        return self


class ModelIn(Value):
    """A new model: one to train or to ask (`policy`), or one that scores (`reward`)."""

    name: Name
    source: ModelSource
    kind: ModelKind = "policy"
    normalisation: Normalisation | None = None

    @model_validator(mode="after")
    def _constants_go_with_reward(self) -> ModelIn:
        if self.normalisation is not None and self.kind != "reward":
            refuse((("normalisation",), "invalid_option", "'normalisation' belongs to models of kind 'reward'"))
        return self


class ModelPatch(Value):
    """Changes; absent fields stay. Jobs that were submitted before keep the constants that they were submitted with."""

    name: Name | None = None
    normalisation: Normalisation | None = None


class PromoteIn(Value):
    """What the model of a checkpoint is to be called; `merged` makes a whole model of an adapter."""

    name: Name
    merged: bool = False


class ModelOut(BaseModel):
    """A model; `sha256` over its files is its identity, checked again whenever it is loaded."""

    id: str
    name: str
    kind: str
    source: dict[str, Any]
    status: str
    error: str | None
    base_model: str | None
    sha256: str | None
    files: list[dict[str, Any]] | None
    config: dict[str, Any] | None
    normalisation: Normalisation | None
    warnings: list[str]
    etag: str
    created_at: datetime

    @classmethod
    def of(cls, row: Model) -> ModelOut:
        """From its row."""
        return cls(
            id=row.id,
            name=row.name,
            kind=row.kind,
            source=row.source,
            status=row.status,
            error=row.error,
            base_model=row.base_model_id,
            sha256=row.sha256,
            files=row.files,
            config=row.config,
            normalisation=None if row.normalisation is None else Normalisation.model_validate(row.normalisation),
            warnings=warnings(row),
            etag=etag(row),
            created_at=row.created_at,
        )


def etag(row: Model) -> str:
    """Changes with every change of what may change."""
    return f'"{row.id}-{row.head_revision}"'


def warnings(row: Model) -> list[str]:
    """What is allowed and probably not meant."""
    return [UNNORMALISED_WARNING] if row.kind == "reward" and row.normalisation is None else []
