"""The process of the tests: it runs asserts and `test_*` functions, and never the code, whose names it only has from afar."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from workers.sandbox.inside.exceptions import described
from workers.sandbox.inside.peer import Peer
from workers.sandbox.inside.remote import Codes, Remote, _known
from workers.sandbox.inside.solution import MODULE
from workers.sandbox.inside.testing import Unsupported, module
from workers.sandbox.inside.wire import Ended, read_all, write_all

MOST_FAILURES = 5
"""Of which the reason tells."""

Record = dict[str, Any]
_SET_UP = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


class Fault(Exception):
    """The author's tests cannot be run at all."""


class Tests:
    """The author's tests, and how they went."""

    def __init__(self, source: str, codes: Codes) -> None:
        try:
            self.tree = ast.parse(source, "tests.py")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Fault(f"the tests do not compile: {error}") from None
        self.names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
        self.codes = codes
        self.passed = self.total = 0
        self.failures: list[str] = []
        self._checkers = {node.name for node in self.tree.body if isinstance(node, ast.FunctionDef) and _asserts(node)}

    def give(self, found: dict[str, Any]) -> None:
        """The code's names, as globals unless they are built in, and as a module to import."""
        code = types.ModuleType(MODULE)
        for name, value in found.items():
            module_of = _known(value)["name"] if type(value) is Remote and _known(value)["kind"] == "module" else None
            seen = value if module_of is None else _own_module(module_of)
            if seen is None and module_of is not None:
                continue
            code.__dict__[name] = seen
            if not hasattr(builtins, name) and name != "pytest":
                self.names[name] = seen
        sys.modules[MODULE] = code
        sys.modules["pytest"] = module()
        own = types.ModuleType("tests")
        own.__dict__.update(self.names)
        self.names = own.__dict__
        sys.modules["tests"] = own

    def run(self) -> None:
        """Statement by statement; then the functions and classes of tests."""
        for node in self.tree.body:
            label = ast.unparse(node).partition("\n")[0][:120]
            work = compile(ast.Module([node], []), "tests.py", "exec", dont_inherit=True)
            if self._counts(node):
                self._unit(label, lambda work=work: exec(work, self.names))  # type: ignore[misc]  # noqa: S102
            else:
                self._set_up(node, label, work)
        for label, test in self._functions():
            self._unit(label, test)
        if not self.total:
            raise Fault("there is nothing to run in the tests: neither an assert nor a function test_*")

    def _counts(self, node: ast.stmt) -> bool:
        """Whether a statement is a test: an assert, one with asserts in it, or the call of a function that asserts."""
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, _SET_UP):
            return False
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            return node.value.func.id in self._checkers
        return _asserts(node)

    def _unit(self, label: str, test: Callable[[], Any]) -> None:
        self.total += 1
        try:
            test()
        except (Ended, Unsupported):
            raise
        except BaseException as error:
            self.failures.append(f"{label}: {described(error)}"[:300])
        else:
            self.passed += 1

    def _set_up(self, node: ast.stmt, label: str, work: Any) -> None:
        """What fails here and is not the code's doing is the author's; else it is one failed test."""
        try:
            exec(work, self.names)  # noqa: S102
        except (Ended, Unsupported):
            raise
        except BaseException as error:
            about_code = isinstance(node, ast.ImportFrom) and node.module == MODULE
            if isinstance(error, ImportError) and isinstance(node, ast.Import | ast.ImportFrom) and not about_code:
                raise Fault(f"{label}: {described(error)}; the standard library is all there is") from None
            self.total += 1
            self.failures.append(f"{label}: {described(error)}"[:300])

    def _functions(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        for node in self.tree.body:
            if isinstance(node, ast.AsyncFunctionDef) and _is_test(node.name):
                raise Fault(f"{node.name} is async; call asyncio.run in a plain function")
            if isinstance(node, ast.FunctionDef) and _is_test(node.name):
                yield from _cases(node.name, self.names.get(node.name))
            if isinstance(node, ast.ClassDef) and isinstance(kind := self.names.get(node.name), type):
                yield from _methods(node, kind)


def _is_test(name: str) -> bool:
    return name == "test" or name.startswith("test_")


def _cases(label: str, function: Any, *bound: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    if not isinstance(function, types.FunctionType):  # its definition has failed, and was counted
        return
    cases = getattr(function, "_cases", [{}])
    free = function.__code__.co_argcount - len(function.__defaults__ or ()) - len(bound)
    if free > min((len(case) for case in cases), default=free):
        raise Fault(f"{label} takes arguments, and there are no fixtures here; only pytest.mark.parametrize gives some")
    for number, case in enumerate(cases):
        name = f"{label}[{number}]" if len(cases) > 1 else label
        yield name, lambda case=case: function(*bound, **case)  # type: ignore[misc]


def _methods(node: ast.ClassDef, kind: type) -> Iterator[tuple[str, Callable[[], Any]]]:
    unittest = sys.modules.get("unittest")
    cases = unittest is not None and issubclass(kind, unittest.TestCase)
    if not cases and not node.name.startswith("Test"):
        return
    for name in [name for name in dir(kind) if name.startswith("test_")]:
        label = f"{node.name}.{name}"
        if cases:
            yield label, lambda name=name: kind(name).debug()  # type: ignore[misc, attr-defined]
        else:
            yield from _cases(label, getattr(kind, name), kind())


def _asserts(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Assert) for inner in ast.walk(node))


def _own_module(name: str) -> Any:
    """The standard library's module of a name that the code has imported: ours, not the code's."""
    if name.partition(".")[0] not in sys.stdlib_module_names:
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _names(answer: Any) -> tuple[str | None, dict[str, Any]]:
    """How the code failed, and its names. What says it is an answer may be anything."""
    if type(answer) is not list or len(answer) != 2 or type(answer[1]) is not dict:
        raise Ended
    failure, found = answer
    if failure is not None and (type(failure) is not list or len(failure) != 2):
        raise Ended
    if not all(type(name) is str for name in found):
        raise Ended
    return (None if failure is None else str(failure[1])), found


def record_of(tests_source: str, peer: Peer) -> Record:
    """How it went: `passed` of `total`, or `failed` (the code, before any test), `ended` (the code, for good), `fault` (the author)."""
    codes = Codes(peer)
    try:
        tests = Tests(tests_source, codes)
        failure, found = _names(peer.ask("names"))
        if failure is not None:
            return {"failed": failure.replace("\n", ": ", 1)[:300]}
        tests.give(found)
        tests.run()
    except Ended:
        return {"ended": True}
    except (Fault, Unsupported) as fault:
        return {"fault": str(fault)[:1000]}
    return {"passed": tests.passed, "total": tests.total, "failures": tests.failures[:MOST_FAILURES]}


def main(give: int, take: int, incoming: int, outgoing: int) -> None:
    """Run the tests that `give` brings; the record goes to `take`, with the nonce that only this process and its worker know."""
    request = json.loads(read_all(give))
    os.close(give)
    record = record_of(request["tests"], Peer(incoming, outgoing))
    write_all(take, json.dumps({**record, "nonce": request["nonce"]}).encode())
