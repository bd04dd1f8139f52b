"""A soft time limit as the pool sends it: a signal to this very process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler


@pytest.fixture
def pool_process() -> Iterator[None]:
    """Have this process take a soft time limit as a process of the pool does."""
    before = signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)
    yield
    signal.signal(SIG_SOFT_TIMEOUT, before)


def limit() -> None:
    """A soft time limit passes now."""
    os.kill(os.getpid(), SIG_SOFT_TIMEOUT)
