"""One connection to a service with one key: requests with retries that are safe, and the errors that come back."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

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


class Connection:
    """What every group of calls stands on."""

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
