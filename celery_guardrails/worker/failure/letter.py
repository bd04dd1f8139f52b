"""The dead letter of a failed run, and the brief letter in its place where guardrails itself fails.

Owns what a letter takes from the task, its request and its policy. The parts that only explain (previews, ids for
tracing) may fail without harm; the message itself is always kept whole. The brief letter reads neither the policy nor
the arguments, because guardrails may have failed on one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from kombu.serialization import dumps

from celery_guardrails import clock
from celery_guardrails.app.carried import carried_items
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.preview import (
    OVERSIZED_LIMIT,
    PREVIEW_LIMIT,
    named_in_items,
    preview,
    preview_items,
    preview_unknown,
    unknown_args,
    unknown_kwargs,
)
from celery_guardrails.letters.ran import may_have_run
from celery_guardrails.letters.record import (
    Death,
    Letter,
    LetterFailure,
    OriginalMessage,
    Place,
    Preview,
    Shown,
    Subject,
    letter_id,
)
from celery_guardrails.letters.sender_text import SenderText
from celery_guardrails.policy.decision import DeadLetter
from celery_guardrails.policy.describe import describe_type
from celery_guardrails.policy.failure import Category
from celery_guardrails.redaction import Redactor
from celery_guardrails.transport.body import as_published
from celery_guardrails.transport.routing import queue_name
from celery_guardrails.worker.failure.argument import arguments_by_name, parameter_names
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.original import Original, letter_message, original_of
from celery_guardrails.worker.failure.sent_repr import sender_text
from celery_guardrails.worker.failure.tracing import with_span
from celery_guardrails.worker.failure.work import work_of

__all__ = ["brief_letter", "capture", "parameter_names", "preview_of"]

logger = logging.getLogger("celery_guardrails.worker")


_LONGEST_EXPLANATION = 500
"""Characters of an explanation. It is redacted first and cut then, because half a secret is not recognised."""
_UNEXAMINED = "v1:unexamined"


def capture(run: FailedRun, decision: DeadLetter, *, traceback: str | None = None, ran: bool = True) -> Letter:
    """The dead letter of a failed run: everything needed to run it again and to understand why it died.

    Args:
        run: what failed.
        decision: why it is dead.
        traceback: the error's, without secrets; `None`: the one that `run` has, if any.
        ran: whether the body began; otherwise this attempt is not in the letter's history.
    """
    request, header, reason = run.request, run.header, decision.reason
    began = (
        may_have_run(reason, late=bool(run.task.acks_late), in_doubt=decision.in_doubt) if ran else decision.in_doubt
    )
    message = _message(run)
    return Letter.of_message(
        message,
        Subject(subject_of(run.task).name, request.id, request.root_id, request.parent_id, request.group),
        Death(
            letter_id(run.work, run.number, header.generation, reason), reason, _explanation(decision, run.redactor),
            _failure(run, traceback), run.now, began,
        ),
        _place(run),
        header=header,
        attempts=(*header.attempts, run.attempt(None)) if ran else header.attempts,
        policy=run.policy,
        shown=_shown(run, len(message.body)),
    )  # fmt: skip


def brief_letter(task: Any, request: Any, original: Original, exc: BaseException, decision: DeadLetter) -> Letter:
    """A dead letter where guardrails itself failed on a failure: the whole message, its task and the reason.

    Args:
        task: the task.
        request: its request.
        original: the message as it came.
        exc: the task's error.
        decision: why it is dead.
    """
    header, reason = with_span(read_header(request.__dict__)), decision.reason
    redactor, work = _redactor(task), work_of(request.__dict__, header)
    error, message = describe_type(exc, redactor.text)
    delivery: Mapping[str, Any] = request.delivery_info or {}
    key, worker = str(delivery.get("routing_key") or ""), str(request.hostname or "")
    failure = LetterFailure(type=error, message=message, category=Category.UNKNOWN, fingerprint=_UNEXAMINED)
    began = may_have_run(reason, late=bool(task.acks_late), in_doubt=decision.in_doubt)
    return Letter.of_message(
        letter_message(original, request),
        Subject(subject_of(task).name, request.id),
        Death(
            letter_id(work, int(request.retries or 0) + 1, header.generation, reason), reason,
            _explanation(decision, redactor), failure, clock.now(), began,
        ),
        Place(
            "", worker, str(delivery.get("queue") or key), str(delivery.get("exchange") or ""), key,
            delivery.get("priority"),
        ),
        header=header,
    )  # fmt: skip


def _explanation(decision: DeadLetter, redactor: Redactor) -> str:
    return redactor.text(decision.explanation)[:_LONGEST_EXPLANATION]


def _redactor(task: Any) -> Redactor:
    try:
        return Guardrails.of(task.app).redactor()
    except Exception:  # noqa: BLE001 the settings may be what guardrails failed on
        return Redactor()


def _place(run: FailedRun) -> Place:
    delivery: Mapping[str, Any] = run.request.delivery_info or {}
    exchange, routing_key = delivery.get("exchange") or "", delivery.get("routing_key") or ""
    return Place(
        environment=run.guard.settings.environment,
        worker=str(run.request.hostname or ""),
        queue=delivery.get("queue") or queue_name(run.task.app, exchange, routing_key),
        exchange=exchange,
        routing_key=routing_key,
        priority=delivery.get("priority"),
    )


def _shown(run: FailedRun, payload: int) -> Shown:
    made: dict[str, Any] = {}
    try:
        settings, policy = run.guard.settings, run.policy
        redactor = run.guard.redactor(policy)
        args, kwargs = tuple(run.request.args or ()), dict(run.request.kwargs or {})
        limit = OVERSIZED_LIMIT if payload > settings.dead_letter.max_payload else PREVIEW_LIMIT
        described = run.header.described
        sender = sender_text(run.task.app, run.request.__dict__, args, kwargs, described=described)
        made["preview"] = preview_of(run.task, args, kwargs, redactor, limit, sender)
        items = arguments_by_name(run.task, args, kwargs)
        made["correlation"] = sender.seen(named_in_items(policy.correlate, items, redactor), kwargs)
        made["affected"] = sender.seen(named_in_items(policy.affected_by, items, redactor), kwargs)
    except Exception:
        logger.warning("no preview of the arguments of %s[%s]", run.task.name, run.request.id, exc_info=True)
    return Shown(**made)


def preview_of(
    task: Any, args: Any, kwargs: Any, redactor: Redactor, limit: int = PREVIEW_LIMIT, sender: SenderText | None = None
) -> Preview:
    """The arguments of a message as people may see them, or the items of a `map` or `starmap`.

    Args:
        task: the task; a carrier (`task/carrier.py`) for a `map` or `starmap`; `None`: not known here, so that no
            value is shown.
        args: the message's. They are shown only if they are a list or a tuple.
        kwargs: the message's. They are shown only if they are a mapping.
        redactor: what to hide.
        limit: characters kept of each.
        sender: the sender's own texts for them, which replace ours.
    """
    if task is None:
        made = preview_unknown(args, kwargs, redactor)
        return _as_sent(sender, made, [*redactor.hidden(args), *redactor.hidden(kwargs)], redactor, limit)
    names, subject = parameter_names(subject_of(task)), subject_of(task)
    if subject is task:
        items: list[Sequence[Any]] = [args] if isinstance(args, (list, tuple)) else []
        made = _preview(args, kwargs, names, redactor, limit)
    else:
        items = carried_items(task.name, args, kwargs)
        made = preview_items(task.name, items, names, redactor, limit)
    if sender is None:
        return made
    secrets = [*redactor.hidden(kwargs)]
    for item in items:
        for name, value in zip_longest(names[: len(item)], item):
            secrets += redactor.hidden(value, name)
    return _as_sent(sender, made, secrets, redactor, limit)


def _as_sent(sender: SenderText | None, made: Preview, secrets: list[Any], redactor: Redactor, limit: int) -> Preview:
    """Our preview, or the sender's own texts in its place. Secrets are hidden, by name and by look."""
    if sender is None:
        return made
    texts = {which: text for which in ("args", "kwargs") if (text := getattr(sender, which)) is not None}
    return SenderText(**{which: redactor.text(text) for which, text in texts.items()}).over(made, secrets, limit)


def _preview(args: Any, kwargs: Any, names: list[str], redactor: Redactor, limit: int) -> Preview:
    """The preview of a known task's arguments. `args` may be no list, and `kwargs` no mapping."""
    is_list, is_mapping = isinstance(args, (list, tuple)), isinstance(kwargs, Mapping)
    shown = preview(args if is_list else (), kwargs if is_mapping else {}, names, redactor, limit)
    if is_list and is_mapping:
        return shown
    wrong = {} if is_list else {"args": unknown_args(args)}
    if not is_mapping:
        wrong["kwargs"] = unknown_kwargs(kwargs, redactor)
    return shown.model_copy(update=wrong)


def _message(run: FailedRun) -> OriginalMessage:
    original = original_of(run.request)
    return _rebuild(run) if original is None else letter_message(original, run.request)


def _rebuild(run: FailedRun) -> OriginalMessage:
    """The message as Celery would write it now: in eager mode, or where a task class has a Strategy of its own."""
    request = run.request
    embed = {"callbacks": request.callbacks, "errbacks": request.errbacks, "chain": request.chain,
             "chord": request.chord}  # fmt: skip
    serializer = run.task.serializer or run.task.app.conf.task_serializer
    content_type, encoding, body = dumps((request.args or (), request.kwargs or {}, embed), serializer)
    headers = {
        "lang": "py", "task": run.task.name, "id": request.id, "root_id": request.root_id or request.id,
        "parent_id": request.parent_id, "group": request.group, "retries": request.retries,
    }  # fmt: skip
    return OriginalMessage.model_construct(
        body=as_published(body, encoding),
        content_type=content_type,
        content_encoding=encoding,
        headers=headers,
        properties={},
    )


def _failure(run: FailedRun, traceback: str | None) -> LetterFailure:
    failure = run.failure
    return LetterFailure(
        type=failure.error,
        message=failure.message,
        category=Category(failure.category),
        fingerprint=failure.fingerprint,
        traceback=failure.traceback if traceback is None else traceback,
        transient=failure.transient,
    )
