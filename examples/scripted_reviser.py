"""A scripted reviser: rules behind an OpenAI-compatible endpoint, in place of a language model that can follow a revision prompt.

It knows the demo's task alone: it reads from the prompt where the thing is, and says so in one plain sentence. Like a real one it
does not always make things better: some of its answers are the old one again, hedge, or name the wrong room, and a few break off.
All of it follows from a seed and the question.

    python -m examples.scripted_reviser --port 8998 --seed 0
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
from typing import Any

from examples.scripted_judge import reply, serve
from examples.task import ROOMS

MODEL = "scripted-reviser"
SAME, HEDGING, WRONG, BROKEN = 0.08, 0.10, 0.10, 0.04
"""The shares of answers that are the old one, hedge, name another room, or break off."""


class ScriptedReviser:
    """The endpoint as an ASGI application."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

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
        """One answer."""
        question = request["messages"][-1]["content"]
        answer = re.search(r"^The answer so far:\n(`+)\n(.*?)\n\1$", question, re.DOTALL | re.MULTILINE)
        prompt = re.search(r"^The prompt:\n(`+)\n(.*?)\n\1$", question, re.DOTALL | re.MULTILINE)
        room = re.search(r" is in the (\w+)\.", prompt.group(2)) if prompt is not None else None
        if answer is None or room is None:
            await reply(send, 400, {"error": {"message": "this scripted reviser knows only the demo's task"}})
            return
        identity = hashlib.sha256(f"{self.seed}\n{question}".encode()).hexdigest()
        text, finish = revised(room.group(1), answer.group(2), random.Random(identity))
        usage = {"prompt_tokens": len(question.split()), "completion_tokens": len(text.split())}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        await reply(send, 200, {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


def revised(room: str, answer: str, rng: random.Random) -> tuple[str, str]:
    """The new answer, and why it ends."""
    drawn = rng.random()
    for share, text, finish in (
        (SAME, answer, "stop"),
        (HEDGING, f"maybe in the {room}.", "stop"),
        (WRONG, f"it is in the {rng.choice([r for r in ROOMS if r != room])}.", "stop"),
        (BROKEN, "it is in", "length"),
    ):
        if drawn < share:
            return text, finish
        drawn -= share
    return f"it is in the {room}.", "stop"


def main() -> None:
    """Parse, serve."""
    parser = argparse.ArgumentParser(description="A scripted reviser behind an OpenAI-compatible endpoint on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve(ScriptedReviser(options.seed), options.port, MODEL))


if __name__ == "__main__":
    main()
