"""Registering models."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.config import ModelsSettings
from service.db.queries.models import REGISTER_TASK, TRANSFER_QUEUE, values_from_checkpoint
from service.db.tables import Checkpoint, Job, Model, Outbox
from service.domain.ids import new_id
from service.domain.model import reward_problem
from service.errors import Invalid
from service.model_files import ModelFolderError, check_model_folder, folder_bytes, hash_model_folder
from service.models.schemas import ModelIn, ModelPatch
from service.operation import Caller

HASH_AT_ONCE_BYTES = 256 << 20
"""Up to this size a folder is hashed while the client waits (well under a second); larger ones go to a worker."""

SHOWN_CONFIG = (
    "model_type",
    "architectures",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "max_position_embeddings",
)


async def register_model(
    session: AsyncSession, caller: Caller, settings: ModelsSettings, body: ModelIn, *, share: bool
) -> Model:
    """A model row, ready if its hashes are known already, else `registering` until a worker has made them.

    `share`: its files have to be copied to the remote store first, where every host finds them.
    """
    model = Model(
        id=new_id("model"),
        project_id=caller.project_id,
        name=body.name,
        kind=body.kind,
        source=body.source.model_dump(exclude_none=True),
        status="registering",
        normalisation=body.normalisation.model_dump() if body.normalisation is not None else None,
    )
    if body.source.checkpoint is not None:
        await _from_checkpoint(session, caller, model, body)
    elif body.source.path is not None:
        folder = allowed_folder(body.source.path, settings)
        model.location = str(folder)
        config = read_config(folder)
        problem = reward_problem(config) if body.kind == "reward" else None
        if problem is not None:
            raise Invalid.at("/source/path", "model_invalid", problem)
        model.config = {name: config[name] for name in SHOWN_CONFIG if name in config}
        if not share and folder_bytes(folder) <= HASH_AT_ONCE_BYTES:
            try:
                sha256, files = await asyncio.to_thread(hash_model_folder, folder)
            except OSError as error:
                raise Invalid.at("/source/path", "model_invalid", f"{folder} cannot be read: {error}") from None
            model.status, model.sha256 = "ready", sha256
            model.files = [file.model_dump() for file in files]
    session.add(model)
    await session.flush()
    if model.status == "registering":
        session.add(Outbox(id=new_id("event"), subject_id=model.id, task=REGISTER_TASK, queue=TRANSFER_QUEUE))
        await session.flush()
    await session.refresh(model)
    return model


def allowed_folder(path: str, settings: ModelsSettings) -> Path:
    """The real folder behind `path`, if it lies below an allowed root and holds a model."""
    if not settings.roots:
        raise Invalid.at(
            "/source/path", "path_not_allowed", "local models are off: GRAPE_MODELS__ROOTS names no folder"
        )
    given = Path(path)
    if not given.is_absolute():
        raise Invalid.at(
            "/source/path", "path_not_absolute", f"give an absolute path; '{path}' depends on where the server runs"
        )
    try:
        folder = given.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise Invalid.at("/source/path", "model_invalid", f"'{path}' cannot be read: {error}") from None
    roots = [root.resolve() for root in settings.roots]
    if not any(folder.is_relative_to(root) for root in roots):
        names = ", ".join(str(root) for root in roots)
        raise Invalid.at(
            "/source/path",
            "path_not_allowed",
            f"local models lie below {names} (GRAPE_MODELS__ROOTS); '{path}' does not",
        )
    try:
        check_model_folder(folder)
    except (ModelFolderError, OSError) as error:
        raise Invalid.at("/source/path", "model_invalid", str(error)) from None
    return folder


def read_config(folder: Path) -> dict[str, object]:
    """config.json; an unreadable one is an error now, not in the job."""
    try:
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config, dict):
            raise TypeError("it is not an object")
        return config
    except (OSError, ValueError, TypeError) as error:
        raise Invalid.at("/source/path", "model_invalid", f"{folder}/config.json cannot be read: {error}") from None


async def patch_model(session: AsyncSession, model: Model, body: ModelPatch) -> None:
    """Change what may change. The row must be locked."""
    for name in body.model_fields_set:
        if getattr(body, name) is None:
            raise Invalid.at(f"/{name}", "null", f"'{name}' cannot be null; leave it out to keep it")
    if body.normalisation is not None:
        if model.kind != "reward":
            raise Invalid.at("/normalisation", "invalid_option", "'normalisation' belongs to models of kind 'reward'")
        model.normalisation = body.normalisation.model_dump()
    if body.name is not None:
        model.name = body.name
    model.head_revision += 1
    await session.flush()
    await session.refresh(model)


async def _from_checkpoint(session: AsyncSession, caller: Caller, model: Model, body: ModelIn) -> None:
    checkpoint_id = body.source.checkpoint
    statement = select(Checkpoint).where(Checkpoint.project_id == caller.project_id, Checkpoint.id == checkpoint_id)
    checkpoint = await session.scalar(statement.with_for_update(read=True))  # its job may be pruning it
    if checkpoint is None:
        raise Invalid.at("/source/checkpoint", "not_found", f"there is no checkpoint '{checkpoint_id}'")
    job = await session.get(Job, checkpoint.job_id)
    assert job is not None
    values = values_from_checkpoint(checkpoint, job)
    if "kind" in body.model_fields_set and body.kind != values["kind"]:
        message = f"checkpoint '{checkpoint_id}' of a job of '{job.algorithm}' is a {values['kind']} model"
        raise Invalid.at("/kind", "wrong_kind", message)
    if body.normalisation is not None:
        values["normalisation"] = body.normalisation.model_dump()
    if checkpoint.kind == "adapter" and body.source.merged:
        # A worker adds it to its base. Until then the checkpoint's own location keeps it from being pruned.
        values |= {"source": {"checkpoint": checkpoint.id, "merged": True}, "status": "registering"}
        values |= dict.fromkeys(("files", "sha256", "base_model_id"))
    for name, value in values.items():
        setattr(model, name, value)
