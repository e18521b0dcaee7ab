"""What makes a folder a model: configuration, whole safetensors weights, a tokenizer; and its identity, the hash of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.domain.checkpoint import CheckpointFile, file_entry, model_hash

MODEL_SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class ModelFolderError(ValueError):
    """A folder that cannot be a model; the message says why."""


def model_paths(folder: Path) -> list[Path]:
    """The files that loading a model reads: top-level JSON, safetensors, tokenizer and template files, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix in MODEL_SUFFIXES
        and path.name != "manifest.json"
    )


def check_model_folder(folder: Path) -> None:
    """Raise `ModelFolderError` unless the folder has a configuration, whole safetensors weights and a tokenizer."""
    if not folder.is_dir():
        raise ModelFolderError(f"there is no folder {folder}")
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        raise ModelFolderError(f"{folder} has no config.json, so it is not a transformers model")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = next((name for name in sorted(names) if name.endswith(PICKLES)), None)
        because = f"; '{pickled}' is a pickle, which is never loaded: convert it to safetensors" if pickled else ""
        raise ModelFolderError(f"{folder} has no *.safetensors weights{because}")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise ModelFolderError(f"{folder} has no tokenizer (tokenizer.json); save it beside the model")
    for name in sorted(names):
        if name.endswith(".safetensors"):
            _check_weights(folder / name)
    for name in sorted(names & {"config.json", "tokenizer.json", "tokenizer_config.json", INDEX}):
        found = _read_object(folder / name)
        missing = set(found.get("weight_map", {}).values()) - names if name == INDEX else set()
        if missing:
            raise ModelFolderError(f"{folder / name} names {min(missing)}, which is not there")


INDEX = "model.safetensors.index.json"


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ModelFolderError(f"{path} is no JSON object")
    return found


def _check_weights(path: Path) -> None:
    """Whether a file is safetensors and whole: 8 bytes with the header's length, the header, and the tensors it tells of."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):  # the format's own limit
            raise ModelFolderError(f"{path} is no safetensors file, or only the beginning of one")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise ModelFolderError(f"{path} has no safetensors header") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ModelFolderError(
            f"{path} has {size} bytes where its header tells of {expected}: it is cut off or damaged"
        )


def hash_model_folder(folder: Path) -> tuple[str, list[CheckpointFile]]:
    """The model's identity and its files."""
    files = [file_entry(folder, path) for path in model_paths(folder)]
    return model_hash(files), files


def folder_bytes(folder: Path) -> int:
    """How much there is to hash."""
    return sum(path.stat().st_size for path in model_paths(folder))
