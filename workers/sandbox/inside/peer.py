"""One end of the conversation between tests and code: asks, and answers what the other end asks meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.sandbox.inside.wire import MALFORMED, Ended, Handles, Reader, TooLarge, Writer, receive, send


class Peer:
    """`answer(op, arguments)` does what the other end asks for; `describe`, `remote` and `foreign` are those of the values.

    Errors cross as values: `error_out` says what the other end is told of one, `error_in` makes one of what it told.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.own = Handles()
        self.answer: Callable[[str, list[Any]], Any]
        self.describe: Callable[[Any], dict[str, Any] | None]
        self.remote: Callable[[int, dict[str, Any]], Any]
        self.foreign: Callable[[Any], int | None]
        self.error_out: Callable[[BaseException], list[Any]]
        self.error_in: Callable[[Any], BaseException]

    def ask(self, op: str, *arguments: Any) -> Any:
        """What the other end answers. Containers among the arguments that it has changed are changed here too."""
        writer = self.writer()
        body = [writer.value(argument) for argument in arguments]
        send(self.outgoing, {"ask": op, "table": writer.table, "body": body})
        while True:
            message = receive(self.incoming)
            if type(message) is not dict:
                raise Ended
            if "ask" not in message:
                return self._result(message, writer.containers)
            self._serve(message)

    def serve(self) -> None:
        """Answer until the other end is gone."""
        while True:
            message = receive(self.incoming)
            if type(message) is not dict or "ask" not in message:
                raise Ended
            self._serve(message)

    def writer(self) -> Writer:
        """For one message."""
        return Writer(self.own, self.describe, self.foreign)

    def _result(self, message: dict[str, Any], containers: list[Any]) -> Any:
        try:
            reader = Reader(message["table"], self.own, self.remote, containers)
            for place, row in enumerate(message["changed"] or ()):
                if row is not None:
                    reader.fill(containers[place], row)
            failed = "error" in message
            value = reader.value(message["error" if failed else "value"])
            error = self.error_in(value) if failed else None
        except MALFORMED:
            raise Ended from None
        if error is not None:
            raise error
        return value

    def _serve(self, message: dict[str, Any]) -> None:
        try:
            reader = Reader(message["table"], self.own, self.remote)
            arguments = [reader.value(item) for item in message["body"]]
        except MALFORMED:
            raise Ended from None
        try:
            key, value = "value", self.answer(str(message["ask"]), arguments)
        except Ended:
            raise
        except BaseException as error:
            key, value = "error", self.error_out(error)
        try:
            reply = self._reply(message["table"], reader.containers, key, value)
            send(self.outgoing, reply)
        except (TypeError, ValueError, TooLarge, RecursionError, MemoryError) as error:
            send(self.outgoing, self._reply(message["table"], None, "error", self.error_out(error)))

    def _reply(self, before: list[Any], containers: list[Any] | None, key: str, value: Any) -> dict[str, Any]:
        """The answer, with the new content of the asker's containers where it has changed; null: without."""
        writer = self.writer()
        # The asker's own come first, under its own places.
        writer.known(before, containers or ())
        changed = []
        for row, container in zip(before, containers or (), strict=False):
            now = [row[0], *writer.content(row[0], container)]
            changed.append(None if now == row else now)
        said = writer.value(value)
        return {"table": writer.table, "changed": changed if any(changed) else None, key: said}
