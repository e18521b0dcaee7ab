"""A judge's endpoint over real sockets, with a behaviour that a test writes as a function."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from dataclasses import dataclass, field

import uvicorn


@dataclass
class Question:
    """What was asked."""

    body: dict
    text: str
    nonce: str
    criteria: list
    answer: str
    headers: dict
    at: float
    port: int = 0


def verdict(question, value=True, confidence=0.8, reasoning="because"):
    """The content of a well-formed reply."""
    verdicts = [
        {"criterion": key, "reasoning": reasoning, "verdict": value, "confidence": confidence}
        for key in question.criteria
    ]
    return json.dumps({"nonce": question.nonce, "verdicts": verdicts})


def completion(content, finish="stop", logprobs=None, **message):
    """A whole answer of the endpoint; `logprobs` are the entries of `logprobs.content`."""
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    return 200, {}, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def spoken(*tokens):
    """An answer token by token: each a text, or (text, {token: probability}) with what else could have stood there."""
    entries = []
    for token in tokens:
        text, others = (token, {token: 1.0}) if isinstance(token, str) else token
        listed = [
            {"token": t, "bytes": list(t.encode()), "logprob": math.log(p) if p > 0 else -9999.0}
            for t, p in others.items()
        ]
        mine = next(entry for entry in listed if entry["token"] == text)
        entries.append({**mine, "top_logprobs": listed})
    return completion("".join(entry["token"] for entry in entries), logprobs=entries)


@dataclass
class FakeJudge:
    """`answer(question)` gives the reply's text, or (status, headers, body), or a coroutine of either.

    A request with a field among `refuses` is answered with a 400 that names it, as servers do that do not know the field.
    """

    answer: object = verdict
    refuses: tuple = ()
    refused: list = field(default_factory=list)
    questions: list = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def __enter__(self):
        config = uvicorn.Config(
            self._app, host="127.0.0.1", port=0, log_level="error", lifespan="off", interface="asgi3"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    async def _app(self, scope, receive, send):
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # in the middle of the question: it was not asked
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        if scope["path"].endswith("/models"):
            await _reply(send, 200, {}, {"data": []})
            return
        request = json.loads(body)
        unknown = next((name for name in self.refuses if name in request), None)
        if unknown:
            self.refused.append(unknown)
            message = f"Unsupported parameter: '{unknown}' is not supported with this model."
            await _reply(send, 400, {}, {"error": {"message": message, "param": unknown}})
            return
        text = request["messages"][-1]["content"]
        found = re.search(
            r"^The (?:answer|step) (?:to grade|so far):\n(`+)\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE
        )
        question = Question(
            body=request,
            text=text,
            nonce=(re.findall(r"^The nonce: (\S+)$", text, re.MULTILINE) or [""])[-1],
            criteria=re.findall(r'^- criterion "([^"]+)"', text, re.MULTILINE),
            answer=found.group(2) if found else "",
            headers=headers,
            at=time.monotonic(),
            port=scope["client"][1],
        )
        self.questions.append(question)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self.answer(question)
            if asyncio.iscoroutine(answer):
                answer = await answer
        finally:
            self.in_flight -= 1
        if isinstance(answer, str):
            choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3}
            await _reply(send, 200, {}, {"choices": [choice], "usage": usage})
        else:
            await _reply(send, *answer)


async def _reply(send, status, headers, body):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    listed = [(k.encode(), v.encode()) for k, v in {"content-type": "application/json", **headers}.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": raw})
