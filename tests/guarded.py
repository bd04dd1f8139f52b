"""What tests of guarded tasks on a real broker share: the application, its worker, its dead letters.

`Guarded` loads `tests/apps/guarded.py` anew for each test, with that test's broker, so that several can be used in one
process one after the other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from celery import _state

from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import declared_queue
from tests.apps import vendor  # noqa: F401 its task is shared, and known before `Guarded` looks for others
from tests.harness import Harness, Process
from tests.waiting import wait_until

__all__ = ["APP", "Guarded"]

APP = "tests.apps.guarded"


class Guarded:
    """The guarded application of one test, as a producer sees it, and a worker for it.

    Args:
        harness: starts the processes; gets the application's variables.
        broker_url: the broker.
        backend_url: the result backend.
        settings: what to add to the application's `guardrails` settings.
        module: which of `tests/apps` it is.
    """

    def __init__(
        self,
        harness: Harness,
        broker_url: str,
        backend_url: str,
        settings: Mapping[str, Any],
        module: str = "guarded",
    ) -> None:
        self.harness = harness
        self.module = module
        self.runs_folder = harness.folder / "runs"
        self.runs_folder.mkdir(exist_ok=True)
        self.prefix = f"g{uuid.uuid4().hex[:8]}"
        self.store_url = f"sqlite:///{harness.folder / 'archive.sqlite3'}"
        harness.environment.update(
            BROKER_URL=broker_url,
            RESULT_BACKEND=backend_url,
            GUARDED_PREFIX=self.prefix,
            GUARDED_RUNS=str(self.runs_folder),
            GUARDED_STORE=self.store_url,
            GUARDED_SETTINGS=json.dumps(settings),
        )
        self.tasks = self._load()
        self.app = self.tasks.app
        self._letters: list[Letter] = []
        self._once_each = False

    def worker(self, *options: str, pool: str = "prefork", env: Mapping[str, str] | None = None) -> Process:
        """Start a worker and wait until it takes tasks."""
        return self.harness.worker(f"tests.apps.{self.module}", *options, pool=pool, env=env)

    def break_(self, key: str) -> None:
        """Break what tasks depend on."""
        (self.runs_folder / f"{key}.broken").touch()

    def repair(self, key: str) -> None:
        """Repair it."""
        (self.runs_folder / f"{key}.broken").unlink()

    def runs(self, key: str) -> list[dict[str, Any]]:
        """What was noted about each run of `key`, in order."""
        path = self.runs_folder / key
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_runs(self, key: str, count: int, bound: float = 60.0) -> list[dict[str, Any]]:
        """Wait until `key` has run so often."""
        wait_until(lambda: len(self.runs(key)) >= count, bound, lambda: f"{count} runs of {key}")
        return self.runs(key)

    def letters(self, count: int, bound: float = 60.0) -> list[Letter]:
        """Wait until so many dead letters have arrived, and return them, in the order of their queue."""
        with self._consumer() as consumer:
            wait_until(
                lambda: self._receive_by(consumer) >= count,
                bound,
                lambda: f"{count} dead letters, there are {self._letters}",
            )
        return self._letters

    def letter(self, bound: float = 60.0) -> Letter:
        """The only dead letter."""
        (letter,) = self.letters(1, bound)
        return letter

    def finish(self, bound: float = 60.0) -> None:
        """Wait until a task that is published now has run, so that whatever came before it has been taken."""
        key = f"finish-{uuid.uuid4().hex[:6]}"
        self.tasks.heard.apply_async(kwargs={"key": key})
        self.wait_for_runs(key, 1, bound)

    def rest(self) -> None:
        """Wait until the workers have heard of the end of all that they have run: they acknowledge it then."""

        def is_idle() -> bool:
            active = self.app.control.inspect(timeout=2).active()
            return bool(active) and not any(active.values())

        wait_until(is_idle, 60, "workers that run nothing")

    def no_letters(self) -> None:
        """Fail if a dead letter has arrived."""
        self.finish()
        self._receive(wait=0.3)
        assert self._letters == []

    def no_more_letters(self, count: int) -> None:
        """Fail if there are more dead letters than so many."""
        self.finish()
        assert self._receive(wait=0.3) == count, self._letters

    def once_each(self) -> None:
        """Count a letter that comes twice once, as the archive does.

        For workers with little patience: what a busy broker has not confirmed in their second, they publish again.
        """
        self._once_each = True

    def letters_so_far(self) -> list[Letter]:
        """The dead letters that have arrived."""
        self._receive(wait=0.3)
        return self._letters

    def _receive(self, wait: float = 0.2) -> int:
        with self._consumer() as consumer:
            return self._receive_by(consumer, wait)

    @contextmanager
    def _consumer(self) -> Iterator[DeadLetterConsumer]:
        consumer = DeadLetterConsumer(self.app, [declared_queue(f"{self.prefix}.dead")])
        try:
            yield consumer
        finally:
            consumer.close()

    def _receive_by(self, consumer: DeadLetterConsumer, wait: float = 0.2) -> int:
        while batch := consumer.receive(50, wait):
            for letter in (decode(delivery.body) for delivery in batch):
                if not (self._once_each and letter.id in {known.id for known in self._letters}):
                    self._letters.append(letter)
            consumer.settle(batch)
        return len(self._letters)

    def _load(self) -> Any:
        path = Path(__file__).parent / "apps" / f"{self.module}.py"
        spec = importlib.util.spec_from_file_location(f"{self.module}_{self.prefix}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        shared = set(_state._on_app_finalizers)
        with mock.patch.dict(os.environ, self.harness.environment):
            import sys

            sys.modules[spec.name] = module  # pydantic looks up annotations there
            spec.loader.exec_module(module)
        # shared tasks would be registered with every application that this process makes later
        assert shared == _state._on_app_finalizers, f"{path.name}: declare its tasks with shared=False"
        return module
