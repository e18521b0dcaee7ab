"""`python -m benchmarks.grpo_first_step`: is the first batch of `grpo_learning` off its model's expectation, on either side?

For each seed's model, the mean reward of one batch (48 completions) minus the model's expectation, which 20 other batches of our sampler
estimate; of our job, of TRL's trainer seeded with the number that drew the weights, and of TRL's with another one. Also ours −
`generate`, 20 batches each, on the first 40 models. Needs the peers (`make test-parity`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import grpo_learning
from benchmarks.grpo_learning import GROUP, LETTERS, LIMIT, PEER_SEED, PROMPTS, ours, reward, theirs
from examples.tiny_model import make_tiny_model

BATCHES, COMPARED = 20, 40


def drawn(model: Any, seed: int) -> float:
    """Mean reward of a batch of our sampler."""
    import torch

    from workers.policy.generation.sampler import SamplingOptions, sample_groups

    found: list[float] = []
    options = SamplingOptions(
        group_size=GROUP, temperature=1.0, max_tokens=LIMIT, eos_ids=[1], pad_id=0, seed=seed
    )  # fmt: skip
    keep = lambda k, samples: found.extend(reward(sample.tokens) for sample in samples)  # noqa: E731
    sample_groups(model, PROMPTS, options, keep, device=torch.device("cpu"))
    return statistics.mean(found)


def generated(model: Any) -> float:
    """Mean reward of a batch of `generate`."""
    import torch

    prompts = torch.tensor([prompt for prompt in PROMPTS for _ in range(GROUP)])
    out = model.generate(
        input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=LIMIT, eos_token_id=1, pad_token_id=0,
    )[:, prompts.shape[1] :].tolist()  # fmt: skip
    return statistics.mean(reward(row[: row.index(1) + 1] if 1 in row else row) for row in out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo_first_step", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("build/grpo_first_step.json"))
    options = parser.parse_args(arguments)
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1")
    import torch
    from transformers import AutoModelForCausalLM

    grpo_learning.STEPS = 1
    off: dict[str, list[float]] = {"ours": [], "trl, the weights' seed": [], "trl, another seed": []}
    apart: list[float] = []
    for seed in range(options.seeds):
        with (
            tempfile.TemporaryDirectory() as name,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            make_tiny_model(Path(name), list(LETTERS), seed, hidden=32)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
            expected = statistics.mean(drawn(model, 777_000 + seed * 1000 + k) for k in range(BATCHES))
            if seed < COMPARED:
                torch.manual_seed(10_000 + seed)
                apart.append(expected - statistics.mean(generated(model) for _ in range(BATCHES)))
            off["trl, the weights' seed"].append(theirs(Path(name), seed)[0] - expected)
            off["trl, another seed"].append(theirs(Path(name), PEER_SEED + seed)[0] - expected)
            off["ours"].append(ours(Path(name), seed)[0] - expected)
    print("| first batch − expectation | mean | standard error | seeds |\n|---|---|---|---|")
    for who, values in {**off, "ours − generate, 20 batches each": apart}.items():
        for count in sorted({min(COMPARED, len(values)), len(values)}):
            part = values[:count]
            print(f"| {who} | {statistics.mean(part):+.4f} | {statistics.stdev(part) / count**0.5:.4f} | {count} |")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"off": off, "ours_minus_generate": apart}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
