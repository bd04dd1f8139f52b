"""Submits the planned work at an even pace and notes each id when the broker has confirmed it.

`python -m tests.chaos.submitter SEED COUNT SECONDS`, as a child of the suite. An id whose publish raised may or may
not exist: it stays noted as tried, and the work is submitted again under another id.
"""

from __future__ import annotations

import sys
import time
import uuid
from typing import Any

from celery import chain

from tests.chaos.app import _ledger, app
from tests.chaos.work import KINDS, Work, plan

__all__ = ["Submitter"]

_PAUSE = 0.3


class Submitter:
    """Publishes over one connection, which it opens anew after each failure; nothing is published twice by itself."""

    def __init__(self) -> None:
        self._producer: Any = None

    def submit(self, work: Work) -> None:
        """Submit, under new ids, until the broker has confirmed it."""
        while not self._submitted(work):
            time.sleep(_PAUSE)

    def _submitted(self, work: Work) -> bool:
        """Try once. The ids are noted before, so that none is unknown that may exist."""
        ids = _note(work)
        try:
            options = {"retry": False, "confirm_timeout": 10, "producer": self._open(), **work.options}
            if app.conf.broker_url.startswith("redis"):
                del options["confirm_timeout"]
            _signature(work, ids).apply_async(**options)
        except Exception as exc:  # noqa: BLE001 whatever it raises, the broker did not confirm
            sys.stdout.write(f"not confirmed: {ids[0]} {type(exc).__name__}: {exc}\n")
            self._close()
            return False
        for id in ids:
            _ledger.write("sure", id)
        if work.revoke:
            self._revoke(ids[0])
        return True

    def _revoke(self, id: str) -> None:
        _ledger.write("revoke", id)
        try:
            app.control.revoke(id, connection=self._producer.connection)
        except Exception as exc:  # noqa: BLE001 then it is not revoked, and runs
            sys.stdout.write(f"not revoked: {id} {type(exc).__name__}: {exc}\n")
            self._close()

    def _open(self) -> Any:
        if self._producer is None:
            connection = app.connection_for_write(connect_timeout=5)
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            self._producer = app.amqp.Producer(connection.channel())
        return self._producer

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.connection.collect()
            except Exception as exc:  # noqa: BLE001 it is given up anyway
                sys.stdout.write(f"closing: {exc}\n")


def _note(work: Work) -> list[str]:
    if not work.kind.links:
        id = str(uuid.uuid4())
        _ledger.write("try", id, kind=work.kind.name, digest=work.digest)
        return [id]
    ids = [str(uuid.uuid4()) for _ in work.kind.links]
    for place, (id, kind) in enumerate(zip(ids, work.kind.links, strict=True)):
        _ledger.write("try", id, kind=kind, digest=work.digest, after=ids[place - 1] if place else None)
    return ids


def _signature(work: Work, ids: list[str]) -> Any:
    kinds = work.kind.links or (work.kind.name,)
    links = [
        app.signature(KINDS[kind].task, kwargs=work.kwargs, immutable=True, task_id=id)
        for kind, id in zip(kinds, ids, strict=True)
    ]
    return chain(*links) if work.kind.links else links[0]


def main(seed: int, count: int, seconds: float) -> None:
    """Submit `count` tasks of the seed's plan over so many seconds, or as fast as it goes."""
    submitter, started = Submitter(), time.monotonic()
    for number, work in enumerate(plan(seed, count)):
        time.sleep(max(0.0, started + seconds * number / count - time.monotonic()))
        submitter.submit(work)
    sys.stdout.write("all submitted\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
