"""The secret of a requeue: random, compared by its digest, and shown to nobody."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from celery_guardrails.letters.claim import NO_TOKEN, digest_of, draw_token, fits
from celery_guardrails.letters.header import HEADER, Header, read_header, write_header
from celery_guardrails.letters.identity import is_letter_id, own_id
from celery_guardrails.letters.recovery import Recovery, decode_recovery, encode_recovery
from celery_guardrails.redaction import Redactor

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)
LETTER = "1eee1eee-0000-4000-8000-000000000000"


def test_tokens_are_random_and_long_enough() -> None:
    drawn = {draw_token() for _ in range(1000)}
    assert len(drawn) == 1000
    assert all(len(bytes.fromhex(token)) * 8 >= 128 for token in drawn)


def test_a_token_fits_its_digest_alone() -> None:
    token = draw_token()
    assert fits(token, digest_of(token))
    assert token not in digest_of(token)
    for wrong in (None, "", token[:-1], token.upper() + "x", digest_of(token), "\ud800", "\x00"):
        assert not fits(wrong, digest_of(token))


def test_a_claim_of_before_there_were_tokens_wants_none() -> None:
    assert fits(None, NO_TOKEN)
    assert not fits("", NO_TOKEN)
    assert not fits(draw_token(), NO_TOKEN)


def test_the_header_carries_it_and_nobody_reads_it_there() -> None:
    token = draw_token()
    header = Header(NOW, NOW, dead_letter_id=LETTER, generation=1, claim_token=token)
    headers: dict[str, object] = {"headers": {"sentry-trace": "1"}}
    write_header(headers, header)
    assert read_header(headers).claim_token == token
    assert token not in repr(header)
    assert token not in repr(Redactor().mask(headers))
    assert token not in Redactor().text(repr(headers))


@pytest.mark.parametrize("odd", ["d-1", "", "x; rm -rf ~", LETTER.upper(), f"{LETTER}\n", f"{{{LETTER}}}", 7, None])
def test_a_letter_that_is_no_uuid_is_none(odd: object) -> None:
    header = read_header({HEADER: {"v": 1, "dead_letter_id": odd, "generation": 9, "claim_token": "x"}})
    assert (header.dead_letter_id, header.generation, header.claim_token) == (None, 0, None)


def test_ids_follow_from_the_bytes_and_from_why() -> None:
    assert own_id(b"x") == own_id(b"x")
    assert len({own_id(b"x"), own_id(b"y"), own_id(b"x", "set aside")}) == 3
    assert is_letter_id(own_id(b"x"))


@pytest.mark.parametrize("token", [None, "7" * 48])
def test_a_recovery_travels(token: str | None) -> None:
    recovery = Recovery(LETTER, 2, NOW, "shop.mail", token)
    assert decode_recovery(encode_recovery(recovery)) == recovery
    assert token is None or token not in repr(recovery)


def test_an_older_workers_recovery_is_read() -> None:
    body = b'{"v": 1, "dead_letter_id": "%s", "generation": 1, "at": "2026-11-01T00:00:00+00:00"}' % LETTER.encode()
    assert decode_recovery(body) == Recovery(LETTER, 1, NOW)


@pytest.mark.parametrize("task", ["\ud800", "a\nb", "x" * 10_000])
def test_an_odd_task_name_travels(task: str) -> None:
    assert decode_recovery(encode_recovery(Recovery(LETTER, 1, NOW, task))).task == task
