"""YAML that is JSON in another spelling: no aliases, no types beyond JSON's, no key twice."""

from __future__ import annotations

from typing import Any

import yaml

from service.domain.formats.source import fail


class _Loader(yaml.SafeLoader):
    """A safe loader without aliases (a small file of them unfolds into gigabytes) and without dates (a text stays a text)."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read; write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The value; `FormatError` with line and column for what cannot be read."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a subclass of the safe loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        deep = isinstance(error, RecursionError)
        said = "it nests too deep" if deep else getattr(error, "problem", None) or str(error)
        fail("", "yaml_invalid", f"the file is not valid YAML: {where}{said}")
