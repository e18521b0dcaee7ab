"""A scripted judge: rules behind an OpenAI-compatible endpoint, for trying the service without a language model.

It is no judge of anything but the demo's two criteria, and it says so in its model name and in every reasoning. What it does
imitate is how judges behave: its scores have noise of a stated size, its confidence is honest but jittered and differs by
criterion, 2 % of its replies are malformed, and now and then it answers 429. All of it follows from a seed and the question,
so the same question is always answered the same way; with `--votes-differ` every vote has noise of its own, as a judge's that is
sampled at a temperature.

    python -m examples.scripted_judge --port 8999 --seed 0
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

MODEL = "scripted-judge"
MALFORMED = 0.02
BUSY = 0.03
RETRY_AFTER_S = "0.2"

HEDGES = re.compile(r"\b(maybe|perhaps|or|who knows|i think)\b")


def commits(answer: str) -> tuple[float, str]:
    """1 for a statement that does not hedge."""
    found = HEDGES.search(answer)
    if found:
        return 0.0, f"it hedges with '{found.group(0)}'"
    if "is" not in answer.split():
        return 0.0, "it states nothing"
    return 1.0, "it states a place without hedging"


def fluent(answer: str) -> tuple[float, str]:
    """Down with every repeated word, and for a missing verb."""
    words = re.findall(r"\w+", answer)
    repeated = len(words) - len(set(words)) - (1 if words.count("the") == 2 else 0)
    score = max(0.0, 1.0 - 0.5 * repeated)
    if "is" not in words and "knows" not in words:
        return 0.4 * score, "there is no sentence in it"
    return (score, f"{repeated} words are repeated") if repeated else (score, "it reads as a sentence")


class Rule:
    """A criterion's rule, the size of its noise, and how sure the judge is of it."""

    def __init__(self, score: Callable[[str], tuple[float, str]], noise: float, confidence: float) -> None:
        self.score, self.noise, self.confidence = score, noise, confidence


RULES = {
    "commits": Rule(commits, noise=0.05, confidence=0.9),
    "fluent": Rule(fluent, noise=0.30, confidence=0.35),
}
"""`noise`: for a yes-or-no criterion the chance of the wrong verdict, for a number the deviation of what is added to it."""


class ScriptedJudge:
    """The endpoint as an ASGI application."""

    def __init__(self, seed: int, votes_differ: bool = False) -> None:
        self.seed, self.votes_differ = seed, votes_differ
        self._busy_once: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI call."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"].endswith("/models"):
            await reply(send, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif scope["path"].endswith("/chat/completions"):
            await self.complete(send, json.loads(body))
        else:
            await reply(send, 404, {"error": {"message": "no such path"}})

    async def complete(self, send: Any, request: dict[str, Any]) -> None:
        """One verdict."""
        question = request["messages"][-1]["content"]
        nonce = re.search(r"^The nonce: (\S+)$", question, re.MULTILINE)
        keys = re.findall(r'^- criterion "([^"]+)"', question, re.MULTILINE)
        answer = re.search(r"^The answer to grade:\n(`+)\n(.*?)\n\1$", question, re.DOTALL | re.MULTILINE)
        prompt = re.search(r"^The prompt:\n(`+)\n(.*?)\n\1$", question, re.DOTALL | re.MULTILINE)
        if nonce is None or answer is None or prompt is None:
            await reply(send, 400, {"error": {"message": "this scripted judge reads only this service's questions"}})
            return
        put = nonce.group(1) if self.votes_differ else ""
        identity = hashlib.sha256(
            f"{self.seed}\n{keys}\n{prompt.group(2)}\n{answer.group(2)}{put}".encode()
        ).hexdigest()
        rng = random.Random(identity)
        if rng.random() < BUSY and identity not in self._busy_once:
            self._busy_once.add(identity)
            await reply(send, 429, {"error": {"message": "busy"}}, [(b"retry-after", RETRY_AFTER_S.encode())])
            return
        verdicts = [verdict(key, answer.group(2), "true if" in question, rng) for key in keys]
        text = json.dumps({"nonce": nonce.group(1), "verdicts": verdicts})
        if rng.random() < MALFORMED:
            text = text[: len(text) // 2]
        usage = {"prompt_tokens": len(question.split()), "completion_tokens": len(text.split())}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        await reply(send, 200, {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


def verdict(key: str, answer: str, boolean: bool, rng: random.Random) -> dict[str, Any]:
    """A noisy verdict with its honest, jittered confidence."""
    rule = RULES.get(key)
    if rule is None:
        return {"criterion": key, "reasoning": "[scripted] no rule for this", "verdict": None, "confidence": None}
    score, reason = rule.score(answer)
    if boolean:
        value: bool | float = (score >= 0.5) != (rng.random() < rule.noise)
    else:
        value = round(min(1.0, max(0.0, score + rng.gauss(0, rule.noise))), 3)
    confidence = round(min(1.0, max(0.0, rule.confidence + rng.uniform(-0.1, 0.1))), 3)
    return {"criterion": key, "reasoning": f"[scripted] {reason}", "verdict": value, "confidence": confidence}


async def reply(send: Any, status: int, body: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """A JSON response."""
    raw = json.dumps(body).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(raw)).encode()),
                *(headers or []),
            ],
        }
    )
    await send({"type": "http.response.body", "body": raw})


async def serve(app: Any, port: int, model: str) -> None:
    """Serve on loopback and say where, as one line of JSON."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
        if task.done():
            task.result()
            return
    bound = server.servers[0].sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"base_url": f"http://127.0.0.1:{bound}/v1", "model": model, "scripted": True}) + "\n")
    sys.stdout.flush()
    await task


def main() -> None:
    """Parse, serve."""
    parser = argparse.ArgumentParser(description="A scripted judge behind an OpenAI-compatible endpoint on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--votes-differ", action="store_true", help="noise of its own for every vote")
    options = parser.parse_args()
    asyncio.run(serve(ScriptedJudge(options.seed, options.votes_differ), options.port, MODEL))


if __name__ == "__main__":
    main()
