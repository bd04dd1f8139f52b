"""Every command that is shown names the application as it was typed, in whatever way it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest
from celery import Celery

from celery_guardrails.app.command_name import named_on_command_line, typed_name
from tests.harness import ROOT, Harness

APP = "tests.apps.secretive"


@pytest.fixture
def shop(harness: Harness) -> Harness:
    """An application without an archive."""
    store = f"sqlite:///{harness.folder / 'archive.db'}"
    harness.environment.update(BROKER_URL="memory://", SECRETIVE="dict", SECRETIVE_STORE=store)
    return harness


def hint(harness: Harness, *words: str) -> str:
    done = harness.run_python("-m", "celery", *words, "guardrails", "dlq", "list")
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_it_is_named_as_it_was_typed(shop: Harness) -> None:
    assert f"start a guardian (celery -A {APP} guardian)" in hint(shop, "-A", APP)
    assert f"start a guardian (celery -A {APP}:app guardian)" in hint(shop, f"--app={APP}:app")


def test_the_environment_names_it(shop: Harness) -> None:
    shop.environment["CELERY_APP"] = APP
    assert f"start a guardian (celery -A {APP} guardian)" in hint(shop)


def test_the_directory_that_it_is_in_is_part_of_the_name(shop: Harness, tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    shutil.copy(ROOT / "tests" / "apps" / "secretive.py", place / "moved.py")
    for option in (("--workdir", str(place)), (f"--workdir={place}",)):
        assert f"(celery -A moved --workdir '{place}' guardian)" in hint(shop, *option, "-A", "moved")


def test_a_worker_names_it_by_what_it_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("internal.name", set_as_current=False)
    monkeypatch.delenv("CELERY_APP", raising=False)
    assert (named_on_command_line(), typed_name(app)) == (None, "internal.name")
    assert typed_name(Celery(set_as_current=False)) == "PROJ"
    monkeypatch.setenv("CELERY_APP", "shop.by_environment")
    assert typed_name(app) == "shop.by_environment"
    context = click.Context(click.Command("celery"), info_name="celery")
    context.params = {"app": "shop.typed"}
    with context.scope(), click.Context(click.Command("worker"), parent=context).scope():
        assert typed_name(app) == "shop.typed"
    context.params = {"app": app}  # `app.worker_main()`
    with context.scope():
        assert typed_name(app) == "shop.by_environment"
