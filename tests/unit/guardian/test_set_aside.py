"""What the guardian's log says of reports that it does not believe."""

from __future__ import annotations

import pytest

from celery_guardrails.guardian.set_aside import SetAsideLog
from celery_guardrails.store.claim import Doubt
from celery_guardrails.store.record import SetAside

LETTER = "4f1c1111-0000-4000-8000-000000000000"


def test_a_recovery_without_a_token_may_be_an_older_workers(caplog: pytest.LogCaptureFixture) -> None:
    log = SetAsideLog()
    log.log([SetAside(LETTER, str(Doubt.WRONG_TOKEN))])
    assert "older version" not in caplog.text
    log.log([SetAside(LETTER, str(Doubt.NO_TOKEN)), SetAside(LETTER, str(Doubt.NO_TOKEN))])
    assert caplog.text.count("a worker of an older version may have sent it") == 1
    assert f'guardrails dlq restore {LETTER} --reason "..."' in caplog.text
