"""A spool that several users share: what one of them may not touch keeps nobody from shipping the rest."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import pytest

from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.service import SpoolShipping
from celery_guardrails.transport.spool import Spool
from tests.integration.acting import NOBODY, needs_root, public_folder
from tests.integration.transport.dock import DECLARED, QUEUE, Dock
from tests.integration.transport.spooling import LIMIT, entry


@contextmanager
def somebody_else() -> Iterator[None]:
    """This process without the rights of root."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Spool]:
    """A spool of that user's, to which root writes, too, below a directory that everybody may enter."""
    needs_root()
    with public_folder() as folder:
        spool = Spool(folder / "spool", LIMIT)
        spool.directory.mkdir(0o700)
        os.chown(spool.directory, NOBODY, NOBODY)
        yield spool


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "private"])
def test_an_entry_of_root_blocks_no_other(
    shared: Spool, dock: Dock, readable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    os.chown(shared.directory, 0, 0)
    foreign = shared.put(entry(b"of root"))
    foreign.chmod(stat.S_IRUSR | stat.S_IWUSR | (stat.S_IRGRP | stat.S_IROTH if readable else 0))
    dock.spool = shared
    os.chown(shared.directory, NOBODY, NOBODY)
    dock.line.publisher.publish(Envelope(b"loads the client, which another user may not read", QUEUE), [DECLARED])
    shipper = dock.another()
    with somebody_else():
        shared.put(entry(b"mine"))
        shipped = [shipper.ship(datetime.now(timezone.utc)) for _ in range(2)]
    assert shipped[0].away is None
    assert sum(each.count for each in shipped) == (2 if readable else 1)
    assert foreign.exists() is not readable
    assert caplog.text.count("is left in the spool") == (0 if readable else 1)


def test_a_directory_that_may_not_be_written_is_an_error(shared: Spool) -> None:
    path = shared.put(entry(b"1"))
    path.chmod(0o644)
    os.chown(shared.directory, 0, 0)
    shared.directory.chmod(0o755)
    with somebody_else(), pytest.raises(SpoolError, match="Permission denied"):
        shared.claim(path.name)


def test_a_directory_that_may_not_be_read_is_reported(
    shared: Spool, dock: Dock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    dock.spool = shared
    service = SpoolShipping(dock.another())
    assert shared.is_empty()
    os.chown(shared.directory, 0, 0)
    with somebody_else():
        assert not shared.is_empty()
        assert service.run_once(datetime.now(timezone.utc), flush=False) == 0
    assert "Permission denied" in caplog.text
    assert Spool(shared.directory / "not" / "there", LIMIT).is_empty()
