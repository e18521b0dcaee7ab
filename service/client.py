"""The HTTP client: what `curl` can do, with retries that are safe, streams that resume, and downloads that verify.

    client = GrapeClient.from_credentials()
    job = client.post("/v1/jobs", {...})
    client.wait(job["id"])

Answers are the API's JSON values. Every POST carries an `Idempotency-Key`, so a retry after a lost answer creates nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

from service.client_base import RETRIED_STATUSES, ApiError, Corrupt, Unreachable, default_folder, find_credentials
from service.client_downloads import DownloadCalls
from service.client_formats import FormatCalls

__all__ = ["TERMINAL", "ApiError", "Corrupt", "GrapeClient", "Unreachable", "default_folder", "find_credentials"]

TERMINAL = ("succeeded", "failed", "cancelled")


class GrapeClient(FormatCalls, DownloadCalls):
    """A connection to one service with one key."""

    # --- rubrics ---

    def publish_version(self, rubric_id: str, content: dict[str, Any], message: str = "") -> dict[str, Any]:
        """Publish a version on top of the latest one."""
        head = self.get(f"/v1/rubrics/{rubric_id}")
        body = {"content": content, "message": message}
        version: dict[str, Any] = self.post(f"/v1/rubrics/{rubric_id}/versions", body, if_match=head["etag"])
        return version

    def validate_rubric(self, content: dict[str, Any], rubric_id: str | None = None) -> dict[str, Any]:
        """Check a content without storing it: what it resolves to, who counts for how much, and what the linter says."""
        body = {"content": content, **({"rubric": rubric_id} if rubric_id else {})}
        checked: dict[str, Any] = self.post("/v1/rubrics/validate", body)
        return checked

    def diff_rubric(self, rubric_id: str, before: int | str, after: int | str) -> dict[str, Any]:
        """What has changed between two versions, each by number or alias; `text` says it for people."""
        found: dict[str, Any] = self.get(f"/v1/rubrics/{rubric_id}/versions/{before}/diff/{after}")
        return found

    def try_version(
        self, rubric_id: str, prompt: str | dict[str, Any], completions: list[str], version: int | str = "latest"
    ) -> list[dict[str, Any]]:
        """Grade a few texts of one prompt at once; nothing is stored. The answer takes as long as the judges do."""
        body = {"prompt": prompt, "completions": completions}
        return self._try(f"/v1/rubrics/{rubric_id}/versions/{version}/try", body)

    def probe_version(
        self, rubric_id: str, prompt: str | dict[str, Any], version: int | str = "latest"
    ) -> dict[str, Any]:
        """What the judges of a version say to answers that say nothing."""
        path = f"/v1/rubrics/{rubric_id}/versions/{version}/probe"
        answer = self.request("POST", path, json={"prompt": prompt}, timeout=httpx.Timeout(600, connect=5), retries=0)
        found: dict[str, Any] = answer.json()
        return found

    def try_draft(
        self,
        content: dict[str, Any],
        prompt: str | dict[str, Any],
        completions: list[str],
        rubric_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """The same by a content that is not published; `rubric_id` says whose next version it would be."""
        body = {"content": content, "prompt": prompt, "completions": completions}
        return self._try("/v1/rubrics/try", {**body, **({"rubric": rubric_id} if rubric_id else {})})

    def _try(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.request("POST", path, json=body, timeout=httpx.Timeout(600, connect=5), retries=0)
        data: list[dict[str, Any]] = answer.json()["data"]
        return data

    # --- datasets ---

    def upload_rows(
        self, dataset_id: str, rows: Iterable[dict[str, Any]] | Path, *, skip_faulty: bool = False
    ) -> dict[str, Any]:
        """Publish a batch: rows, or an NDJSON file. One request, so all of it or nothing."""
        if isinstance(rows, Path):
            content = rows.read_bytes()
        else:
            content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        batch: dict[str, Any] = self.request(
            "POST",
            f"/v1/datasets/{dataset_id}/rows",
            params={"on_error": "skip" if skip_faulty else "abort"},
            content=content,
            headers={"Content-Type": "application/x-ndjson"},
        ).json()
        return batch

    # --- models ---

    def register_model(self, name: str, source: dict[str, Any], timeout_s: float = 3600, **more: Any) -> dict[str, Any]:
        """Register a model, with its kind and normalisation if given, and wait until its files are hashed."""
        model: dict[str, Any] = self.post("/v1/models", {"name": name, "source": source, **more})
        deadline = time.monotonic() + timeout_s
        while model["status"] == "registering":
            if time.monotonic() > deadline:
                raise Unreachable(f"model {model['id']} is still registering after {timeout_s:.0f} s")
            time.sleep(0.5)
            model = self.get(f"/v1/models/{model['id']}")
        if model["status"] == "failed":
            raise ApiError(422, {"code": "model_invalid", "detail": model["error"]})
        return model

    # --- jobs ---

    def events(self, job_id: str, after_seq: int = 0) -> Iterator[dict[str, Any]]:
        """Every event of a job as it happens, until its end; a broken stream is taken up where it broke."""
        failures = 0
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after_seq)}
            try:
                with self._http.stream(
                    "GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=httpx.Timeout(40, connect=5)
                ) as response:
                    if response.status_code in RETRIED_STATUSES:
                        response.read()
                        raise httpx.RemoteProtocolError(f"HTTP {response.status_code}")
                    if not response.is_success:
                        response.read()
                        raise self._error(response)
                    failures = 0
                    for event, data in _sse(response.iter_lines()):
                        if event == "end":
                            return
                        if "seq" not in data:  # the server is about to stop, or the key was revoked: asking again tells
                            break
                        after_seq = data["seq"]
                        yield data
            except httpx.TransportError as error:
                failures += 1
                if failures > 60:
                    raise Unreachable(f"{self.base_url} does not answer: {error}") from None
            time.sleep(min(2.0, 0.25 * 2**failures))

    def wait(
        self,
        job_id: str,
        *,
        until: tuple[str, ...] = TERMINAL,
        timeout_s: float | None = None,
        on_poll: Callable[[dict[str, Any]], None] = lambda job: None,
        every_s: float = 0.5,
    ) -> dict[str, Any]:
        """Poll a job until it is in one of the states `until`, or has ended; the job. `TimeoutError` after `timeout_s`."""
        return self._poll(f"/v1/jobs/{job_id}", until, timeout_s, on_poll, every_s)

    def wait_grading(
        self,
        grading_id: str,
        *,
        timeout_s: float | None = None,
        on_poll: Callable[[dict[str, Any]], None] = lambda grading: None,
        every_s: float = 0.5,
    ) -> dict[str, Any]:
        """Poll a grading until it has ended; the grading. `TimeoutError` after `timeout_s`."""
        return self._poll(f"/v1/gradings/{grading_id}", TERMINAL, timeout_s, on_poll, every_s)

    def _poll(
        self,
        path: str,
        until: tuple[str, ...],
        timeout_s: float | None,
        on_poll: Callable[[dict[str, Any]], None],
        every_s: float,
    ) -> dict[str, Any]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found: dict[str, Any] = self.get(path)
            on_poll(found)
            if found["status"] in until or found["status"] in TERMINAL:
                return found
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{found['id']} is still {found['status']} after {timeout_s:.0f} s")
            time.sleep(every_s)

    def replies(self, completion_id: str, criterion: str, *, grading: str | None = None) -> dict[str, Any]:
        """What the judge of a criterion replied; `grading`: the one that the completion belongs to, for keys that only grade."""
        below = f"/v1/gradings/{grading}" if grading else "/v1"
        found: dict[str, Any] = self.get(f"{below}/completions/{completion_id}/cells/{criterion}/replies")
        return found

    # --- checkpoints ---

    def merge_checkpoint(self, checkpoint_id: str) -> dict[str, Any]:
        """The whole model of an adapter's checkpoint, made by a worker unless there is one already."""
        source: dict[str, Any] = {"checkpoint": checkpoint_id, "merged": True}
        ready = (m for m in self.pages("/v1/models", limit=200, status="ready") if m["source"] == source)
        return next(ready, None) or self.register_model(f"{checkpoint_id} merged", source)


def _sse(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """(event, data) of each message of an event stream."""
    event, data = "message", []
    for line in lines:
        if line.startswith("event:"):
            event = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").strip())
        elif not line:
            if data:
                yield event, json.loads("\n".join(data))
            event, data = "message", []
