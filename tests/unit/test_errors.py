from __future__ import annotations

import inspect
import pickle

import pytest

from celery_guardrails import errors
from celery_guardrails.errors import (
    ConfigurationError,
    DeadLetterNotFound,
    Fault,
    InvalidTransition,
    PermanentError,
    PublishError,
    QueryError,
    ReasonRequired,
    RequeueFailed,
    SchemaMismatch,
    SinkError,
    SpoolError,
    StoreError,
    TransientError,
    Trouble,
    Undelivered,
    Unlistable,
    nearest,
)


class QuotaError(TransientError):
    pass


SAMPLES = [
    errors.GuardrailsError("broken"),
    ConfigurationError([Fault("jitter", "2", "is too much", task="shop.send"), Fault("acks", "'x'", "is wrong")]),
    ConfigurationError([]),
    PublishError("celery.dead_letter", "not confirmed"),
    PublishError("celery.dead_letter", "no such queue", refused=True),
    errors.UnansweredError("Redis at redis://localhost:6379/0", "refused"),
    StoreError("sqlite:///x", "cannot be opened"),
    SpoolError("guardrails.spool", "it is full"),
    Unlistable("eta"),
    SchemaMismatch("sqlite:///x", "is newer"),
    QueryError("taks", "unknown field", "task"),
    QueryError("taks", "unknown field"),
    errors.DeadLetterError("4711", "is odd"),
    DeadLetterNotFound("4711"),
    DeadLetterNotFound("47", "several letters begin so"),
    errors.DeadLetterAmbiguous("47", ("4711", "4712")),
    errors.DeadLetterAmbiguous("bill", ["4711", "4712"], of_one_task_id=True),
    errors.NoArchive("sqlite:///x", "no archive yet"),
    StoreError("postgresql://x", "connection refused", away=True),
    InvalidTransition("4711", "is recovered"),
    RequeueFailed("4711", "not confirmed"),
    errors.AlertRefused("there is no alert ffff"),
    errors.KeyRefused("the work 'order-4711' is being done"),
    SinkError("ratelimited", True, 3.0),
    Undelivered(Trouble.CHANNEL, "not_in_channel"),
    Undelivered(Trouble.RATE_LIMITED, "ratelimited", 3.0),
    ReasonRequired("requeue"),
    errors.TaskAborted("SystemExit", "3"),
    errors.TaskAborted("GeneratorExit"),
    errors.LedgerError("redis://***", "it does not answer"),
    errors.LeaseLost("order-4711", 3),
    PermanentError("card refused"),
    TransientError("busy", 7, retry_after=12.5),
    TransientError(),
    QuotaError("daily", retry_after=60),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_the_way_between_processes(error, protocol):
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_every_class_is_in_the_round_trip():
    classes = {value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)}
    assert classes <= {type(sample) for sample in SAMPLES}


def test_a_configuration_error_lists_every_fault_and_names_the_first():
    error = SAMPLES[1]
    assert (error.setting, error.value) == ("jitter", "2")
    assert str(error).splitlines() == [
        "2 faults:",
        "  task shop.send: jitter = 2: is too much",
        "  acks = 'x': is wrong",
    ]
    assert str(ConfigurationError([Fault("a", "1", "bad", suggestion="did you mean b?")])) == (
        "a = 1: bad (did you mean b?)"
    )
    assert (ConfigurationError([]).setting, ConfigurationError([]).value) == ("", "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PublishError("q", "no route"), "could not publish to q: no route"),
        (
            errors.UnansweredError("Redis at redis://r:6379/0", "Timeout: x"),
            "Redis at redis://r:6379/0 does not answer: Timeout: x",
        ),
        (StoreError("sqlite:///x", "locked"), "archive sqlite:///x: locked"),
        (QueryError("taks", "unknown field", "task"), "taks: unknown field (did you mean 'task'?)"),
        (QueryError("taks", "unknown field"), "taks: unknown field"),
        (DeadLetterNotFound("4711"), "dead letter 4711: not found"),
        (SinkError("ratelimited"), "ratelimited"),
    ],
)
def test_an_error_says_what_is_wrong(error, text):
    assert str(error) == text


def test_nearest_is_none_when_nothing_is_close():
    assert nearest("max_atempts", ["max_attempts", "deadline"]) == "max_attempts"
    assert nearest("zzz", ["max_attempts", "deadline"]) is None
