"""Merging an adapter into the model that it was trained on: a program of its own, `python -m workers.merging KIND FOLDER`.

It reads the files as JSON from standard input (`id`, `folder`, `files`, `base`: the same again, or null), verifies them, and writes
a whole model with its tokenizer into the empty FOLDER: float32, as it computes. What goes wrong is its last line on standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from service.domain.checkpoint import CheckpointFile
from service.domain.job_state import JobFailure
from workers.graders.local.reward import load_reward_model
from workers.policy.loading import ModelFiles, load_model
from workers.policy.reward import TRAINED_HERE


def files_of(given: dict[str, Any]) -> ModelFiles:
    """From JSON."""
    files = [CheckpointFile.model_validate(file) for file in given["files"]]
    base = files_of(given["base"]) if given["base"] is not None else None
    return ModelFiles(given["id"], Path(given["folder"]), files, base)


def merge(files: ModelFiles, kind: str, folder: Path) -> None:
    """Write the whole model; `kind` is `policy` or `reward`. Raises `JobFailure` for files that are not what they were."""
    cpu = torch.device("cpu")
    if kind == "reward":
        loaded = load_reward_model(files, cpu)
        model, tokenizer = loaded.model, loaded.tokenizer
        setattr(model.config, *TRAINED_HERE)
        if model.config.get_text_config().pad_token_id is None:
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    else:
        files.verify()
        model, tokenizer = load_model(files, cpu)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def main(kind: str, folder: str) -> int:
    """The exit code."""
    try:
        merge(files_of(json.load(sys.stdin)), kind, Path(folder))
    except JobFailure as failure:
        sys.stderr.write(f"{failure.code}: {failure.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
