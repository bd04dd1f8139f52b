"""Putting dead work back: claim, publish, note it.

Owns the order of these three and what a crash between them means. It must not know the broker: a `RequeuePublisher`
publishes.
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


_UNTOLD = (
    "whoever requeued it died before the broker's answer: it may have been published, and run, so that it is not "
    "published again (it runs at most once, acks early)"
)


class RequeuePublisher(Protocol):
    """Publishes a message to where the original went."""

    def publish(self, message: ReplayMessage) -> None:
        """Publish it and wait until the broker has confirmed it.

        Raises:
            PublishError: the broker did not confirm it.
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
    """What became of one abandoned claim. `error` is why the broker did not take it, `None` when it did."""

    id: str
    generation: int
    error: str | None = None


def requeue(
    store: Store, publisher: RequeuePublisher, letter_id: str, actor: str, reason: str, now: datetime
) -> Requeued:
    """Put one dead letter back into its queue.

    Of several who try at once, one wins. Should this process die, or the archive be lost, after the claim, a guardian
    publishes the message later: it runs at least once, and twice when it had been published after all. What runs at
    most once is not published again, and dead again instead.

    Args:
        store: the archive.
        publisher: how to publish.
        letter_id: its id, or an unambiguous beginning of it.
        actor: who does it.
        reason: why.
        now: this instant.

    Raises:
        ReasonRequired: the reason is blank.
        DeadLetterNotFound: no id begins so, or several do.
        InvalidTransition: it is not `dead`, or holds no task message.
        RequeueFailed: the broker did not take it; it is `dead` again.
        StoreError: the archive failed; a letter that was claimed is published by a guardian.
    """
    claim = claim_requeue(store, letter_id, actor, reason, now)
    error = _publish(publisher, claim, now)
    if error is None:
        requeue_published(store, claim, now)
    # a worker that has reported already proves that the broker did take it
    elif requeue_failed(store, claim, error, now):
        raise RequeueFailed(claim.id, f"{error}; it is dead again")
    return Requeued(claim.id, claim.letter.task, claim.letter.queue, claim.generation)


def finish_requeues(
    store: Store, publisher: RequeuePublisher, now: datetime, grace: timedelta = timedelta(seconds=60)
) -> list[Finished]:
    """Publish the claims whose process died before it did, or before it could say so. Runs in the guardian.

    At least once: a message that was published without a note of it is published again, with the same id and
    generation, by which a worker can tell. Not so what runs at most once: it is dead again, for somebody to look. Of
    several guardians, one publishes each. The audit trail says for each that
    the guardian `finished` it, or that it `failed`, with the reason of whoever had claimed it.

    Args:
        store: the archive.
        publisher: how to publish.
        now: this instant.
        grace: how long a claim is left to whoever made it; longer than a publish may take.
    """
    older_than = now - grace
    finished = []
    for letter_id in unpublished_claims(store, older_than):
        claim = take_over(store, letter_id, older_than, now)
        if claim is not None:
            finished.append(_finish(store, publisher, claim, now))
    return finished


def _finish(store: Store, publisher: RequeuePublisher, claim: Claim, now: datetime) -> Finished:
    error = _UNTOLD if is_once(claim.letter) else _publish(publisher, claim, now)
    if error is not None and requeue_failed(store, claim, error, now):
        return Finished(claim.id, claim.generation, error)
    requeue_finished(store, claim, now)
    return Finished(claim.id, claim.generation)


def _publish(publisher: RequeuePublisher, claim: Claim, now: datetime) -> str | None:
    """Publish a claim; what went wrong, or `None`."""
    try:
        publisher.publish(replay(claim.letter, claim.generation, claim.id, claim.token, now))
    except Exception as exc:  # noqa: BLE001 whatever it is, a claim that nobody publishes must not stay one
        return str(exc) if isinstance(exc, PublishError) else f"{type(exc).__name__}: {exc}"
    return None
