"""Ids: a prefix that says what it names, and a UUIDv7 in base 32, so that ids sort by time."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u

PREFIXES = {
    "project": "prj",
    "key": "key",
    "rubric": "rub",
    "dataset": "ds",
    "batch": "bat",
    "judge": "jdg",
    "model": "mdl",
    "job": "job",
    "completion": "cmp",
    "grading": "grd",
    "critique": "crt",
    "label": "lbl",
    "calibration": "cal",
    "draft": "drf",
    "checkpoint": "ckpt",
    "event": "evt",
    "group": "grp",
    "revision": "rev",
    "labelling": "lab",
    "result": "res",
    "operation": "op",
    "request": "req",
    "worker": "wrk",
    "replies": "rpl",
}


def new_id(noun: str) -> str:
    """A fresh id such as `job_06b2…`: 48 bits of milliseconds, 74 random bits, version and variant bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    digits = "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
    return f"{PREFIXES[noun]}_{digits}"
