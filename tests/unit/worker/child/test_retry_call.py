"""What a task hands to `self.retry()` reaches its next attempt, as in plain Celery."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_guardrails import GuardedTask, Guardrails
from celery_guardrails.letters.header import read_header
from tests.unit.traced import Gate, trace


@pytest.fixture
def sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The headers that Celery's own way of publishing is given."""
    found: list[dict[str, Any]] = []

    def send(producer: Any, name: str, message: Any, headers: Any = None, **options: Any) -> None:
        found.append({**message.headers, **(headers or {})})

    monkeypatch.setitem(app.amqp.__dict__, "send_task_message", send)
    return found


def test_headers_of_a_retry_are_the_callers_with_ours(app: Celery, gate: Gate, sent: list[dict[str, Any]]) -> None:
    @app.task(shared=False, base=GuardedTask, bind=True, name="unit.tenant")
    def tenant(self: Any) -> None:
        raise self.retry(exc=ConnectionError("down"), headers={"tenant": "ada"})

    assert trace(tenant, headers={"tenant": "bob", "colour": "red"}).info.state == "RETRY"
    assert gate.letters == []
    (headers,) = sent
    assert headers["tenant"] == "ada"
    assert [attempt.message for attempt in read_header(headers).attempts] == ["down"]


def test_headers_of_a_retry_in_eager_mode(new_app: Any) -> None:
    app = new_app()
    seen = []

    @app.task(shared=False, base=GuardedTask, bind=True, name="unit.tenant", max_retries=1)
    def tenant(self: Any) -> None:
        seen.append((self.request.headers or {}).get("tenant"))
        raise self.retry(exc=ConnectionError("down"), headers={"tenant": "ada"})

    tenant.apply()
    assert seen == [None, "ada"]
    (letter,) = Guardrails.of(app).captured
    assert [attempt.number for attempt in letter.attempts] == [1, 2]
