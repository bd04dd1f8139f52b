"""Work that is done already, by the ledger: a requeue of its letter gives the first result and does not run the body.

Owns which letters of a requeue these are, and the text about them. It must not know how a letter is put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kombu.serialization import loads, prepare_accept_content

from celery_guardrails.app.in_force import is_guarded
from celery_guardrails.cli.output import note
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import DeadLetterError, LedgerError
from celery_guardrails.idempotency.key import UnusableKey, key_of_text
from celery_guardrails.idempotency.ledger import Key, State
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.record import Letter, OriginalMessage
from celery_guardrails.recovery import search
from celery_guardrails.redaction.process import shown
from celery_guardrails.store.record import State as LetterState
from celery_guardrails.text import when
from celery_guardrails.worker.failure.once import idempotency_of, key_of

__all__ = ["LOOKED_AT", "Finished", "finished", "finished_words"]

LOOKED_AT = 200
"""How many letters of one requeue are looked up in the ledger, at most."""
_NAMED = 3
_UNPICKLED = "application/x-python-serialize"


@dataclass(frozen=True, slots=True)
class Finished:
    """A dead letter whose work is done: since when, by which task id, and under which key."""

    id: str
    key: str
    at: datetime | None
    task_id: str

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"id": self.id, "key": self.key, "done_at": self.at, "task_id": self.task_id}


def finished(project: Project, ids: Sequence[str]) -> list[Finished]:
    """Those of these dead letters whose work is done. A ledger that does not answer is a note, and hinders nothing.

    Args:
        project: the application. Where guardrails is switched off, nobody asks the ledger.
        ids: of the letters, the first `LOOKED_AT` of which are looked up. An id that is not found is skipped here.
    """
    if not project.settings.enabled:
        return []
    found, ledger = [], None
    try:
        for letter_id, key in _keys(project, ids[:LOOKED_AT]):
            ledger = ledger or project.guardrails.ledger()
            entry = ledger.entry(key)
            if entry is not None and entry.state is State.DONE and entry.until > ledger.now():
                found.append(Finished(letter_id, shown(entry.text), entry.done_at, shown(entry.task_id)))
    except LedgerError as exc:
        note(f"Could not ask whether the work is done already: {exc}")
    finally:
        if ledger is not None:
            ledger.close()
    return found


def finished_words(found: Sequence[Finished], matched: int) -> str:
    """What to say of them before they are put back; empty if there are none.

    Args:
        found: those whose work is done.
        matched: how many are put back.
    """
    if not found:
        return ""
    first, more = found[0], "at least " if matched > LOOKED_AT else ""
    result = "A requeue gives that result and does not run the body."
    if len(found) == 1 and not more:
        since = f"since {when(first.at)} as {first.task_id} (key {first.key})"
        return f"The work of {first.id} is done {since}. {result}"
    ids = ", ".join(each.id for each in found[:_NAMED]) + (" and more" if len(found) > _NAMED else "")
    return f"The work of {more}{len(found):,} of these is done already: {ids}. {result}"


def _keys(project: Project, ids: Sequence[str]) -> Iterator[tuple[str, Key]]:
    """Whole ids of dead letters, and the keys of their work, where their work takes effect once."""
    for given in ids:
        try:
            archived = search.get(project.archive, given)
        except DeadLetterError:
            continue
        if archived.summary.state is LetterState.DEAD and (key := _key(project, archived.letter)) is not None:
            yield archived.summary.id, key


def _key(project: Project, letter: Letter) -> Key | None:
    header, task = read_header(letter.message.headers, attempts=False), project.guardrails.app.tasks.get(letter.task)
    try:
        if task is None:
            # another application's: its tasks' scope is their name, unless its policy says otherwise
            given = header.key
            return None if given is None else key_of_text(project.settings.environment, letter.task, given)
        if not is_guarded(task):
            return None
        declared = project.guardrails.policy_of(task).policy.idempotency
        if header.key is None and declared is None:
            return None
        if header.key is not None or idempotency_of(task).key is None:
            return key_of(task, letter.task_id, header, (), {})[0]
        arguments = _arguments(project, letter.message)
        return None if arguments is None else key_of(task, letter.task_id, header, *arguments)[0]
    except UnusableKey:
        return None  # a worker rejects it


def _arguments(project: Project, message: OriginalMessage) -> tuple[Any, Any] | None:
    """The arguments of a message; `None` where they cannot be read. Nothing is unpickled: a letter is not trusted."""
    accept = prepare_accept_content(project.app.conf.accept_content) - {_UNPICKLED}
    try:
        args, kwargs, _ = loads(message.body, message.content_type, message.content_encoding, accept=accept)
        return tuple(args), dict(kwargs)
    except Exception:  # noqa: BLE001 the body may be anything: then nobody knows its key
        return None
