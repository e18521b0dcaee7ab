"""`grape`: one line per group of commands."""

from __future__ import annotations

import sys

import click
import typer

from service.cli import (
    authoring,
    completions,
    data,
    drafts,
    gradings,
    jobs,
    judging,
    local,
    people,
    revisions,
    rubric_files,
)
from service.cli.common import REFUSED, UNREACHABLE, err
from service.client import ApiError, Corrupt, Unreachable

app = typer.Typer(
    name="grape",
    help="GRAPE: rubrics in, better model out. Exit codes: 0 done, 1 refused, 2 usage, 3 unreachable, 4 the job or grading failed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up", context_settings=local.PASS_ON)(local.up)
app.command("demo", context_settings=local.PASS_ON)(local.demo)
app.command("doctor", context_settings=local.PASS_ON)(local.doctor)
app.command("compare")(judging.compare)
app.add_typer(authoring.keys, name="key")
app.add_typer(rubric_files.rubrics, name="rubric")
authoring.judges.command("self-agreement")(judging.self_agreement)
authoring.rubrics.command("probe")(judging.probe)
authoring.judges.command("calibrate")(people.calibrate)
authoring.judges.command("calibrations")(people.calibrations)
authoring.judges.command("agreement")(people.agreement)
authoring.rubrics.command("draft")(drafts.draft)
authoring.rubrics.command("drafts")(drafts.drafts)
authoring.rubrics.command("accept")(drafts.accept)
authoring.rubrics.command("diagnostics")(people.diagnostics)
app.add_typer(authoring.judges, name="judge")
app.add_typer(data.models, name="model")
app.add_typer(data.datasets, name="dataset")
app.add_typer(jobs.jobs, name="job")
app.add_typer(gradings.gradings, name="grading")
app.add_typer(revisions.revisions, name="revision")
app.add_typer(revisions.labels, name="pair-label")
app.add_typer(people.labels, name="label")
app.add_typer(people.critiques, name="critique")
app.add_typer(completions.completions, name="completion")
app.add_typer(jobs.checkpoints, name="checkpoint")


def run() -> None:
    """The entry point: errors become one sentence and an exit code."""
    try:
        app()
    except ApiError as error:
        _say(error.message if not error.errors else "the service refuses this:")
        for fault in error.errors:
            place = fault.get("pointer") or ""
            line = f"line {fault['line']} " if "line" in fault else ""
            _say(f"  {line}{place}{': ' if place or line else ''}{fault['message']}")
        sys.exit(REFUSED)
    except (Unreachable, TimeoutError) as error:
        _say(str(error))
        sys.exit(UNREACHABLE)
    except Corrupt as error:
        _say(str(error))
        sys.exit(REFUSED)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(130)


def _say(message: str) -> None:
    err.print(
        f"grape: {message}" if not message.startswith(" ") else message, style="red", highlight=False, markup=False
    )


if __name__ == "__main__":
    run()
