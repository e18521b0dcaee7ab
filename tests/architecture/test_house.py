"""The house: what the import contracts cannot say."""

import ast
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 400


def files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files("service", "workers", "migrations", "examples", "tests", "benchmarks")
        if (lines := len(path.read_text().splitlines())) > LIMIT and path != Path(__file__)
    }
    assert long == {}, "split these"


def test_configs_and_registries_are_two_ends_of_one_list():
    from service.domain.algorithm import ALGORITHM_CONFIGS
    from service.domain.grader import GRADER_CONFIGS
    from workers.algorithms import ALGORITHMS
    from workers.graders import GRADERS

    assert set(ALGORITHM_CONFIGS) == set(ALGORITHMS)
    assert set(GRADER_CONFIGS) == set(GRADERS)
    for configs in (ALGORITHM_CONFIGS, GRADER_CONFIGS):
        for name, config in configs.items():
            assert config.model_fields["type"].annotation.__args__ == (name,)


def test_the_union_accepts_exactly_the_registered_types():
    from typing import get_args

    from service.domain.algorithm import ALGORITHM_CONFIGS, AlgorithmConfig
    from service.domain.grader import GRADER_CONFIGS, Grader

    for union, configs in ((AlgorithmConfig, ALGORITHM_CONFIGS), (Grader, GRADER_CONFIGS)):
        assert set(get_args(get_args(union)[0])) == set(configs.values())


@pytest.mark.parametrize("module", ["service.app", "workers.app", "service.cli.main", "service.local.stack"])
def test_importing_it_leaves_torch_alone(module):
    code = (
        "import os, sys; os.environ['GRAPE_SECRET_KEY'] = 'x' * 64\n"
        f"import {module}\n"
        "heavy = {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_command_line_imports_neither_server_nor_database():
    code = "import sys, service.cli.main; assert not {'sqlalchemy', 'fastapi', 'celery'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_resource_room_stands_in_the_independence_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(c["modules"] for c in contracts if c["name"] == "resources do not know each other")
    rooms = {f"service.{path.parent.name}" for path in (ROOT / "service").glob("*/endpoints.py")}
    assert set(named) == rooms
    algorithms = next(c["modules"] for c in contracts if c["name"] == "algorithms do not know each other")
    on_disk = {f"workers.algorithms.{p.stem}" for p in (ROOT / "workers/algorithms").glob("*.py")}
    assert set(algorithms) == on_disk - {
        f"workers.algorithms.{base}" for base in ("__init__", "base", "on_policy", "plain", "policy_gradient")
    }


def test_only_settings_read_the_environment():
    """Settings are built in composition roots and handed down; these files are such roots, or clients."""
    allowed = {
        "service/config.py", "service/client_base.py", "service/cli/common.py", "service/cli/authoring.py", "service/local/stack.py",
        "service/local/doctor.py",
        "workers/launch.py", "workers/rank.py",  # torchrun speaks to its processes through it
        "workers/sandbox/check.py",  # in the text of the program that looks, from behind the walls, for what it must not see
    }  # fmt: skip
    readers = {
        str(path.relative_to(ROOT))
        for path in files("service", "workers")
        if any(text in path.read_text() for text in ("os.environ", "getenv("))
    }
    assert readers <= allowed
    builders = {
        str(path.relative_to(ROOT))
        for path in files("service", "workers", "migrations")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Settings"
    }
    assert builders == {
        "service/app.py",
        "service/db/migrate.py",
        "service/garbage.py",
        "service/local/doctor.py",
        "service/projects/__main__.py",
        "workers/context.py",
        "workers/rank.py",
        "workers/child.py",
        "migrations/env.py",
    }


BEHIND_WALLS = {ROOT / "workers/sandbox/inside" / name for name in ("solution.py", "units.py", "program.py")}
"""The only files that run code from outside: each in a process of its own, which has confined itself before."""


def test_every_aggregator_takes_cells():
    """A float says nothing about whether it is one: what makes a reward is given cells (reference/rubrics.md 5.1 #5)."""
    from service.domain import scoring

    names = [
        n
        for n in scoring.__all__
        if n.islower() and ("reward" in n or "score" in n or n in ("coverage", "gate_factor"))
    ]
    assert {"score_group", "score_groups", "plain_reward", "filled_plain_reward", "audit_score", "coverage"} <= set(
        names
    )
    cells = ("Row", "Sequence[Row]", "Sequence[GroupCells]")
    for name in names:
        kinds = [parameter.annotation for parameter in inspect.signature(getattr(scoring, name)).parameters.values()]
        assert any(kind in cells for kind in kinds), name
    assert inspect.get_annotations(scoring.GroupCells)["rows"] == "Sequence[Row]"
    assert scoring.Row == Mapping[str, scoring.ScoredCell]


def test_nothing_unpickles_and_nothing_evaluates():
    for path in files("service", "workers"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "marshal", "shelve"}, path
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                assert name not in {"eval", "exec", "sympify"} or (
                    (name == "eval" and isinstance(node.func, ast.Attribute))
                    or (name == "exec" and path in BEHIND_WALLS)
                ), path
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    assert (node.func.value.id, name) != ("torch", "load"), path
                for keyword in node.keywords:
                    if keyword.arg == "trust_remote_code":
                        assert keyword.value.value is False, path


def test_the_readme_knows_every_room():
    readme = (ROOT / "README.md").read_text()
    rooms = [p.parent for p in (ROOT / "service").glob("*/__init__.py")] + [
        p.parent for p in (ROOT / "workers").glob("*/__init__.py")
    ]
    missing = [f"{r.parent.name}/{r.name}" for r in rooms if f"{r.name}/" not in readme]
    assert missing == []


def test_packages_have_no_registry_and_no_machine_in_them():
    for path in (ROOT / "Makefile", ROOT / "constraints.txt", ROOT / "pyproject.toml", ROOT / "docker-compose.yml"):
        text = path.read_text()
        assert "/work/" not in text
        assert "index-url" not in text
        assert "find-links =" not in text
