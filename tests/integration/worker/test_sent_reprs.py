"""What a sender hides in `argsrepr` and `kwargsrepr` stays hidden in its dead letter, on real workers."""

from __future__ import annotations

from typing import Any

import pytest

from celery_guardrails.letters.record import Letter
from celery_guardrails.redaction import MASK
from tests.guarded import Guarded

SECRET = "Rossi-Lovelace"
BY_POSITION: dict[str, Any] = {"args": ("ada", SECRET), "argsrepr": "('ada', '****')"}
BY_KEYWORD: dict[str, Any] = {
    "kwargs": {"user": "ada", "maiden_name": SECRET}, "kwargsrepr": "{'user': 'ada', 'pin': '****'}",
}  # fmt: skip


def seen(letter: Letter) -> str:
    """All that people see of the letter."""
    return letter.model_dump_json(exclude={"message"})


@pytest.mark.parametrize("by", [BY_POSITION, BY_KEYWORD], ids=["position", "keyword"])
@pytest.mark.parametrize("how", ["ours", "by Celery alone", "delayed"])
def test_the_senders_text_is_what_people_see(guarded: Guarded, by: dict[str, Any], how: str) -> None:
    guarded.worker()
    task = guarded.tasks.sign_in
    if how == "by Celery alone":  # a producer that knows nothing of guardrails
        guarded.app.send_task(task.name, **by)
    else:
        task.apply_async(**by, **({"countdown": 1} if how == "delayed" else {}))
    letter = guarded.letter()
    assert SECRET.lower() not in seen(letter).lower()
    assert len(letter.attempts) == 2
    shown = letter.preview.args if "args" in by else letter.preview.kwargs
    assert shown == by.get("argsrepr", by.get("kwargsrepr"))
    assert letter.affected == {"user": "ada", "maiden_name": MASK}
    assert SECRET.encode() in letter.message.body


@pytest.mark.parametrize("by", [BY_POSITION, BY_KEYWORD], ids=["position", "keyword"])
@pytest.mark.parametrize("changed", [False, True])
def test_a_retry_with_other_options_hides_it_too(on_redis: Guarded, by: dict[str, Any], changed: bool) -> None:
    on_redis.worker()
    on_redis.tasks.signs_in_again.apply_async(**by, headers={"changed": "1"} if changed else None)
    letter = on_redis.letter()
    assert len(letter.attempts) == 2
    assert SECRET.lower() not in seen(letter).lower()
    headers = letter.message.headers
    assert SECRET.lower() not in (headers["argsrepr"] + headers["kwargsrepr"]).lower()
    if not changed:
        assert headers["argsrepr" if "args" in by else "kwargsrepr"] == by.get("argsrepr", by.get("kwargsrepr"))


def test_what_nobody_hides_is_shown_as_ever(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.sign_in.delay("ada", SECRET)
    letter = on_redis.letter()
    assert letter.preview.args == f"('ada', '{SECRET}')"
    assert letter.affected == {"user": "ada", "maiden_name": SECRET}
