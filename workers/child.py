"""The training child: a process of its own, spawned and preloaded by the supervisor, that runs one attempt of one job.

Its standard input carries wishes, a pipe carries progress back, standard output and error are the job's log. It writes to the
database itself, always under the attempt's fence. If its supervisor dies, it dies.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from service.config import Settings
from service.db.engine import Database
from service.domain.checkpoint import CheckpointFile
from service.domain.dataset import Snapshot
from service.domain.job_state import JobFailure
from service.domain.pinned import PinnedRubrics
from service.lifeline import die_with_parent
from service.queue import Bell, Outbox, celery_app
from service.security import Vault
from service.storage import open_store
from workers.channel import ChildEnd, ParentGone
from workers.launch import launch
from workers.runs.cells import CellDesk
from workers.runs.held import Held, HeldJob, StaleFence, model_folder
from workers.runs.writer import RecordWriter
from workers.training.ports import Interrupted, Suspended

if TYPE_CHECKING:
    from workers.policy.loading import ModelFiles
    from workers.training.team import Team


def preload() -> None:
    """Import what every job needs, while there is no job yet.

    Without the collector: imports make a million objects that live for ever, and looking for garbage among them again and
    again took 1.7 of 4.2 processor seconds. What is here now is never looked at again.
    """
    gc.disable()
    try:
        _import_all()
    finally:
        gc.freeze()
        gc.enable()


def _import_all() -> None:
    import torch  # noqa: F401
    from peft import LoraConfig  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: F401
    from transformers.utils import logging

    import workers.assembly  # noqa: F401

    logging.disable_progress_bar()  # the log is for lines


class Attempt:
    """One attempt of one job."""

    def __init__(
        self, settings: Settings, channel: ChildEnd, job_id: str, fence: int, team: Team | None = None
    ) -> None:
        self.settings, self.channel = settings, channel
        self.database = Database(settings.database, "grape-child")
        self.held = HeldJob(self.database, job_id, fence)
        self.store = open_store(settings.storage)
        self.job: Held | None = None
        self.writer: RecordWriter | None = None
        self.report: dict[str, Any] = {}
        self.team = team

    def run(self) -> dict[str, Any]:
        """Train; the message that tells the supervisor how it ended."""
        try:
            self.job = self.held.read()
            self._train()
            return {"type": "ended", "outcome": "succeeded", **self._result()}
        except Interrupted:
            return {"type": "ended", "outcome": "stopped"}
        except Suspended as reason:
            return {"type": "ended", "outcome": "suspended", "reason": str(reason)}
        except JobFailure as failure:
            return {"type": "ended", "outcome": "failed", "code": failure.code, "message": failure.message}
        except StaleFence as stale:
            return {"type": "ended", "outcome": "lost", "message": str(stale)}
        except Exception as error:
            traceback.print_exc()
            code, message = classify(error)
            return {"type": "ended", "outcome": "failed", "code": code, "message": message}
        finally:
            if self.writer is not None:
                self.writer.close()

    def _train(self) -> None:
        from workers.assembly import Materials, assemble

        assert self.job is not None
        job = self.job
        files = self._model_files(job.spec.policy.model)
        job.resolved["policy"] = {"model": files.id, "sha256": self.held.model(files.id).sha256}
        if "compare_to" in job.resolved:
            other = job.resolved["compare_to"]["model"]
            self._model_files(other)
            job.resolved["compare_to"]["sha256"] = self.held.model(other).sha256
        for model_id, pinned in job.resolved.get("models", {}).items():
            self._model_files(model_id)
            pinned["sha256"] = self.held.model(model_id).sha256
        self._probe_judges(job)
        pinned = [PinnedRubrics.of(job.resolved, field) for field in ("rubric", "evaluation_rubric", "revision_rubric")]
        self.writer = RecordWriter(
            self.held,
            {name: v for found in pinned if found for name, v in found.versions.items()},
            on_step=self.channel.stepped,
        )
        checkpoint = self.held.latest_checkpoint()
        resume = self.store.fetch(checkpoint.location) if checkpoint is not None else None
        bell, outbox = Bell(self.settings.broker), Outbox(self.database, celery_app(self.settings.broker))
        self._say(f"attempt {job.attempt} of {self.held.job_id} ({job.spec.algorithm.type}), fence {self.held.fence}")
        run = assemble(
            Materials(
                spec=job.spec,
                resolved=job.resolved,
                steps=job.steps,
                files=files,
                model_files=self._model_files,
                rows=self._rows,
                desk=lambda name: CellDesk(
                    self.held,
                    job.project_id,
                    name,
                    bell=bell,
                    outbox=outbox,
                    check=self.channel.check,
                    fresh=job.resolved.get("rubrics", {}).get(name, {}).get("afresh", False),
                ),
                recorder=self.writer,
                control=self.channel,
                resume=resume,
                save=self._save,
                finalizing=self.channel.ask_to_finalize,
                stored=self.held.stored,
                job_id=self.held.job_id,
                team=self.team,
            )
        )
        self.held.begin(checkpoint.step if checkpoint is not None else None, job.resolved)
        self.channel.send({"type": "running"})
        self._say(f"running from step {run.state.step} of {run.steps}")
        try:
            run.go()
        finally:
            self.writer.flush()
        self._publish(run.state.step)
        self.report = getattr(run.evaluation, "report", {})

    @staticmethod
    def _say(line: str) -> None:
        print(line, flush=True)  # noqa: T201 (the job's log)

    # --- starting ---

    def _model_files(self, model_id: str) -> ModelFiles:
        """A model's files, once it is registered."""
        from workers.policy.loading import ModelFiles

        while (model := self.held.model(model_id)).status == "registering":
            self.held.reason(f"waiting for model {model_id} to be registered")
            self.channel.check()
            time.sleep(1.0)
        if model.status == "failed":
            raise JobFailure("model_invalid", f"model {model_id} failed to register: {model.error}")
        assert model.files is not None
        files = [CheckpointFile.model_validate(file) for file in model.files]
        base = self._model_files(model.base_model_id) if model.base_model_id else None
        return ModelFiles(model_id, model_folder(model, self.store), files, base)

    def _probe_judges(self, job: Held) -> None:
        """One question to each judge's endpoint: is anybody there? Judges of this machine must be chat models."""
        from workers.graders.judge.probe import probe
        from workers.graders.local.judge import require_chat

        vault = Vault(self.settings.require_secret_key())
        local = job.resolved.get("local_judges", {})
        for model_id in sorted(set(local.values())):
            require_chat(self._model_files(model_id))
        for judge_id, revision in job.resolved["judges"].items():
            if judge_id in local:
                continue
            head, row = self.held.judge(judge_id, revision)
            api_key = vault.open(head.secret, judge_id) if head.secret is not None else None
            problem = probe(row.config["endpoint"]["base_url"], api_key, self.settings.egress.allow)
            if problem is not None:
                raise JobFailure("judge_unreachable", f"judge {judge_id} ({head.name}): {problem}")

    def _rows(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        assert self.job is not None
        for row in self.held.rows(Snapshot.model_validate(self.job.resolved["data"][name])):
            self.channel.check()
            yield row

    # --- checkpoints ---

    def _save(self, policy: Any, optimizer: Any, state: Any) -> None:
        """Everything written so far is durable before the checkpoint is listed, and its files before that."""
        from workers.training.checkpoint import write_checkpoint

        assert self.job is not None
        assert self.writer is not None
        known = self.held.checkpoints()
        if any(checkpoint.step == state.step for checkpoint in known):
            return
        self.writer.flush()
        location = f"projects/{self.job.project_id}/jobs/{self.held.job_id}/{self.held.fence:06d}/step-{state.step:08d}"
        try:
            draft = self.store.draft(location)
            job = {
                "id": self.held.job_id,
                "spec": self.job.spec.model_dump(mode="json"),
                "resolved": self.job.resolved,
            }
            files = write_checkpoint(draft, policy, optimizer, state, job)
            self.store.publish(location)
        except Exception as error:
            self.store.remove(location + ".tmp")
            # A remote store that does not answer may answer the next attempt.
            if disk_is_full(error) or (isinstance(error, OSError) and not self.store.remote):
                said = f"the checkpoint of step {state.step} cannot be written: {error}"
                if self.job.spec.checkpoints.on_checkpoint_error == "continue" and state.step < self.job.steps:
                    self._say(said)
                    self.held.event("checkpoint.failed", {"step": state.step, "reason": said})
                    return
                raise JobFailure("storage_full", said) from error
            raise
        # What was measured at this very step; an older evaluation belongs to an older checkpoint.
        metrics = state.evaluation if state.evaluated_step == state.step else {}
        self.held.register_checkpoint(
            {
                "step": state.step,
                "kind": policy.kind,
                "location": location,
                "files": [file.model_dump() for file in files],
                "metrics": metrics,
            }
        )
        self._publish(state.step)
        self._say(f"checkpoint at step {state.step}")
        self._prune(self.job.spec.checkpoints.keep)

    def _publish(self, step: int) -> None:
        """Accepted revisions go to their datasets once no attempt will do their step again: behind a checkpoint, or at the end."""
        assert self.job is not None
        config = getattr(self.job.spec.algorithm, "revision", None)
        if config is not None:
            named = {kind: getattr(config, kind) for kind in ("preferences", "demonstrations")}
            datasets = {kind: dataset for kind, dataset in named.items() if dataset is not None}
            for kind, rows in self.held.publish_revisions(datasets, step).items():
                self._say(f"{rows} {kind} from revisions in {datasets[kind]}")

    def _prune(self, keep: int) -> None:
        """Keep the newest `keep`, never drop the best or the last, nor what has become a model."""
        listed = self.held.checkpoints()
        best = best_checkpoint(listed, self._best_metrics)
        for checkpoint in listed[:-keep]:
            if (best is None or checkpoint.id != best.id) and self.held.unlist_checkpoint(checkpoint.id):
                self.store.remove(checkpoint.location)

    @property
    def _best_metrics(self) -> tuple[str, ...]:
        from workers.algorithms import ALGORITHMS

        assert self.job is not None
        return ALGORITHMS[self.job.spec.algorithm.type].best_metrics

    def _result(self) -> dict[str, Any]:
        listed = self.held.checkpoints()
        best = best_checkpoint(listed, self._best_metrics) or (listed[-1] if listed else None)
        return {"best": best.id if best else None, "last": listed[-1].id if listed else None, "report": self.report}


def best_checkpoint(listed: list[Any], names: Sequence[str]) -> Any:
    """The best one by the first of these metrics that any has, the newest of equals; null if none was evaluated.

    Higher is better, but for losses.
    """
    for name in names:
        sign = -1 if name.endswith("loss") else 1
        evaluated = [checkpoint for checkpoint in listed if name in checkpoint.metrics]
        if evaluated:
            return max(evaluated, key=lambda c: (sign * c.metrics[name], c.step))
    return None


def disk_is_full(error: Exception) -> bool:
    """Whether a write failed for want of space. safetensors is Rust: it has its own exception, and the errno in the text."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in str(error)


def classify(error: Exception) -> tuple[str, str]:
    """The published code of an unexpected error."""
    name = type(error).__name__
    text = f"{name}: {error}"[:2000]
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "oom_host", text
    if name == "OutOfMemoryError":
        return "oom_gpu", f"{text}; make rollout, batch or training.microbatch_tokens smaller"
    if name == "AcceleratorError" or "CUDA error" in str(error):
        return "cuda_error", text
    if disk_is_full(error):
        return "storage_full", text
    return "internal", text


def main() -> None:
    """A child that was started afresh: `workers.child PROGRESS_FD PARENT`."""
    progress_fd, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(signal.SIGKILL, parent)
    serve(sys.stdin.buffer, progress_fd)


def serve(control: IO[bytes], progress_fd: int) -> None:
    """Wait for a job, run it, tell how it ended. In a forked child the imports have been done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The job's log is standard error: a crash in C leaves its stacks there, and so does the supervisor's SIGUSR1.
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGUSR1, sys.stderr)
    channel = ChildEnd(control, progress_fd)
    try:
        preload()
        channel.send({"type": "ready"})
        message = channel.receive()
    except (ParentGone, BrokenPipeError):
        return
    if message.get("processes", 1) > 1:
        launch(channel, message["job_id"], message["fence"], message["processes"])
        os._exit(0)
    channel.follow(on_gone=lambda: os._exit(1))
    outcome = Attempt(Settings(), channel, message["job_id"], message["fence"]).run()
    sys.stdout.flush()
    sys.stderr.flush()
    channel.send(outcome)
    os._exit(0)  # nothing is left to do, and torch's own teardown takes a second


if __name__ == "__main__":
    main()
