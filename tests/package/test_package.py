"""What is published: what is in it, and that it works where the checkout is not.

`make package-test` runs this folder, since it installs from the package index; `make test` leaves it out.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

from celery_guardrails.cli import guardrails
from tests.conftest import Broker
from tests.package.conftest import Built, Environment
from tests.waiting import wait_until

APP = """
import os
from celery import Celery
from celery_guardrails import GuardedTask

app = Celery("shop", broker=os.environ["BROKER_URL"])
app.conf.broker_connection_retry_on_startup = True
app.conf.guardrails = {"environment": "test", "store": {"url": "sqlite:///archive.sqlite3"}}


@app.task(base=GuardedTask)
def pay(order):
    raise ValueError(f"no order {order}")
"""
COMMANDS = ["guardian", "guardrails", *(f"guardrails {name}" for name in guardrails.list_commands(None))]  # type: ignore[arg-type]
EVERY_MODULE = """
import importlib, pathlib, celery_guardrails
root = pathlib.Path(celery_guardrails.__file__).parent
for path in sorted(root.rglob("*.py")):
    name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
    if name.endswith(".migrations.env"):  # Alembic runs this one, with its context
        continue
    try:
        importlib.import_module(name.removesuffix(".__init__"))
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("apprise", "prometheus_client"):  # each an extra of its own
            raise
print(root)
"""


def package_files(built: Built) -> set[str]:
    """The files of the package in the copy of the checkout."""
    found = (built.source / "celery_guardrails").rglob("*")
    return {path.relative_to(built.source).as_posix() for path in found if path.is_file()}


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package_files(built)
    assert {"celery_guardrails/py.typed", "celery_guardrails/store/migrations/env.py"} <= names
    assert sum(name.startswith("celery_guardrails/store/migrations/versions/v") for name in names) >= 6


def test_the_sdist_holds_what_the_wheel_is_made_of(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in sdist if member.isfile()}
    assert {str(name) for name in names if name.parts[0] == "celery_guardrails"} == package_files(built)
    beside = {name.parts[0] for name in names} - {"celery_guardrails", "celery_guardrails.egg-info", "PKG-INFO"}
    assert beside == {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg", "setup.py"}


def test_the_metadata_say_what_setup_cfg_says(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(wheel.read(name).decode("utf-8"))
        entry_points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode("utf-8")
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"redis", "postgres"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "guardian = celery_guardrails.cli:guardian" in entry_points


def test_every_module_is_imported_from_where_it_is_installed(whole: Environment) -> None:
    done = whole.run("-W", "error::SyntaxWarning", "-c", EVERY_MODULE)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(whole.python.parent.parent)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help(whole: Environment, command: str) -> None:
    done = whole.celery(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: celery {command} ") or f" {command} " in done.stdout.splitlines()[0]


def test_an_archive_is_made_and_brought_up_to_date(whole: Environment) -> None:
    (whole.folder / "shop.py").write_text(APP)
    for _ in range(2):
        done = whole.celery("-A", "shop", "guardrails", "migrate", env={"BROKER_URL": "memory://"})
        assert (done.returncode, done.stderr) == (0, "")
    assert (whole.folder / "archive.sqlite3").exists()


@pytest.mark.servers
def test_workers_need_neither_archive_nor_slack_and_a_guardian_elsewhere_archives_what_they_lose(
    whole: Environment, workers_only: Environment, redis_broker: Broker
) -> None:
    env = {"BROKER_URL": redis_broker.url, "PYTHONUNBUFFERED": "1"}
    for environment in (whole, workers_only):
        (environment.folder / "shop.py").write_text(APP)
    worker = workers_only.start("-A", "shop", "worker", "--guardian", "-c", "1", "-l", "INFO", env=env)
    try:
        worker.wait_for_log(" ready.")
        worker.wait_for_log("the guardian inside this worker cannot run: ")
        worker.wait_for_log(" is not installed here. Workers do without it")
        sent = workers_only.run("-c", "import shop; print(shop.pay.delay(4711))", env=env)
        assert sent.returncode == 0, sent.stderr

        def archived() -> bool:
            done = whole.celery("-A", "shop", "guardian", "--once", "--json", env=env)
            assert done.returncode == 0, done.stderr
            return bool(json.loads(done.stdout)["archived"])

        wait_until(archived, 60, lambda: f"the letter of the task that failed\n{worker.log()}")
    finally:
        worker.close()
    (found,) = json.loads(whole.celery("-A", "shop", "guardrails", "dlq", "list", "--json", env=env).stdout)
    assert (found["task"], found["task_id"]) == ("shop.pay", sent.stdout.strip())


@pytest.mark.parametrize("command", ["guardrails dlq list", "guardrails --help", "guardian --once"])
def test_where_only_workers_can_run_a_command_says_what_is_missing(workers_only: Environment, command: str) -> None:
    (workers_only.folder / "shop.py").write_text(APP)
    done = workers_only.celery("-A", "shop", *command.split(), env={"BROKER_URL": "memory://"})
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "is not installed here. Workers do without it, guardians and commands do not" in line
