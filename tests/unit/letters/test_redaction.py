"""Letters of older workers, whose texts nobody has redacted: a guardian does, and keeps what is replayed whole."""

from __future__ import annotations

import json
from typing import Any

from celery_guardrails.letters.codec import decode, encode
from celery_guardrails.letters.record import FailedAttempt, Letter, Preview
from celery_guardrails.letters.redaction import LetterRedaction, redacted
from celery_guardrails.redaction import MASK, Redactor
from tests.unit.letters.test_codec import letter

SECRET = "hunter2xyz"
SHOWN = f"password={SECRET}"


def old(**changes: Any) -> Letter:
    """A letter as an older worker made it: every text that people see holds a secret."""
    made = letter()
    attempt = FailedAttempt(number=1, ended_at=made.died_at, error="E", message=SHOWN)
    return made.model_copy(
        update={
            "explanation": SHOWN,
            "failure": made.failure.model_copy(update={"message": SHOWN, "traceback": f"x\nValueError: {SHOWN}"}),
            "attempts": (attempt,),
            "affected": {
                "customer": f"{{'id': 7, 'password': '{SECRET}'}}",
                "secret.value": SECRET,
                "ids": ("7", SHOWN),
            },
            "correlation": {"url": f"amqp://u:{SECRET}@h"},
            "preview": Preview(args=f"({{'token': '{SECRET}'}},)", kwargs=f"{{'pin': '{SECRET}'}}"),
            "policy": {"redact": ["maiden_name"], "runbook": f"https://u:{SECRET}@wiki/x"},
            "owner": f"Bearer {SECRET}77",
            "runbook": f"https://u:{SECRET}@wiki/x",
            "message": made.message.model_copy(update={"body": SHOWN.encode()}),
            **changes,
        }
    )


def test_every_text_that_people_see_is_redacted_and_the_payload_is_whole() -> None:
    body = encode(old())
    shown, kept = LetterRedaction()(decode(body), body)
    assert SECRET not in repr(shown.model_copy(update={"message": None}))
    assert shown.message.body == SHOWN.encode()
    assert decode(kept) == shown
    assert kept.decode().count(SECRET) == 0  # the payload's bytes are base64
    assert shown.failure.message == f"password={MASK}"
    assert shown.affected == {
        "customer": f"{{'id': 7, 'password': {MASK}}}",
        "secret.value": MASK,
        "ids": ("7", f"password={MASK}"),
    }


def test_a_letter_without_secrets_stays_as_it_was_published() -> None:
    body = encode(letter())
    shown, kept = LetterRedaction()(decode(body), body)
    assert kept is body
    assert shown == letter()
    once = redacted(old(), Redactor())
    assert redacted(once, Redactor()) is once


def test_what_this_version_does_not_know_of_a_letter_stays() -> None:
    raw = json.loads(encode(old()))
    raw["news"], raw["failure"]["news"] = 1, 2
    _, kept = LetterRedaction()(decode(json.dumps(raw)), json.dumps(raw).encode())
    assert (json.loads(kept)["news"], json.loads(kept)["failure"]["news"]) == (1, 2)


def test_settings_and_the_letters_own_policy_say_what_else_is_hidden() -> None:
    body = encode(old(affected={"name": "maiden_name=Lovelace, EMP-12, born=1815"}, policy={"redact": ["maiden_name"]}))
    shown, _ = LetterRedaction(["born"], [r"EMP-\d+"])(decode(body), body)
    assert shown.affected == {"name": f"maiden_name={MASK}, {MASK}, born={MASK}"}


def test_a_text_that_comes_again_is_hidden_again_and_a_long_one_is_not_remembered() -> None:
    redaction = LetterRedaction()
    for text in ("password=hunter2", "password=hunter2", "well", "x" * 20_000 + " password=hunter2"):
        body = encode(letter().model_copy(update={"failure": letter().failure.model_copy(update={"message": text})}))
        shown, kept = redaction(decode(body), body)
        assert "hunter2" not in shown.failure.message + kept.decode()
        assert shown.failure.message[:4] == text[:4]
    assert redaction._remembered.cache_info().hits
