"""A shop on a broker in memory, and its commands in this process, against a real archive in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_guardrails import Constant, GuardedTask, Policy
from celery_guardrails.cli import guardian, guardrails
from celery_guardrails.letters.record import Letter
from celery_guardrails.store.engine import Store
from tests.unit.cli.deaths import archived


class Shop:
    """The application, its archive, and a way to run its commands."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path / "archive.sqlite3"
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.app.conf.task_default_queue = "shop.tasks"
        self.app.conf.guardrails = {
            "environment": "test",
            "store": {"url": f"sqlite:///{self.path}"},
            "dead_letter": {"queue": "shop.dead", "publish_timeout": "200ms"},
            "retention": dict.fromkeys(("dead", "recovered", "discarded", "audit")),  # the letters here are old
            **settings,
        }
        self._store: Store | None = None

        @self.app.task(
            shared=False, base=GuardedTask, name="shop.mail", policy=Policy(backoff=Constant("1s"), owner="growth")
        )
        def mail(order_id: int) -> None: ...

        @self.app.task(
            shared=False, base=GuardedTask, name="shop.import", policy=Policy(dead_letter_queue="shop.imports")
        )
        def import_(path: str) -> None: ...

        @self.app.task(shared=False, name="vendor.sync")
        def sync() -> None: ...

        self.mail = mail

    def archive(self, *letters: Letter) -> Store:
        """Fill the archive, once."""
        self._store = archived(self.path, letters)
        return self._store

    @property
    def store(self) -> Store:
        """The archive, as `archive` made it."""
        assert self._store is not None
        return self._store

    def run(self, *words: str, stdin: str | None = None) -> Result:
        """Run `celery guardrails WORDS`, or `celery guardian` when they begin so; `stdin` is piped into it."""
        command, arguments = (guardian, words[1:]) if words[0] == "guardian" else (guardrails, words)
        context = CLIContext(app=self.app, no_color=True, workdir=None)
        return runner().invoke(command, list(arguments), obj=context, input=stdin)

    def json(self, *words: str, code: int = 0) -> Any:
        """What a command prints with `--json`, which must be one value and nothing else."""
        result = self.run(*words, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def close(self) -> None:
        """Close the archive, and forget what waits in the broker in memory."""
        if self._store is not None:
            self._store.close()
        with self.app.connection_for_write() as connection:
            for queue in ("shop.tasks", "shop.dead", "shop.imports", "shop.dead.recovered", "shop.imports.recovered"):
                connection.default_channel.queue_purge(queue)
        self.app.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop with its archive still to be filled."""
    made = Shop(tmp_path)
    yield made
    made.close()


def runner() -> CliRunner:
    """A runner that keeps stdout and stderr apart, as every version of click but the oldest does by itself."""
    try:
        return CliRunner(mix_stderr=False)  # type: ignore[call-arg, unused-ignore]
    except TypeError:
        return CliRunner()


def lines(text: str) -> Sequence[str]:
    """The lines that are not empty."""
    return [line for line in text.splitlines() if line.strip()]
