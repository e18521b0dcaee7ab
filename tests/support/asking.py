"""Asking a judge as the grading worker does: a real client, real sockets, no database."""

from __future__ import annotations

import asyncio

from service.domain.judge import PROMPT_VERSION, JudgeConfig, JudgeLimits
from service.domain.rubric import Criterion
from workers.graders.judge.cell import grade_completion
from workers.graders.judge.client import Endpoint
from workers.graders.judge.connections import judge_client
from workers.graders.judge.gate import Gate

PROMPT = {"messages": [{"role": "user", "content": "What is a fox?"}]}


def criterion(key="clear", grader=None, **changes):
    """A judged criterion; boolean unless `scale` says otherwise."""
    judged = {"type": "judge", "judge": "jdg_1", **(grader or {})}
    return Criterion.model_validate({"key": key, "weight": 1, "text": f"text of {key}", "grader": judged, **changes})


def grade(judge, criteria, *, config=None, limits=None, text="an answer", prompt=PROMPT, guidelines="", on_cell=None):
    """The cells of one completion, by key."""
    (cells,) = grade_all(judge, criteria, [text], config, limits, prompt=prompt, guidelines=guidelines, on_cell=on_cell)
    return cells


def grade_all(
    judge, criteria, texts, config=None, limits=None, *, prompt=PROMPT, guidelines="", on_cell=None, in_turn=False
):
    """The cells of several completions, graded at once or `in_turn`, by one worker; one dictionary for each text."""

    async def run():
        async with judge_client(["loopback"]) as client:
            address = {"base_url": judge.base_url, "model": "m"}
            new = {"endpoint": address, "prompt": {"version": PROMPT_VERSION}}
            endpoint = Endpoint(
                client,
                JudgeConfig.model_validate({**new, **(config or {})}),
                JudgeLimits.model_validate({"timeout_s": 5, **(limits or {})}),
                None,
                Gate(16),
            )
            questions = [
                grade_completion(
                    endpoint,
                    criteria,
                    judge_id="jdg_1",
                    revision=1,
                    guidelines=guidelines,
                    prompt=prompt,
                    text=text,
                    on_cell=on_cell,
                )
                for text in texts
            ]
            return [await question for question in questions] if in_turn else await asyncio.gather(*questions)

    return [{cell.criterion: cell for cell in cells} for cells in asyncio.run(run())]
