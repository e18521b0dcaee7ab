"""The HTTP client: what `curl` can do, with retries that are safe, streams that resume, and downloads that verify.

    client = GrapeClient.from_credentials()
    job = client.post("/v1/jobs", {...})
    client.wait(job["id"])

Answers are the API's JSON values. Every POST carries an `Idempotency-Key`, so a retry after a lost answer creates nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from service.client_formats import FormatCalls

TERMINAL = ("succeeded", "failed", "cancelled")
RETRIES = 4
RETRIED_STATUSES = (429, 502, 503, 504)


class ApiError(Exception):
    """The service refused: a sentence, a stable code, and the faults of a validation error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.code: str = body.get("code") or "unknown"
        self.message: str = body.get("detail") or f"HTTP {status}"
        self.errors: list[dict[str, Any]] = body.get("errors") or []
        self.request_id: str | None = body.get("request_id")
        super().__init__(self.message)


class Unreachable(Exception):
    """No answer from the service."""


class Corrupt(Exception):
    """A downloaded file is not what the checkpoint's manifest says."""


def find_credentials(data_dir: Path | None = None) -> tuple[str, str]:
    """Base address and key: `GRAPE_BASE_URL` and `GRAPE_API_KEY`, else the `credentials.json` of `grape up`'s data folder."""
    if data_dir is None and os.environ.get("GRAPE_BASE_URL") and os.environ.get("GRAPE_API_KEY"):
        return os.environ["GRAPE_BASE_URL"], os.environ["GRAPE_API_KEY"]
    folder = data_dir or Path(os.environ.get("GRAPE_DATA_DIR") or default_folder())
    try:
        found = json.loads((folder / "credentials.json").read_text())
        return found["base_url"], found["api_key"]
    except (OSError, ValueError, KeyError):
        raise Unreachable(
            f"no credentials in {folder}; start the stack with `grape up`, name its folder with --data-dir, "
            "or set GRAPE_BASE_URL and GRAPE_API_KEY"
        ) from None


def default_folder() -> Path:
    """Where `grape up` keeps its data if it is not told otherwise."""
    return Path("/var/lib/grape") if os.geteuid() == 0 else Path.home() / ".grape"


class GrapeClient(FormatCalls):
    """A connection to one service with one key."""

    def __init__(self, base_url: str, api_key: str, timeout_s: float = 60.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=False,
        )

    @classmethod
    def from_credentials(cls, data_dir: Path | None = None) -> Self:
        """A client for the service of the environment or of a data folder."""
        return cls(*find_credentials(data_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request, repeated where that is safe; `ApiError` for what the service refuses. `retries=0`: asked once."""
        headers = dict(options.pop("headers", None) or {})
        retries = options.pop("retries", RETRIES)
        if method == "POST":
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        for attempt in range(retries + 1):
            last = attempt == retries
            try:
                response = self._http.request(method, path, headers=headers, **options)
            except httpx.TransportError as error:
                if last or method not in ("GET", "HEAD", "POST"):
                    raise Unreachable(f"{self.base_url} does not answer: {error}") from None
            else:
                if response.is_success or response.status_code == 304:
                    return response
                if response.status_code not in RETRIED_STATUSES or last:
                    raise self._error(response)
            time.sleep(min(4.0, 0.25 * 2**attempt))
        raise AssertionError("unreachable")

    @staticmethod
    def _error(response: httpx.Response) -> ApiError:
        try:
            body = response.json()
        except ValueError:
            body = {"detail": f"HTTP {response.status_code}: {response.text[:200]}"}
        return ApiError(response.status_code, body if isinstance(body, dict) else {})

    def get(self, path: str, **query: Any) -> Any:
        """GET; query parameters that are null are left out."""
        return self.request("GET", path, params={k: v for k, v in query.items() if v is not None}).json()

    def post(self, path: str, body: Any = None, *, if_match: str | None = None) -> Any:
        """POST a JSON body."""
        headers = {"If-Match": if_match} if if_match else {}
        response = self.request("POST", path, json=body, headers=headers) if body is not None else self.request(
            "POST", path, headers=headers
        )  # fmt: skip
        return response.json()

    def patch(self, path: str, body: Any, *, if_match: str | None = None) -> Any:
        """PATCH with a JSON body."""
        return self.request("PATCH", path, json=body, headers={"If-Match": if_match} if if_match else {}).json()

    def put(self, path: str, body: Any, *, if_match: str | None = None) -> Any:
        """PUT a JSON body."""
        return self.request("PUT", path, json=body, headers={"If-Match": if_match} if if_match else {}).json()

    def delete(self, path: str) -> None:
        """DELETE."""
        self.request("DELETE", path)

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every row of a list, page after page."""
        token: str | None = None
        while True:
            page = self.get(path, page_token=token, **query)
            yield from page["data"]
            token = page["next_page_token"]
            if token is None:
                return

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
                    if not response.is_success:
                        response.read()
                        raise self._error(response)
                    failures = 0
                    for event, data in _sse(response.iter_lines()):
                        if event == "end":
                            return
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

    # --- checkpoints ---

    def download_checkpoint(
        self, checkpoint_id: str, folder: Path, on_bytes: Callable[[int], None] = lambda count: None
    ) -> dict[str, Any]:
        """Download every file, resuming half-finished ones, and verify size and sha256; the checkpoint.

        A file appears under its name only once it has verified.
        """
        return self._download_all(f"/v1/checkpoints/{checkpoint_id}", folder, on_bytes)

    def download_model(
        self, model_id: str, folder: Path, on_bytes: Callable[[int], None] = lambda count: None
    ) -> dict[str, Any]:
        """The same of a model that was trained here; the model."""
        return self._download_all(f"/v1/models/{model_id}", folder, on_bytes)

    def merge_checkpoint(self, checkpoint_id: str) -> dict[str, Any]:
        """The whole model of an adapter's checkpoint, made by a worker unless there is one already."""
        source: dict[str, Any] = {"checkpoint": checkpoint_id, "merged": True}
        ready = (m for m in self.pages("/v1/models", limit=200, status="ready") if m["source"] == source)
        return next(ready, None) or self.register_model(f"{checkpoint_id} merged", source)

    def _download_all(self, path: str, folder: Path, on_bytes: Callable[[int], None]) -> dict[str, Any]:
        found: dict[str, Any] = self.get(path)
        for file in found["files"]:
            target = (folder / file["path"]).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise Corrupt(f"{path} names a file outside its folder: {file['path']}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and _sha256(target) == file["sha256"]:
                on_bytes(file["bytes"])
                continue
            self._download(f"{path}/files/{file['path']}", target, file, on_bytes)
        return found

    def _download(self, path: str, target: Path, file: dict[str, Any], on_bytes: Callable[[int], None]) -> None:
        part = target.with_name(target.name + ".part")
        for attempt in range(RETRIES + 1):
            have = part.stat().st_size if part.exists() else 0
            if have > file["bytes"]:
                part.unlink()
                have = 0
            try:
                if have < file["bytes"] or not have:
                    self._fetch(path, part, have, file["sha256"], on_bytes)
                break
            except httpx.TransportError as error:
                if attempt == RETRIES:
                    raise Unreachable(f"{self.base_url} does not answer: {error}") from None
                time.sleep(0.5 * 2**attempt)
        if _sha256(part) != file["sha256"]:
            part.unlink()
            raise Corrupt(
                f"{file['path']}: the downloaded bytes do not have the sha256 of the manifest; download it again"
            )
        os.replace(part, target)

    def _fetch(self, path: str, part: Path, have: int, sha256: str, on_bytes: Callable[[int], None]) -> None:
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{sha256}"'} if have else {}
        with self._http.stream("GET", path, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise self._error(response)
            resumed = response.status_code == 206
            with part.open("ab" if resumed else "wb") as stream:
                if resumed:
                    on_bytes(have)
                for block in response.iter_bytes(1 << 20):
                    stream.write(block)
                    on_bytes(len(block))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
