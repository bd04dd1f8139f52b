"""Putting dead work back: claim it, publish it, note the publish.

Owns the order of these three steps, and what happens after a crash between them. It must not know the broker: a
`RequeuePublisher` publishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from celery_guardrails.errors import PublishError, RequeueFailed
from celery_guardrails.letters.replay import ReplayMessage, is_once, replay
from celery_guardrails.recovery.transition import (
    Claim,
    claim_requeue,
    requeue_failed,
    requeue_finished,
    requeue_published,
    take_over,
    unpublished_claims,
)
from celery_guardrails.store.engine import Store

__all__ = ["Finished", "RequeuePublisher", "Requeued", "finish_requeues", "requeue"]


_UNCONFIRMED = (
    "the process that requeued it died before the broker's answer, so it may have been published and may have run: "
    "it is not published again, because it runs at most once (acks early)"
)


class RequeuePublisher(Protocol):
    """Publishes a message to where the original went."""

    def publish(self, message: ReplayMessage) -> None:
        """Publish a message, and wait until the broker has confirmed it.

        Raises:
            PublishError: the broker did not confirm the message.
        """


@dataclass(frozen=True, slots=True)
class Requeued:
    """One dead letter that is back in its queue. `generation` counts this requeue."""

    id: str
    task: str
    queue: str
    generation: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one abandoned claim. `error` is why it is dead again, `None` if the broker took the message."""

    id: str
    generation: int
    error: str | None = None


def requeue(
    store: Store, publisher: RequeuePublisher, letter_id: str, actor: str, reason: str, now: datetime
) -> Requeued:
    """Put one dead letter back into its queue.

    If several try at once, one wins. If this process dies after the claim, or loses the archive, a guardian publishes
    the message later: the work runs at least once, and twice if the message was published before. Work that runs at
    most once is not published again: it becomes dead again.

    Args:
        store: the archive.
        publisher: how to publish.
        letter_id: the letter's id, or an unambiguous beginning of it.
        actor: who does it.
        reason: why.
        now: this instant.

    Raises:
        ReasonRequired: the reason is blank.
        DeadLetterNotFound: no id begins so, or several do.
        InvalidTransition: the letter is not `dead`, or holds no task message.
        RequeueFailed: the broker did not take the message; the letter is `dead` again.
        StoreError: the archive failed; if the letter was claimed before, a guardian publishes it.
    """
    claim = claim_requeue(store, letter_id, actor, reason, now)
    error = _publish(publisher, claim, now)
    if error is None:
        requeue_published(store, claim, now)
    # `False`: a worker has already reported the work, so the broker did take the message
    elif requeue_failed(store, claim, error, now):
        raise RequeueFailed(claim.id, f"{error}; it is dead again")
    return Requeued(claim.id, claim.letter.task, claim.letter.queue, claim.generation)


def finish_requeues(
    store: Store, publisher: RequeuePublisher, now: datetime, grace: timedelta = timedelta(seconds=60)
) -> list[Finished]:
    """Publish the claims whose process died before the publish, or before it noted the publish. Runs in the guardian.

    Each message is published at least once: if it was published without a note, it is published again, with the same
    id and generation, by which a worker can recognise it. Work that runs at most once is not published again: it
    becomes dead again, for somebody to look at. If several guardians run, one of them publishes each message. The audit
    trail says for each claim that the guardian `finished` it, or that it `failed`, with the claimer's reason.

    Args:
        store: the archive.
        publisher: how to publish.
        now: this instant.
        grace: how long a claim is left to the process that made it; longer than a publish may take.
    """
    older_than = now - grace
    finished = []
    for letter_id in unpublished_claims(store, older_than):
        claim = take_over(store, letter_id, older_than, now)
        if claim is not None:
            finished.append(_finish(store, publisher, claim, now))
    return finished


def _finish(store: Store, publisher: RequeuePublisher, claim: Claim, now: datetime) -> Finished:
    error = _UNCONFIRMED if is_once(claim.letter) else _publish(publisher, claim, now)
    if error is not None and requeue_failed(store, claim, error, now):
        return Finished(claim.id, claim.generation, error)
    requeue_finished(store, claim, now)
    return Finished(claim.id, claim.generation)


def _publish(publisher: RequeuePublisher, claim: Claim, now: datetime) -> str | None:
    """Publish a claim; returns the error in words, or `None`."""
    try:
        publisher.publish(replay(claim.letter, claim.generation, claim.id, claim.token, now))
    except Exception as exc:  # noqa: BLE001 after any error the claim is given back: nobody publishes it
        return str(exc) if isinstance(exc, PublishError) else f"{type(exc).__name__}: {exc}"
    return None
