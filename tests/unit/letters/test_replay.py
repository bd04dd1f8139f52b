from __future__ import annotations

from datetime import datetime, timedelta, timezone

from celery_guardrails.letters.header import Header, read_header, write_header
from celery_guardrails.letters.record import FailedAttempt, Letter, LetterFailure, OriginalMessage
from celery_guardrails.letters.replay import replay
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category

T0 = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
L0, L1 = (f"{number}0000000-0000-4000-8000-000000000000" for number in range(2))
TOKEN = "s3cret"
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODY = b'[[1], {"a": 2}, {"callbacks": null}]'


def dead() -> Letter:
    headers: dict[str, object] = {
        "task": "shop.mail", "id": "t1", "retries": 4, "eta": "2026-11-01T12:00:00", "expires": "2026-11-01T13:00:00",
        "group": "g", "stamps": {}, "x-death": [1], "x-delivery-count": 3, "compression": "gzip",
    }  # fmt: skip
    write_header(headers, Header(T0))
    return Letter(
        id="l1",
        task="shop.mail",
        task_id="t1",
        reason=Reason.ATTEMPTS_EXHAUSTED,
        failure=LetterFailure(type="E", message="m", category=Category.TIMEOUT, fingerprint="f"),
        attempts=(FailedAttempt(number=1, ended_at=T0, error="E", message="m", delay=2.0),),
        queue="mail",
        routing_key="mail",
        priority=3,
        first_failed_at=T0,
        died_at=T0 + timedelta(hours=1),
        message=OriginalMessage.model_construct(
            body=BODY,
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            properties={"correlation_id": "t1", "reply_to": "r", "delivery_tag": "x", "body_encoding": "base64"},
        ),
    )


def test_a_replay_is_the_original_with_its_counters_reset() -> None:
    message = replay(dead(), 1, L1, TOKEN, T0 + timedelta(days=1))
    assert message.body == BODY
    assert (message.queue, message.routing_key, message.priority) == ("mail", "mail", 3)
    assert message.properties == {"correlation_id": "t1", "reply_to": "r"}
    assert (message.headers["retries"], message.headers["eta"], message.headers["expires"]) == (0, None, None)
    assert message.headers["group"] == "g"
    assert not {"x-death", "x-delivery-count", "compression"} & set(message.headers)


def test_a_replay_links_to_the_attempt_that_died_else_to_the_last_with_a_span() -> None:
    letter, later = dead(), SPAN.replace("4bf9", "aaaa")
    write_header(letter.message.headers, Header(T0, span=SPAN))
    spans = [read_header(replay(one, 1, L1, TOKEN, T0).headers).span for one in (
        letter, letter.model_copy(update={"span": later}), dead(),
    )]  # fmt: skip
    assert spans == [SPAN, later, None]


def test_a_replay_carries_its_letter_its_generation_and_its_history() -> None:
    header = read_header(replay(dead(), 2, L0, TOKEN, T0 + timedelta(days=1)).headers)
    assert (header.dead_letter_id, header.generation, header.claim_token) == (L0, 2, TOKEN)
    assert header.published_at == T0
    assert header.deadline_starts_at == T0 + timedelta(days=1)
    assert [(a.number, a.delay) for a in header.attempts] == [(1, 2.0)]


def test_a_replay_hides_what_its_sender_hid() -> None:
    hidden = dead()
    write_header(hidden.message.headers, Header(T0, described=("args",)))
    assert read_header(replay(hidden, 1, L1, TOKEN, T0).headers).described == ("args",)


def test_a_replay_is_the_same_work_which_an_older_message_does_not_name() -> None:
    header = read_header(replay(dead(), 1, L1, TOKEN, T0).headers)
    assert (header.work, header.id_given) == (L1, True)
    named = dead()
    for given in (False, True):
        write_header(named.message.headers, Header(T0, work="abc", id_given=given))
        header = read_header(replay(named, 1, L1, TOKEN, T0).headers)
        assert (header.work, header.id_given) == ("abc", given)
