"""What setup.cfg promises is what the code imports, what the tests try, and what the README says."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata

import pytest

from celery_guardrails.cli.group import BEYOND_WORKERS
from tests.harness import ROOT

PACKAGE = ROOT / "celery_guardrails"
BROUGHT = {"pydantic_core": "pydantic", "redis": "celery"}
"""Modules that are imported without a requirement of their own, and who requires them: each is a part of its bringer,
whose bounds hold for both; `redis` comes with the extra of that name."""

OF_EXTRAS = {"apprise": "apprise", "opentelemetry": "opentelemetry", "prometheus_client": "prometheus"}
"""Modules that an extra brings, for those who want what needs them; and the extra."""
OPTIONAL_ROOMS = {"prometheus_client": ("guardian/metrics.py", "guardian/metrics_server.py", "guardian/label.py")}
"""Modules of the package that are imported only where a setting wants them, and may import what an extra brings."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: str, operator: str) -> dict[str, str]:
    """The versions behind an operator, by name: of `celery>=5.5.0,<5.8` it is 5.5.0 behind `>=`."""
    found = re.findall(rf"^([\w.-]+)(?:\[[\w,]+\])?[^#\n]*?{operator}([\w.]+)", lines, re.MULTILINE)
    return dict(found)


def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(ROOT / "setup.cfg")
    return found


def required() -> set[str]:
    names = re.findall(r"^([\w.-]+)", setup()["options"]["install_requires"], re.MULTILINE)
    return {canonical(name) for name in names}


def imported() -> set[str]:
    """The foreign modules that the package imports anywhere, also within a function."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {PACKAGE.name}


def distributions() -> Mapping[str, set[str]]:
    """Which installed distributions have a module."""
    return {module: {canonical(name) for name in names} for module, names in metadata.packages_distributions().items()}


def test_what_is_imported_is_required() -> None:
    brought = {module for module in imported() if not distributions()[module] & required()}
    assert brought == {*BROUGHT, *OF_EXTRAS}


@pytest.mark.parametrize(("module", "extra"), OF_EXTRAS.items())
def test_what_an_extra_brings_is_imported_only_where_it_is_asked_for(module: str, extra: str) -> None:
    names = re.findall(r"^([\w.-]+)", setup()["options.extras_require"][extra], re.MULTILINE)
    assert distributions()[module] & {canonical(name) for name in names}
    only_there = {PACKAGE / name for name in OPTIONAL_ROOMS.get(module, ())}
    for path in set(PACKAGE.rglob("*.py")) - only_there:
        top = ast.parse(path.read_text("utf-8")).body
        found = {alias.name.partition(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
        found |= {str(node.module).partition(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
        assert module not in found, path


@pytest.mark.parametrize(("module", "bringer"), BROUGHT.items())
def test_what_is_brought_by_a_requirement_is_required_there(module: str, bringer: str) -> None:
    lines = metadata.requires(bringer) or []
    if module == "redis":  # celery's extra is kombu's
        lines = [*lines, *(metadata.requires("kombu") or [])]
    assert bringer in required()
    assert distributions()[module] & {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]


ROOMS_OF_WORKERS = ("app", "letters", "policy", "redaction", "task", "transport", "worker")
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"


def test_workers_import_nothing_that_only_guardians_and_commands_need() -> None:
    paths = [path for room in ROOMS_OF_WORKERS for path in (PACKAGE / room).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    assert len(names) > 100
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names, "celery_guardrails.cli", "celery.bin.worker"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"celery", "kombu", "pydantic", "click", "durationpy", "redis"} <= loaded
    assert loaded & BEYOND_WORKERS - {"urllib3"} == set()
    assert {canonical(name) for name in BEYOND_WORKERS} < required()


def test_what_is_required_is_imported() -> None:
    used = set().union(*(distributions()[module] for module in imported()))
    assert required() - used == set()


def test_the_oldest_versions_promised_are_the_oldest_tested() -> None:
    promised = requirements(setup()["options"]["install_requires"], ">=")
    tested = requirements((ROOT / "tests" / "oldest.txt").read_text(), "==")
    assert {canonical(name) for name in promised} == required()
    assert {name: tested.get(name) for name in promised} == promised


def said_in_readme(what: str) -> tuple[str, str]:
    """The first and the last version of Python or Celery that the README names."""
    ((first, last),) = set(re.findall(rf"\b{what} (\d\.\d+) to (\d\.\d+)", (ROOT / "README.md").read_text("utf-8")))
    return first, last


def test_the_versions_of_python_are_those_that_the_readme_promises() -> None:
    listed = re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])
    assert listed == [f"3.{minor}" for minor in range(int(listed[0][2:]), int(listed[-1][2:]) + 1)]
    first, last = said_in_readme("Python")
    assert (listed[0], listed[-1]) == (first, last)
    assert setup()["options"]["python_requires"] == f">={first}"
    assert f'target-version = "py{first.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    for script in ("Makefile", "house/find_python.sh", "CONTRIBUTING.md"):
        text = (ROOT / script).read_text("utf-8")
        assert f"Python {first} or newer" in text or f"Python {first}+" in text


def test_the_versions_of_celery_are_those_that_the_readme_promises() -> None:
    lines = setup()["options"]["install_requires"]
    first, last = said_in_readme("Celery")
    assert requirements(lines, ">=")["celery"].startswith(f"{first}.")
    installed = metadata.version("celery")
    assert (int(installed.split(".")[0]), int(installed.split(".")[1])) <= tuple(map(int, last.split(".")))
