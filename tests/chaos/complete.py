"""Whether a dead letter is complete: it decodes, holds what was submitted, and says why in a way that fits its kind.

Owns that one question. It reads letters as users' tools do, by the product's codec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from tests.chaos.archive import Archived
from tests.chaos.ledger import Run, Sent
from tests.chaos.storm import Struck
from tests.chaos.work import Kind, digest_of

__all__ = ["KILLS", "faults_of"]

_ATTEMPTS = 5  # a policy's default
KILLS = ("worker killed", "worker and its children killed", "pool child killed", "cold shutdown")
"""The faults that end a process which runs tasks."""
_CUTS = ("broker stopped", "broker killed", "connections cut")
_ACKNOWLEDGED = 5.0
"""Seconds within which the end of a run is acknowledged, however busy the machine is."""


def faults_of(row: Archived, sent: Sent, kind: Kind, runs: Sequence[Run], struck: Sequence[Struck]) -> Iterator[str]:
    """What is wrong with a letter, in words; nothing when it is complete."""
    try:
        letter = decode(row.payload)
    except Exception as exc:  # noqa: BLE001 whatever is wrong with it is what is asked
        yield f"does not decode: {type(exc).__name__}: {exc}"
        return
    if letter.task != kind.task or letter.task_id != sent.id:
        yield f"is of {letter.task}[{letter.task_id}]"
    yield from _of_message(letter, sent)
    numbers = [attempt.number for attempt in letter.attempts]
    if numbers != sorted(set(numbers)):
        yield f"attempts {numbers}"
    if letter.reason == "attempts_exhausted" and (not numbers or numbers[-1] != kind.attempts):
        yield f"attempts {numbers}, exhausted after {kind.attempts}"
    if letter.reason != row.reason:
        yield f"archived with reason {row.reason}"
    if (why := _unfit(letter, kind, runs, struck)) is not None:
        yield why


def _of_message(letter: Letter, sent: Sent) -> Iterator[str]:
    headers = letter.message.headers
    if headers.get("id") != sent.id or headers.get("task") != letter.task:
        yield f"the original's headers name {headers.get('task')}[{headers.get('id')}]"
    try:
        args, kwargs, _ = json.loads(letter.message.body)
    except ValueError as exc:
        yield f"the original body does not decode: {exc}"
        return
    if digest_of(args, kwargs) != sent.digest:
        yield "the original body is not what was submitted"


def _unfit(letter: Letter, kind: Kind, runs: Sequence[Run], struck: Sequence[Struck]) -> str | None:
    """Why the reason does not fit; `None` when it does: it is the kind's own, or a fault accounts for it."""
    reason = letter.reason.value
    if reason in kind.reasons:
        return None
    faults = {fault.fault for fault in struck}
    broker_hurt = any("broker" in fault or fault == "connections cut" for fault in faults)
    if reason == "worker_lost" and kind.once and faults.isdisjoint(KILLS):
        return "no worker was killed"
    if reason == "worker_lost":
        lost = sum(1 for run in runs if run.ended_at is None or _was_cut_off(run, struck))
        # a crash is an execution: without an attempt left the first is the last; at-most-once work that was given to
        # a child is gone with it, begun or not
        last = bool(letter.attempts) and letter.attempts[-1].number >= (kind.attempts or _ATTEMPTS)
        least = 0 if kind.once else 1 if last else kind.crashes
        return None if lost >= least else f"{lost} workers were lost, it takes {least}"
    # or its broker did not answer to the acknowledgement
    if reason == "cancelled" and kind.once and ("cold shutdown" in faults or broker_hurt):
        return None
    if reason == "retry_unpublishable" and runs and broker_hurt:
        return None
    if reason == "result_unstorable" and any(run.ended_at is not None for run in runs) and broker_hurt:
        return None
    return f"a task of this kind does not die so: {letter.explanation} {letter.failure.message[:200]}"


def _was_cut_off(run: Run, struck: Sequence[Struck]) -> bool:
    """Whether the connection of whoever ran it was lost before its end was acknowledged: no broker tells that apart."""
    ended = run.ended_at or run.at
    return any(fault.fault in _CUTS and run.at <= fault.until and fault.at <= ended + _ACKNOWLEDGED for fault in struck)
