"""Registering models whose files are on the hub, too large to hash while a client waits, or still an adapter and its base."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service.db.engine import Database
from service.db.queries import jobs as job_queries
from service.db.queries import models as queries
from service.domain.checkpoint import MANIFEST
from service.domain.model import reward_problem
from service.lifeline import wrapper
from service.model_files import ModelFolderError, check_model_folder, hash_model_folder, model_paths
from service.storage import ArtifactStore
from workers.runs.held import model_folder

log = logging.getLogger(__name__)

LEASE_S = 3600.0
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(slots=True)
class Registrar:
    """Takes models that are `registering`, one at a time."""

    database: Database
    store: ArtifactStore

    def register_next(self) -> bool:
        """Fetch and hash one; false if none waits. What goes wrong is the model's `error`, in a sentence."""
        with self.database.transaction() as session:
            row = session.execute(queries.claim_registering(LEASE_S)).first()
            if row is None:
                return False
            session.execute(job_queries.forget_messages(row.id))
        try:
            values = self._register(row.id, row.project_id, row.kind, row.source)
        except Exception as error:
            log.warning("model %s: %s", row.id, error)
            values = {"status": "failed", "error": f"{type(error).__name__}: {error}"[:1000]}
        with self.database.transaction() as session:
            session.execute(queries.finish_registering(row.id, values))
        return True

    def _register(self, model_id: str, project_id: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
        if source.get("merged"):
            location = self._merge(f"projects/{project_id}/models/{model_id}", source["checkpoint"], kind)
            folder = self.store.fetch(location)
        elif "path" in source:
            folder = Path(source["path"]).resolve()
            location = self._share(f"projects/{project_id}/models/{model_id}", folder)
        else:
            location = f"projects/{project_id}/models/{model_id}"
            folder = self._fetch(location, source["hub"])
        check_model_folder(folder)
        problem = reward_problem(json.loads((folder / "config.json").read_text())) if kind == "reward" else None
        if problem is not None:
            raise ModelFolderError(problem)
        sha256, files = hash_model_folder(folder)
        return {
            "status": "ready",
            "location": location,
            "sha256": sha256,
            "files": [file.model_dump() for file in files],
        }

    def _merge(self, location: str, checkpoint_id: str, kind: str) -> str:
        """A checkpoint's adapter added to its base, in a process of its own: torch's memory goes when it ends."""
        with self.database.transaction() as session:
            checkpoint, job = session.execute(queries.checkpoint_with_job(checkpoint_id)).one()
            base = self._files(session, job.project_id, job.spec["policy"]["model"])
            own = [file for file in checkpoint.files if "/" not in file["path"] and file["path"] != MANIFEST]
            folder = str(self.store.fetch(checkpoint.location))
            asked = {"id": checkpoint.id, "folder": folder, "files": own, "base": base}
        draft = self.store.draft(location)
        try:
            done = subprocess.run(
                [*wrapper(signal.SIGKILL), sys.executable, "-m", "workers.merging", kind, str(draft)],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                said = done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"]
                raise ModelFolderError(f"checkpoint '{checkpoint_id}' could not be merged: {said[-1]}")
            self.store.publish(location)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return location

    def _share(self, location: str, folder: Path) -> str:
        """A model in a folder of this host stays there, unless other hosts need it: then it is copied to the remote store."""
        if not self.store.remote:
            return str(folder)
        check_model_folder(folder)
        draft = self.store.draft(location)
        try:
            for path in model_paths(folder):
                shutil.copyfile(path, draft / path.name)
            self.store.publish(location)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return location

    def _files(self, session: Session, project_id: str, model_id: str) -> dict[str, Any]:
        """A model's files, its base's below them, as `workers.merging` reads them."""
        model = session.scalars(queries.model(project_id, model_id)).one()
        base = self._files(session, project_id, model.base_model_id) if model.base_model_id else None
        return {
            "id": model.id,
            "folder": str(model_folder(model, self.store)),
            "files": model.files or [],
            "base": base,
        }

    def _fetch(self, location: str, name: str) -> Path:
        """The model's files from the hub, into the artifact store; safetensors and JSON only."""
        from huggingface_hub import snapshot_download

        repository, _, revision = name.partition("@")
        draft = self.store.draft(location)
        try:
            snapshot_download(repository, revision=revision or None, allow_patterns=WANTED, local_dir=draft)
            shutil.rmtree(draft / ".cache", ignore_errors=True)
            check_model_folder(draft)
        except ModelFolderError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise ModelFolderError(f"'{name}' could not be fetched from the hub: {error}") from error
        return self.store.publish(location)
