"""Publishing the entries of the spool, once the broker is back.

Owns the order (the oldest first) and when to stop: at the first sign that the broker is away, so that not every file
waits for a timeout. An entry that the broker refuses stays, with a warning, and blocks no other entry. An entry that
must not be published twice (`once`) is published by one claim only. If its confirmation got lost, or the process died
over the publish, nobody publishes it again: `doubtful` gets it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from amqp.exceptions import MessageNacked
from kombu import Queue

from celery_guardrails.errors import PublishError, SpoolError
from celery_guardrails.transport.publisher import Publisher
from celery_guardrails.transport.spool import Claim, Spool
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.transport.waiting.protocol import Waiting

__all__ = ["Shipped", "Shipper"]

logger = logging.getLogger("celery_guardrails.transport")

_FIRST_REST, _LONGEST_REST = 5.0, 60.0
_UNCONFIRMED = "the process that shipped it from the spool did not record whether the broker took it"

Address = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Shipped:
    """What a pass did: the broker has `count` entries, and `left` entries are still in the spool.

    `away` says in words why the pass stopped; `None` if no error stopped it. `refused` counts the entries of `left`
    that the broker refuses, or whose address it refused a moment ago.
    """

    count: int
    left: int
    refused: int = 0
    away: str | None = None


@dataclass(slots=True)
class _Rest:
    """How long an address is left alone, because the broker refuses it."""

    until: float
    seconds: float


class Shipper:
    """Ships a spool, pass by pass; remembers between the passes what the broker refuses.

    Args:
        spool: the entries.
        publisher: publishes what is to run at once, and dead letters.
        waiting: takes the retries whose time has not come.
        queues: the queues to declare for an entry.
        doubtful: takes an entry that must not be published twice and may be published already, why, and the present
            instant. It raises if it cannot take the entry.
    """

    def __init__(
        self,
        spool: Spool,
        publisher: Publisher,
        waiting: Waiting,
        queues: Callable[[Spooled], Iterable[Queue]],
        doubtful: Callable[[Spooled, str, datetime], None],
    ) -> None:
        self.spool = spool
        self._publisher = publisher
        self._waiting = waiting
        self._queues = queues
        self._doubtful = doubtful
        self._rests: dict[Address, _Rest] = {}
        self._addresses: dict[str, Address] = {}  # of refused entries
        # Entries at which a pass stopped, the latest last: a later pass takes the other entries first, then these.
        self._suspects: dict[str, None] = {}

    def ship(self, now: datetime, most: int = 500) -> Shipped:
        """Publish up to `most` entries, and remove those that the broker has confirmed.

        Args:
            now: this instant; a retry that is due later waits for the rest of its delay.
            most: how many entries at most.

        Raises:
            SpoolError: the directory cannot be read or written.
        """
        names = self.spool.names()
        self._forget_all_but(names)
        count = refused = 0
        for name in [*(name for name in names if name not in self._suspects), *self._suspects]:
            if count >= most:
                break
            if self._is_resting(self._addresses.get(name)):
                refused += 1
                continue
            claim = self.spool.claim(name)
            if claim is None:
                continue
            try:
                took = self._took(claim, now)
            except SpoolError:
                raise
            except Exception as exc:  # noqa: BLE001 any error keeps the entry, and the next pass tries it again
                self._suspects.pop(claim.name, None)
                self._suspects[claim.name] = None
                return Shipped(count, len(names) - count, refused, f"{type(exc).__name__}: {exc}")
            count += took
            refused += not took
        return Shipped(count, len(names) - count, refused)

    def _took(self, claim: Claim, now: datetime) -> bool:
        """Whether the broker took this entry; raises if the broker is away."""
        if claim.in_doubt:
            return self._doubted(claim, _UNCONFIRMED, now)
        address = _address(claim.entry)
        if self._is_resting(address):
            self._addresses[claim.name] = address
            claim.release()
            return False
        try:
            self._publish(claim.entry, now)
        except Exception as exc:
            if isinstance(exc, PublishError) and exc.unsure:
                return self._doubted(claim, exc.reason, now)
            claim.release()
            if not _is_refusal(exc):
                raise
            self._addresses[claim.name] = address
            self._rest(address, claim.entry, exc)
            return False
        claim.done()
        self._rests.pop(address, None)
        logger.info("%s is shipped from the spool", claim.entry.what)
        return True

    def _doubted(self, claim: Claim, why: str, now: datetime) -> bool:
        """Pass on an entry that the broker may have. The claim and the doubt stay until somebody has taken it."""
        self._doubtful(claim.entry, why, now)
        claim.done()
        return True

    def _publish(self, entry: Spooled, now: datetime) -> None:
        declare = list(self._queues(entry))
        delay = (entry.due_at - now).total_seconds() if entry.due_at else 0.0
        if delay > 0:
            self._waiting.publish(entry.envelope, declare, delay)
        else:
            self._publisher.publish(entry.envelope, declare)

    def _forget_all_but(self, names: list[str]) -> None:
        there = set(names)
        self._suspects = {name: None for name in self._suspects if name in there}
        self._addresses = {name: self._addresses[name] for name in names if name in self._addresses}

    def _is_resting(self, address: Address | None) -> bool:
        rest = self._rests.get(address) if address else None
        return rest is not None and time.monotonic() < rest.until

    def _rest(self, address: Address, entry: Spooled, exc: Exception) -> None:
        """Leave an address alone for a while, and every entry for it."""
        before = self._rests.get(address)
        seconds = min(2 * before.seconds, _LONGEST_REST) if before else _FIRST_REST
        self._rests[address] = _Rest(time.monotonic() + seconds, seconds)
        if before is None:
            logger.warning(
                "%s stays in the spool %s, with all entries for the same address: the broker refuses it (%s)",
                entry.what, self.spool.directory, exc,
            )  # fmt: skip


def _address(entry: Spooled) -> Address:
    return entry.envelope.exchange, entry.envelope.routing_key


def _is_refusal(exc: Exception) -> bool:
    """Whether the broker refuses only this message: a full queue, for example, refuses only its own messages."""
    if isinstance(exc, UnicodeError):  # the entry is at fault, not the broker
        return True
    return isinstance(exc, PublishError) and (exc.refused or isinstance(exc.__cause__, MessageNacked))
