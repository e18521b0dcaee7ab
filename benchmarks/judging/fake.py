"""A fake judge on loopback: `python -m benchmarks.judging.fake`. It answers after a latency, and fails as often as it is told.

`PUT /mode` sets the latency (seconds, uniform ± `jitter`), the shares of 500s and 429s, and the Retry-After of these; `GET /stats`
says what came: calls, most in flight, and calls that came again before their Retry-After. It is a bare protocol on one loop, so
that it costs as little as possible of the two cores that are measured.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

NONCE = re.compile(r"^The nonce: (\S+)$", re.MULTILINE)
CRITERION = re.compile(r'^- criterion "([^"]+)"', re.MULTILINE)


@dataclass
class Mode:
    """How it behaves."""

    latency: float = 0.0
    jitter: float = 0.0
    errors: float = 0.0
    limited: float = 0.0
    retry_after: float = 2.0
    seed: int = 0


@dataclass
class Stats:
    """What came since the mode was set."""

    calls: int = 0
    answered: int = 0
    errors: int = 0
    limited: int = 0
    early: int = 0
    most_in_flight: int = 0
    in_flight: int = 0
    first_at: float | None = None
    last_at: float | None = None


@dataclass
class Judge:
    """The behaviour; one for all connections."""

    mode: Mode = field(default_factory=Mode)
    stats: Stats = field(default_factory=Stats)
    not_before: dict[str, float] = field(default_factory=dict)
    dice: random.Random = field(default_factory=random.Random)

    def set(self, mode: Mode) -> None:
        """Behave like this from now on, and count anew."""
        self.mode, self.stats, self.not_before = mode, Stats(), {}
        self.dice = random.Random(mode.seed)

    def question(self, raw: bytes) -> tuple[float, bytes]:
        """When to answer (seconds from now), and what."""
        now = time.monotonic()
        stats, mode = self.stats, self.mode
        stats.calls += 1
        stats.first_at = stats.first_at or now
        stats.in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
        content = json.loads(raw)["messages"][-1]["content"]
        nonce = NONCE.findall(content)[-1]
        who = content.replace(nonce, "")
        if self.not_before.pop(who, 0.0) > now:
            stats.early += 1
        roll = self.dice.random()
        if roll < mode.limited:
            stats.limited += 1
            self.not_before[who] = now + mode.retry_after
            return 0.0, _http(429, {"error": {"message": "slow down"}}, f"retry-after: {mode.retry_after:g}\r\n")
        latency = mode.latency * (1.0 + mode.jitter * self.dice.uniform(-1.0, 1.0))
        if roll < mode.limited + mode.errors:
            stats.errors += 1
            return latency, _http(500, {"error": {"message": "out of order"}})
        stats.answered += 1
        verdicts = [
            {"criterion": key, "reasoning": "It reads well enough.", "verdict": len(content) % 3 > 0, "confidence": 0.8}
            for key in CRITERION.findall(content)
        ]
        reply = json.dumps({"nonce": nonce, "verdicts": verdicts})
        body = {
            "choices": [{"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(content) // 4, "completion_tokens": len(reply) // 4},
        }
        return latency, _http(200, body)

    def gone(self) -> None:
        """A call has its answer."""
        self.stats.in_flight -= 1
        self.stats.last_at = time.monotonic()


def _http(status: int, body: Any, more: str = "") -> bytes:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n{more}\r\n"
    return head.encode() + raw


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests on it come one after another."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.buffer = judge, b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """More bytes; perhaps a whole request."""
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.buffer[:head_end].decode("latin-1").lower()
        found = re.search(r"content-length: *(\d+)", head)
        end = head_end + 4 + (int(found.group(1)) if found else 0)
        if len(self.buffer) < end:
            return
        body, self.buffer = self.buffer[head_end + 4 : end], self.buffer[end:]
        self._request(head.split(" ", 2)[1], body)

    def _request(self, path: str, body: bytes) -> None:
        if path.endswith("/chat/completions"):
            latency, answer = self.judge.question(body)
            if latency > 0:
                asyncio.get_running_loop().call_later(latency, self._answer, answer)
            else:
                self._answer(answer)
        elif path == "/mode":
            self.judge.set(Mode(**json.loads(body)))
            self.transport.write(_http(200, {}))
        elif path == "/stats":
            self.transport.write(_http(200, asdict(self.judge.stats)))
        else:
            self.transport.write(_http(200, {"data": []}))

    def _answer(self, answer: bytes) -> None:
        self.judge.gone()
        if not self.transport.is_closing():
            self.transport.write(answer)


async def serve() -> None:
    """Listen on any port, and say which."""
    judge = Judge()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(judge), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
