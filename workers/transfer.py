"""Registering models whose files are on the hub, or too large to hash while a client waits."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.db.engine import Database
from service.db.queries import jobs as job_queries
from service.db.queries import models as queries
from service.domain.model import reward_problem
from service.storage import ArtifactStore, ModelFolderError, check_model_folder, hash_model_folder

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
        if "path" in source:
            folder = Path(source["path"]).resolve()
            location = str(folder)
        else:
            folder = self._fetch(f"projects/{project_id}/models/{model_id}", source["hub"])
            location = str(folder)
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
