"""What authors write for the sandbox: tests of a completion's code, and graders in Python. Read here, never run."""

from __future__ import annotations

import ast
import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from service.domain.conversation import Text
from service.domain.template import check_template

MOST_SOURCE = 256 * 1024
"""Bytes of a source."""
_TEMPLATE = re.compile(r"\s*\{\{[^{}]*\}\}\s*\Z")


def is_template(tests: str) -> bool:
    """Whether tests stand in the prompt's row: the text is one placeholder and nothing else. Braces within code are code."""
    return _TEMPLATE.match(tests) is not None


def _parsed(source: str, what: str) -> ast.Module:
    if len(source.encode()) > MOST_SOURCE:
        raise PydanticCustomError("too_long", "{what} may have {most} bytes", {"what": what, "most": MOST_SOURCE})
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = {"what": what, "why": str(error) or "it is nested too deeply"}
        raise PydanticCustomError("invalid_code", "{what} do not compile: {why}", said) from None


def _tests(source: str) -> str:
    if is_template(source):
        if "completion." in source:
            raise PydanticCustomError(
                "invalid_template", "tests are the author's or the prompt's; a completion cannot bring its own", {}
            )
        return check_template(source)
    tree = _parsed(source, "the tests")
    if not any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.FunctionDef) and (node.name == "test" or node.name.startswith("test_")))
        or (isinstance(node, ast.Attribute) and node.attr.startswith("assert"))
        for node in ast.walk(tree)
    ):
        raise PydanticCustomError(
            "no_tests", "the tests need an assert, or a function whose name begins with test_", {}
        )
    return source


def _grader(source: str) -> str:
    tree = _parsed(source, "the lines of the source")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {
        n.id for node in tree.body for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    if "grade" not in names:
        raise PydanticCustomError("no_grade", "the source must define a function grade(sample, item)", {})
    return source


TestsSource = Annotated[Text, StringConstraints(min_length=1), AfterValidator(_tests)]
GraderSource = Annotated[Text, StringConstraints(min_length=1), AfterValidator(_grader)]

_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
_PYTHON = ("python", "py", "python3")


def code_in(text: str) -> str:
    """The code of a completion: its last block marked as Python, else its last fenced block, else the whole text.

    A fence that is not closed reaches to the end of the text (CommonMark).
    """
    blocks: list[tuple[bool, str]] = []
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        opened = _FENCE.match(lines[position])
        position += 1
        if opened is None or (opened["fence"][0] == "`" and "`" in opened["info"]):
            continue
        begun = position
        while position < len(lines) and not _closes(lines[position], opened["fence"]):
            position += 1
        words = opened["info"].split()
        blocks.append((bool(words) and words[0].lower() in _PYTHON, "\n".join(lines[begun:position])))
        position += 1
    marked = [code for is_python, code in blocks if is_python]
    return marked[-1] if marked else blocks[-1][1] if blocks else text


def _closes(line: str, fence: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(fence) and not bare.strip(fence[0]) and len(line) - len(line.lstrip(" ")) <= 3
