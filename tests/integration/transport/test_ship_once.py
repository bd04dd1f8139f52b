"""Shipping what must not be there twice: in doubt nobody publishes it again, and it is handed on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from celery_guardrails.errors import PublishError
from celery_guardrails.transport import publisher as module
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.shipping import Shipper
from celery_guardrails.transport.spooled import Spooled
from tests.integration.transport.conftest import GIVES_UP
from tests.integration.transport.dock import DECLARED, NOW, QUEUE, Dock
from tests.integration.transport.spooling import entry
from tests.integration.transport.test_spool import dead_pid


def once(body: bytes) -> Spooled:
    spooled = entry(body, QUEUE)
    return replace(spooled, envelope=replace(spooled.envelope, once=True))


def claimed_by_the_dead(dock: Dock, path: Path) -> Path:
    """As if the process that shipped it had been killed between publishing and removing it."""
    return path.rename(f"{path}.shipping-{dead_pid()}@{module_host()}")


def module_host() -> str:
    import socket

    from celery_guardrails.transport.disk import slug

    return slug(socket.gethostname())


@pytest.mark.own_lines
def test_a_confirmation_that_gets_lost_is_a_doubt(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    line = dock.line
    line.publisher.publish(Envelope(b"before", QUEUE), [DECLARED])
    dock.spool.put(once(b"once"))
    ask: Callable[..., None] = module._find_alive

    def freeze(*args: Any) -> None:
        ask(*args)
        line.publisher.seconds = GIVES_UP
        line.broker.server.pause()

    monkeypatch.setattr(module, "_find_alive", freeze)
    shipped = dock.shipper.ship(NOW)
    line.broker.server.resume()
    assert (shipped.count, shipped.away, dock.doubted) == (1, None, [b"once"])
    assert list(dock.spool.directory.iterdir()) == []
    assert line.bodies(QUEUE).count(b"once") <= 1


def test_what_a_dead_process_was_shipping_is_not_published_again(dock: Dock) -> None:
    dock.line.publisher.publish(Envelope(b"before", QUEUE), [DECLARED])
    claimed_by_the_dead(dock, dock.spool.put(once(b"once")))
    claimed_by_the_dead(dock, dock.spool.put(entry(b"again", QUEUE)))
    assert dock.shipper.ship(NOW).count == 2
    assert dock.doubted == [b"once"]
    assert dock.line.bodies(QUEUE) == [b"before", b"again"]
    assert dock.spool.is_empty()


@pytest.mark.own_lines
def test_while_the_broker_is_away_there_is_no_doubt(away: Dock) -> None:
    away.spool.put(once(b"once"))
    for _ in range(2):
        assert away.shipper.ship(NOW).away is not None
    (path,) = away.spool.directory.iterdir()
    assert ".shipping-" not in path.name
    away.line.broker.server.start()
    away.line.publisher.seconds = 20.0
    away.line.publisher._away_until = 0.0
    assert away.another().ship(NOW).count == 1
    assert away.line.bodies(QUEUE) == [b"once"]
    assert away.doubted == []


@pytest.mark.own_lines
def test_a_doubt_stays_until_somebody_has_taken_it(dock: Dock) -> None:
    def refuse(spooled: Spooled, why: str, now: datetime) -> None:
        raise PublishError("letters", "nobody takes it")

    dock.line.publisher.publish(Envelope(b"before", QUEUE), [DECLARED])
    claimed_by_the_dead(dock, dock.spool.put(once(b"once")))
    first = Shipper(dock.spool, dock.line.publisher, dock.waiting, dock._queues, refuse).ship(NOW)
    assert (first.count, first.away) == (0, "PublishError: could not publish to letters: nobody takes it")
    (path,) = dock.spool.directory.iterdir()
    assert f".shipping-{os.getpid()}@" in path.name
    assert dock.shipper.ship(NOW).count == 0  # somebody ships it, as far as this pass knows
    then = time.time() - 3600
    os.utime(path, (then, then))
    assert dock.shipper.ship(NOW).count == 1
    assert (dock.doubted, dock.line.bodies(QUEUE)) == ([b"once"], [b"before"])


def test_the_claim_is_on_the_disk_before_it_is_published(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not make what may be published look as if nobody had touched it."""
    from celery_guardrails.transport import folder

    did: list[str] = []
    sync = folder.sync_descriptor
    publish = dock.line.publisher.publish
    monkeypatch.setattr(folder, "sync_descriptor", lambda descriptor: (did.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(dock.line.publisher, "publish", lambda *given: (did.append("publish"), publish(*given))[1])
    dock.spool.put(once(b"once"))
    did.clear()
    assert dock.shipper.ship(NOW).count == 1
    assert did == ["sync", "publish", "sync"]
