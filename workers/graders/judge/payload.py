"""Material that nobody vouches for, made fit to stand in a judge's question: fenced, and unable to look like the question itself.

The fence and the nonce are what keeps a forged reply out; the marks keep a careless reader from taking a line of the material
for a heading, and a careless server from taking it for a control token. Everything else stands as it was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MARK = "·"

_TICKS = re.compile("[`\u02cb\u1fef\uff40]+")
_LINES = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_HEADING = re.compile(
    r"(?:the prompt|the (?:answer|step) to grade|the steps before[^:]{0,40}|the criteria[^:]{0,120}|the nonce"
    r"|reply with one json object[^:]{0,120})\s*:"
    r"|criterion\s*[\"'“”„«]"
    r"|\[\s*(?:system|developer|user|assistant|tool)\s*\]"
)
_DECORATION = re.compile(r"^[\s>#*_~|+\-–—•]+")
_CONTROL = re.compile(
    r"<(?=\|[^|<>\n]{1,64}\|>|\uff5c[^\uff5c<>\n]{1,64}\uff5c>|</?SYS>>|/?s>|(?:start|end)_of_turn>|[be]os>|/?think>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\])"
)
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһӏԛԝАВЕКМНОРСТУХІЈЅαορινυτΑΒΕΖΗΙΚΜΝΟΡΤΥΧ꞉∶ː։׃",
    "aeopcyxijsdhlqwABEKMHOPCTYXIJSaopivutABEZHIKMNOPTYX:::::",
)


def fence_for(*texts: str) -> str:
    """Backticks, more of them than stand in a row anywhere in the texts (signs that look like them count)."""
    longest = max((len(run) for text in texts for run in _TICKS.findall(text)), default=0)
    return "`" * max(4, longest + 1)


def conversation(prompt: Mapping[str, Any]) -> str:
    """The prompt's messages as text; a single user message stands as it is."""
    messages = prompt["messages"]
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def marked_conversation(prompt: Mapping[str, Any]) -> str:
    """As `conversation`, with every message marked, so that only the headings of real turns are unmarked."""
    messages = [{**message, "content": marked(str(message["content"]))} for message in prompt["messages"]]
    return conversation({"messages": messages})


@lru_cache(maxsize=256)
def marked(text: str) -> str:
    """The text with a mark before every line that looks like a heading of the question, and inside every control token."""
    return _CONTROL.sub(lambda match: match.group() + MARK, _LINES.sub(_line, text))


def _line(match: re.Match[str]) -> str:
    line = match.group()
    return MARK + line if _HEADING.match(_folded(line)) else line


def _folded(line: str) -> str:
    """What a line looks like: without invisible signs, accents and decoration, look-alikes as the letters that they imitate."""
    if not line.isascii():
        signs = unicodedata.normalize("NFKD", line).translate(_LOOKALIKES)
        line = "".join(sign for sign in signs if unicodedata.category(sign) not in ("Cf", "Mn", "Cc", "Co"))
    return re.sub(r"\s+", " ", _DECORATION.sub("", line[:400])).casefold().strip()
