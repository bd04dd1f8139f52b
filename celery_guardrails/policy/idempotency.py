"""What a task declares so that its work has its effect once: `Idempotency`, a field of the policy.

Owns the fields, their defaults and the faults of a wrong one. It must not know a ledger, nor how a key is made of
arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from celery_guardrails.clock import Duration
from celery_guardrails.policy import faults, field

__all__ = ["Idempotency", "IdempotencyField", "KeyOf"]

KeyOf = Callable[[tuple[Any, ...], dict[str, Any]], str]
"""Makes a key of a task's positional and keyword arguments."""

OnDuplicate = Literal["result", "ignore"]
WhileRunning = Literal["wait", "drop"]
WhenLedgerIsDown = Literal["wait", "run"]

_LEAST = timedelta(seconds=1)


def _read_key(value: Any) -> tuple[str, ...] | KeyOf | None:
    if value is None:
        return None
    if callable(value) and not isinstance(value, type):
        try:
            inspect.signature(value).bind((), {})
        except TypeError:
            raise field.problem(value, "is a callable that does not take the arguments (args, kwargs)") from None
        except ValueError:
            pass  # a callable written in C may have no signature to look at
        found: KeyOf = value
        return found
    names = field.read_names(value)
    if not names:
        raise field.problem(value, "names no argument", 'write ("order_id",), or leave it out for the task id')
    return names


def _read_lasting(value: Any) -> timedelta:
    found = field.read_duration(value)
    if found < _LEAST:
        raise field.problem(value, "is shorter than a second", 'write "60s"')
    return found


class Idempotency(BaseModel):
    """Have a task's work take effect once: a second message with the same key gets the first one's result.

    Args:
        key: what tells works apart: names of arguments, or a callable `(args, kwargs) -> str`. `None`: the task id, so
            that only a message that is delivered twice is recognised. `apply_async(idempotency_key=...)` wins over it.
            Default `None`.
        scope: tasks with the same scope share their keys. `None`: the task's name. Default `None`.
        ttl: how long it is remembered that work is done, and how long its key is kept between two attempts. Choose more
            than the task's retries may take. Default 24 hours.
        lease: how long nobody else begins the work after the worker that does it was last seen. Its main process renews
            the lease while the body runs, also while the body blocks. Default 60 seconds.
        on_duplicate: how a message ends whose work is done: with `"result"` in state SUCCESS, with the first one's
            result; with `"ignore"` in state IGNORED. Default `"result"`.
        while_running: a message whose work is being done waits outside the workers, or with `"drop"` ends at once, as
            `on_duplicate` says, without a result. Default `"wait"`.
        keep_result: bytes of a result that the ledger keeps. A larger one is looked up in the result backend, if there
            is one. Default 65,536 (64 KiB).
        when_ledger_is_down: with `"wait"` the task waits until the ledger answers; with `"run"` it runs, unprotected.
            Default `"wait"`.

    Raises:
        ConfigurationError: a field is unknown or wrong. While faults are collected, wrong fields are left at their
            default.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    key: Annotated[tuple[str, ...] | KeyOf | None, PlainValidator(_read_key)] = None
    scope: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    ttl: Annotated[timedelta, PlainValidator(_read_lasting)] = timedelta(hours=24)
    lease: Annotated[timedelta, PlainValidator(_read_lasting)] = timedelta(seconds=60)
    on_duplicate: Annotated[OnDuplicate, field.choice("result", "ignore")] = "result"
    while_running: Annotated[WhileRunning, field.choice("wait", "drop")] = "wait"
    keep_result: Annotated[int, Field(ge=0)] = 65_536
    when_ledger_is_down: Annotated[WhenLedgerIsDown, field.choice("wait", "run")] = "wait"

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            key: Sequence[str] | KeyOf | None = ...,
            scope: str | None = ...,
            ttl: Duration = ...,
            lease: Duration = ...,
            on_duplicate: OnDuplicate = ...,
            while_running: WhileRunning = ...,
            keep_result: int = ...,
            when_ledger_is_down: WhenLedgerIsDown = ...,
        ) -> None: ...

    else:

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                found = faults.faults_in(error, type(self), "idempotency.")
                wrong = {fault.setting.removeprefix("idempotency.").partition(".")[0] for fault in found}
                super().__init__(**{name: value for name, value in data.items() if name not in wrong})
                faults.report(found)


def _read(value: Any) -> Idempotency | None:
    if value is None or isinstance(value, Idempotency):
        return value
    if value is True:
        return Idempotency()
    if value is False:
        return None
    if not isinstance(value, Mapping):
        raise field.problem(value, "is not an Idempotency", 'write Idempotency(key=("order_id",))')
    with faults.collecting() as found:
        read = Idempotency(**{str(name): each for name, each in value.items()})
    for fault in found:
        at = fault.setting.removeprefix("idempotency.")
        words = {"problem": fault.problem, "hint": fault.suggestion or "", "value": fault.value, "at": at}
        raise PydanticCustomError("guardrails", "{problem}", words)
    return read


IdempotencyField = Annotated[Idempotency | None, PlainValidator(_read)]
