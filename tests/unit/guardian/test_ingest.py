"""What becomes of a batch when the archive refuses one letter, or everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celery_guardrails.errors import StoreError
from celery_guardrails.guardian.ingest import Ingest, IngestReport
from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage, letter_id
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.recovery import search
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.table import dead_letter

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Delivery:
    body: bytes
    queue: str = "dead"
    content_type: str | None = "application/json"
    headers: dict[str, Any] = field(default_factory=dict)


def letter(number: int, task: str = "shop.mail") -> Letter:
    return Letter(
        id=letter_id(Work(f"t{number}", "", "", ""), 1, 0, Reason.PERMANENT_ERROR),
        task=task,
        task_id=f"t{number}",
        reason=Reason.PERMANENT_ERROR,
        failure=LetterFailure(type="KeyError", message="'x'", category=Category.BUG, fingerprint="v1:1"),
        queue="mail",
        first_failed_at=NOW,
        died_at=NOW + timedelta(seconds=number),
        message=OriginalMessage.model_construct(
            body=b"[]", content_type="application/json", content_encoding="utf-8", headers={}, properties={}
        ),
    )


def dead(number: int, task: str = "shop.mail") -> Delivery:
    return Delivery(encode(letter(number, task)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(f"sqlite:///{tmp_path / 'archive.sqlite3'}").ready()
    yield made
    made.close()


@pytest.fixture
def ingest(store: Store) -> Ingest:
    return Ingest(store, ["dead.recovered"], "test")


def refuse(store: Store, condition: str) -> None:
    """Let the archive refuse letters, as a constraint or a broken page would."""
    when = f"BEFORE INSERT ON {dead_letter.name} WHEN {condition}"
    with store.begin() as conn:
        conn.execute(text(f"CREATE TRIGGER refusal {when} BEGIN SELECT RAISE(ABORT, 'no'); END"))


def test_a_letter_that_the_archive_refuses_is_held_alone(
    ingest: Ingest, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(store, "NEW.task = 'shop.cursed'")
    batch = [dead(1), dead(2, "shop.cursed"), dead(3), dead(1)]
    report = ingest.run_once(batch, NOW)
    assert report.settled == [batch[0], batch[2], batch[3]]
    assert report.held == [batch[1]]
    assert (report.archived, report.recovered, report.known) == (2, 0, 1)
    assert search.count(store) == 2
    assert "because the archive refuses it" in caplog.text


def test_other_kinds_in_such_a_batch_are_dealt_with_too(ingest: Ingest, store: Store) -> None:
    refuse(store, "NEW.task = 'shop.cursed'")
    newer = Delivery(json.dumps({**json.loads(encode(letter(9))), "v": 99}).encode())
    recovery = json.dumps({"v": 1, "dead_letter_id": "unknown", "generation": 1, "at": NOW.isoformat()}).encode()
    cursed = dead(2, "shop.cursed")
    batch = [Delivery(b"not json"), cursed, newer, Delivery(recovery, "dead.recovered")]
    report = ingest.run_once(batch, NOW)
    assert report.held == [newer, cursed]
    assert (report.archived, report.recovered, report.known) == (1, 0, 1)


def test_an_archive_that_refuses_everything_raises(ingest: Ingest, store: Store) -> None:
    store.close()
    path = str(store.engine.url.database)
    Path(path).unlink()
    Path(path).mkdir()
    with pytest.raises(StoreError):
        ingest.run_once([dead(1), dead(2)], NOW)
    with pytest.raises(StoreError):
        ingest.run_once([dead(1)], NOW)


def test_an_archive_that_refuses_each_letter_raises(ingest: Ingest, store: Store) -> None:
    """Then nothing is wrong with the letters: held back, they would stay in the queue until the guardian ends."""
    refuse(store, "1")
    with pytest.raises(StoreError):
        ingest.run_once([dead(1), dead(2), dead(3)], NOW)
    with store.begin() as conn:
        conn.execute(text("DROP TRIGGER refusal"))
    assert ingest.run_once([dead(1), dead(2), dead(3)], NOW).archived == 3


def test_an_archive_that_goes_away_between_letters_holds_none_of_them(
    ingest: Ingest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held ones would stay in the queue until the guardian ends; raised, the whole batch is tried again."""
    refuse(store, "NEW.task = 'shop.cursed'")
    away = StoreError("sqlite:///x", "locked")
    probed = iter([True])

    def probe() -> None:
        if not next(probed, False):
            raise away

    monkeypatch.setattr(ingest, "probe", probe)
    with pytest.raises(StoreError):
        ingest.run_once([dead(1), dead(2, "shop.cursed"), dead(3)], NOW)
    monkeypatch.undo()
    report: IngestReport[Delivery] = ingest.run_once([dead(1), dead(2, "shop.cursed"), dead(3)], NOW)
    assert (report.archived, report.known, len(report.held)) == (1, 1, 1)


@pytest.mark.parametrize("field", ["priority", "generation"])
def test_a_letter_whose_numbers_do_not_fit_the_archive_does_not_end_the_guardian(
    ingest: Ingest, store: Store, field: str
) -> None:
    cursed = Delivery(json.dumps({**json.loads(encode(letter(7))), field: 10**30}).encode())
    for batch in ([cursed], [dead(1), cursed, dead(2)]):
        report = ingest.run_once(batch, NOW)
        assert cursed in [*report.held, *report.settled]
    assert search.count(store) >= 2


def test_a_letter_with_half_a_character_does_not_end_the_guardian(ingest: Ingest, store: Store) -> None:
    """JSON can say one half of a surrogate pair, UTF-8 cannot."""
    body = encode(letter(7)).replace(b'"mail"', b'"\\ud800"')
    assert b"ud800" in body
    report = ingest.run_once([Delivery(body), dead(1)], NOW)
    assert len(report.settled) + len(report.held) == 2
    assert search.count(store) >= 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"[" * 100_000, b'{"dead_letter_id": 5, "generation": 1, "at": "2026-01-01T00:00:00+00:00"}',
        b'{"dead_letter_id": "x", "generation": 1, "at": "2026-01-01T00:00:00"}',
        b'{"dead_letter_id": "x", "generation": "one", "at": "2026-01-01T00:00:00+00:00"}',
        b'{"dead_letter_id": "x", "generation": 1, "at": 7}', b'"x"', b"\xff",
        b'{"dead_letter_id": "x", "generation": 1000000000000000000000000000000, "at": "2026-01-01T00:00:00+00:00"}',
        b'{"dead_letter_id": "x", "generation": 1e999, "at": "2026-01-01T00:00:00+00:00"}',
    ],
)  # fmt: skip
def test_what_is_no_recovery_report_is_archived_and_shown(ingest: Ingest, store: Store, body: bytes) -> None:
    report = ingest.run_once([Delivery(body, "dead.recovered")], NOW)
    assert (report.archived, len(report.settled)) == (1, 1)
    assert search.count(store) == 1


def test_an_empty_batch_is_nothing(ingest: Ingest) -> None:
    report = ingest.run_once([], NOW)
    assert (report.settled, report.held, report.archived) == ([], [], 0)
