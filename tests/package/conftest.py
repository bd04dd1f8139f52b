"""The package as people get it: built from a copy of this checkout, installed where nothing of the checkout is."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from celery_guardrails.cli.group import BEYOND_WORKERS
from tests.harness import ROOT, Process

_NOT_SOURCE = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "*.sqlite3*", "*.spool")
_FOR_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


@dataclass(frozen=True)
class Built:
    """What `python -m build` made, and the copy of the checkout that it was made from."""

    source: Path
    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, and a folder outside the checkout in which its commands run."""

    python: Path
    folder: Path

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of its commands: this process's, without what leads to another Python or the checkout."""
        return {key: value for key, value in os.environ.items() if key not in _FOR_PYTHON} | dict(more or {})

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run its Python with these arguments."""
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=self.variables(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start its `celery`, which runs until it is told to stop."""
        log = self.folder / "celery.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [str(self.python), "-m", "celery", *arguments],
                cwd=self.folder,
                env=self.variables(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Process("celery", process, log)

    def celery(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run its `celery`."""
        return self.run("-m", "celery", *arguments, env=env)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel that is made from the sdist alone."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, source, ignore=_NOT_SOURCE)
    out = tmp_path_factory.mktemp("dist")
    _done(sys.executable, "-m", "build", "--outdir", str(out), str(source), folder=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(source, sdist, wheel)


@pytest.fixture(scope="session")
def whole(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with all that it requires, as `pip install celery-guardrails[redis]` gives it."""
    made = _environment(tmp_path_factory.mktemp("whole"))
    _install(made, f"{built.wheel}[redis]")
    return made


@pytest.fixture(scope="session")
def workers_only(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with what workers need of its requirements, and the Redis client."""
    made = _environment(tmp_path_factory.mktemp("workers"))
    _install(made, *requirements_of_workers(), "celery[redis]")
    _install(made, "--no-deps", str(built.wheel))
    return made


def requirements_of_workers() -> list[str]:
    """The lines of `install_requires` without those that only guardians and commands need."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    lines = [line for line in setup["options"]["install_requires"].splitlines() if line and line[0] != "#"]
    beyond = {name.replace("_", "-") for name in BEYOND_WORKERS}
    return [line for line in lines if re.match(r"[\w-]+", line)[0].lower() not in beyond]  # type: ignore[index]


def _environment(folder: Path) -> Environment:
    _done(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"), folder=folder)
    (folder / "project").mkdir()
    return Environment(folder / "venv" / "bin" / "python", folder / "project")


def _install(environment: Environment, *what: str) -> None:
    pip = ("-m", "pip", "--python", str(environment.python), "install", "-q", "--no-warn-script-location")
    _done(sys.executable, *pip, *what, folder=environment.folder)


def _done(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
