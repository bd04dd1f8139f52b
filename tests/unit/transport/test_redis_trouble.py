"""Which of Redis's refusals pass, and that trouble is said once."""

from __future__ import annotations

import logging

import pytest
from kombu.exceptions import OperationalError
from redis import exceptions

from celery_guardrails.transport.redis.trouble import Trouble, passing

TOO_FULL = "command not allowed when used memory > 'maxmemory'."
FULL: Exception = (
    exceptions.OutOfMemoryError(TOO_FULL)
    if hasattr(exceptions, "OutOfMemoryError")
    else exceptions.ResponseError(f"OOM {TOO_FULL}")  # redis-py before 5
)

ANSWERS = [
    (FULL, "OOM"),
    (exceptions.ResponseError(f"OOM {TOO_FULL}"), "OOM"),
    (exceptions.ReadOnlyError("You can't write against a read only replica."), "READONLY"),
    (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
    (exceptions.TryAgainError("Multiple keys request during rehashing of slot"), "TRYAGAIN"),
    (exceptions.ClusterDownError("The cluster is down"), "CLUSTERDOWN"),
    (exceptions.MasterDownError("Link with MASTER is down"), "MASTERDOWN"),
    (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write. script: 60c3, on @user_script:27."),
     "NOREPLICAS"),
    (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
    (exceptions.ResponseError("BUSY Redis is busy running a script."), "BUSY"),
    (exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), "UNBLOCKED"),
    # how a script reports it: Redis 7, and before
    (exceptions.ResponseError("user_script:34: OOM command not allowed script: ab, on @user_script:34."), "OOM"),
    (exceptions.ResponseError("Error running script (call to f_ab): @user_script:2: -READONLY You can't write"),
     "READONLY"),
    (exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), None),
    (exceptions.ResponseError("BUSYGROUP Consumer Group name already exists"), None),
    (exceptions.NoScriptError("No matching script. Please use EVAL."), None),
    (exceptions.ConnectionError("Connection closed by server."), None),
    (ValueError("OOM command not allowed"), None),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), ANSWERS)
def test_a_refusal_is_known_by_its_code(error: Exception, code: str | None) -> None:
    assert passing(error) == code
    wrapped = OperationalError("x")
    wrapped.__cause__ = error
    assert passing(wrapped) == code


def test_trouble_is_said_once_and_its_end_when_nothing_is_refused_any_more(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble("this worker")
    with caplog.at_level(logging.WARNING):
        assert trouble.note("take", FULL) == "OOM"
        assert trouble.note("lease", FULL) == "OOM"
        assert trouble.note("take", ValueError("x")) is None
        trouble.over("other")
        trouble.over("take")
        assert len(caplog.messages) == 1
        trouble.over("lease")
        trouble.over("lease")
    assert caplog.messages == [
        "Redis refuses for now (OOM command not allowed when used memory > 'maxmemory'): "
        "this worker waits, and goes on by itself",
        "Redis takes commands again, after 0 s: this worker goes on",
    ]
