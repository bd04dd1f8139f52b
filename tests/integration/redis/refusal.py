"""A Redis that refuses, as it does in the field, and takes commands again afterwards."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import redis

from tests.conftest import Broker
from tests.port import reserve_port
from tests.waiting import wait_until

__all__ = ["REFUSALS", "refusing"]

REFUSALS = {
    "full": "OOM",
    "alone": "NOREPLICAS",
    "replica": "READONLY|UNBLOCKED",
    "unsaved": "MISCONF",
}
"""Ways to refuse, and what the server then answers."""


@contextlib.contextmanager
def refusing(broker: Broker, how: str) -> Iterator[None]:
    """The broker refuses in this way, for as long as the block lasts."""
    with contextlib.ExitStack() as undo, redis.Redis.from_url(broker.url) as client:
        _WAYS[how](broker, client, undo)
        yield


def _full(broker: Broker, client: Any, undo: contextlib.ExitStack) -> None:
    undo.callback(client.config_set, "maxmemory", 0)
    client.config_set("maxmemory", "100kb")


def _alone(broker: Broker, client: Any, undo: contextlib.ExitStack) -> None:
    undo.callback(client.config_set, "min-replicas-to-write", 0)
    client.config_set("min-replicas-to-write", 1)


def _replica(broker: Broker, client: Any, undo: contextlib.ExitStack) -> None:
    undo.callback(client.replicaof, "NO", "ONE")
    client.replicaof("127.0.0.1", reserve_port())


def _unsaved(broker: Broker, client: Any, undo: contextlib.ExitStack) -> None:
    """No snapshot can be written: where it goes, there is a folder."""
    folder = broker.server.directory / "dump.rdb"
    folder.unlink(missing_ok=True)

    def saved() -> Any:
        with contextlib.suppress(redis.exceptions.ResponseError):
            client.bgsave()
        return client.info("persistence")["rdb_last_bgsave_status"] == "ok"

    def mend() -> None:
        shutil.rmtree(folder)
        wait_until(saved, 30, "a snapshot is written")
        client.config_set("save", "")

    undo.callback(mend)
    folder.mkdir()
    client.config_set("save", "3600 1")
    wait_until(lambda: not saved(), 30, "a snapshot fails")


_WAYS: dict[str, Callable[[Broker, Any, contextlib.ExitStack], None]] = {
    "full": _full, "alone": _alone, "replica": _replica, "unsaved": _unsaved,
}  # fmt: skip
