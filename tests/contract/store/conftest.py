"""Every kind of store that the suite runs on, each test with an archive of its own, and letters to put into it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celery_guardrails.letters.record import FailedAttempt, Letter, LetterFailure, OriginalMessage
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store import claim as claims
from celery_guardrails.store import letter as letters
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.record import Archivable, Archived
from tests.archive import migrated_file

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER_TABLES = (
    *(f"guardrails_figure{name}" for name in ("", "_task", "_summary", "_death", "_letter")),
    "guardrails_silence",
    "guardrails_expected",
    "guardrails_figure_beside",
    "guardrails_ledger",
)
"""What an archive of an older version does not have yet."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an archive can be. It does not exist yet, unless the test asks for `store`, too."""
    has_tables = "store" in request.fixturenames
    if request.param == "postgresql":
        return str(request.getfixturevalue("migrated_postgresql_url" if has_tables else "postgresql_url"))
    path = tmp_path / "archive.db"
    return migrated_file(path) if has_tables else f"sqlite:///{path}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An archive with its tables."""
    opened = open_store(url)
    yield opened
    opened.close()


class Mortuary:
    """Makes deaths and archives them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOW

    def letter(self, **fields: Any) -> Letter:
        """A letter that differs from others only in its id and what is given."""
        error = fields.pop("error", "TimeoutError")
        message = fields.pop("message", "the read timed out")
        category = fields.pop("category", Category.TIMEOUT)
        fingerprint = fields.pop("fingerprint", "v1:f00")
        failure = LetterFailure(type=error, message=message, category=category, fingerprint=fingerprint)
        attempt = FailedAttempt(number=5, ended_at=NOW, error=error, message=message)
        values: dict[str, Any] = {
            "id": str(uuid4()),
            "task": "billing.charge",
            "task_id": str(uuid4()),
            "reason": Reason.ATTEMPTS_EXHAUSTED,
            "failure": failure,
            "attempts": (attempt,),
            "queue": "mail",
            "worker": "w1@host",
            "environment": "production",
            "first_failed_at": NOW - timedelta(minutes=5),
            "died_at": NOW,
            "message": OriginalMessage.model_construct(
                body=b"[[1], {}, {}]", headers=fields.pop("headers", {"id": "1"}), properties={}
            ),
        }
        return Letter(**values | fields)

    def further(self, first: Letter, generation: int, **fields: Any) -> Letter:
        """A further death of an archived one's work, with the claim of that generation."""
        with self.store.begin() as conn:
            token = claims.add(conn, first.id, generation)
        put_back = {"dead_letter_id": first.id, "generation": generation, "claim_token": token}
        return self.letter(**{"task": first.task} | put_back | fields)

    def archive(self, *found: Letter) -> list[Archived]:
        """Archive a batch."""
        with self.store.begin() as conn:
            return letters.archive(conn, [Archivable.of(letter) for letter in found], self.now)

    def archive_new(self, **fields: Any) -> Letter:
        """Make one and archive it."""
        letter = self.letter(**fields)
        self.archive(letter)
        return letter


@pytest.fixture
def mortuary(store: Store) -> Mortuary:
    """Makes deaths and archives them."""
    return Mortuary(store)
