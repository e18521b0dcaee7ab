"""`grape up`, `grape demo`, `grape doctor`: programs of their own, so that this command needs neither a database nor torch."""

from __future__ import annotations

import importlib.util

import typer

from service.cli.common import USAGE, replace_process, stop

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def up(context: typer.Context) -> None:
    """Run the whole stack on this machine: Postgres, Valkey, API, workers (`grape up --help`)."""
    _become("service.local", "psycopg", "grape-align[server,train,local]", context.args)


def demo(context: typer.Context) -> None:
    """Rubric in, better model out: the guided run from end to end (`grape demo --help`)."""
    _become("examples.demo", "transformers", "grape-align[server,train,local]", context.args)


def doctor(context: typer.Context) -> None:
    """Check this machine and its deployment: versions, migrations, storage, broker, sandbox, GPU (`grape doctor --help`)."""
    _become("service.local.doctor", "psycopg", "grape-align[server]", context.args)


def _become(module: str, needed: str, extra: str, arguments: list[str]) -> None:
    if importlib.util.find_spec(needed) is None:
        stop(f"this needs more than the client; run `pip install '{extra}'`", USAGE)
    replace_process("-m", module, *arguments)
