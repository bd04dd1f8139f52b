"""`dlq requeue` of work that is done already: what is said before, and that it is put back all the same."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.cli.dlq.finished import LOOKED_AT, Finished, finished_words
from celery_guardrails.idempotency.key import key_of_arguments, key_of_text
from celery_guardrails.idempotency.ledger import Key, Result, Run
from celery_guardrails.letters.header import HEADER
from celery_guardrails.letters.record import Letter, OriginalMessage
from celery_guardrails.policy import Idempotency
from celery_guardrails.store.ledger import SqlLedger
from tests.archive import migrated_file
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead
from tests.unit.cli.test_cli_change import in_queue

HOUR = timedelta(hours=1)
BY_ORDER = key_of_arguments("test", "shop.charge", {"order_id": 1})
GIVEN = key_of_text("test", "shop.mail", "order-1")
BY_TASK_ID = key_of_text("test", "shop.once", "task-1")


@pytest.fixture
def bank(shop: Shop) -> Iterator[SqlLedger]:
    """The shop's ledger, in its archive, which is still empty."""
    charging = Policy(idempotency=Idempotency(key=("order_id",)))

    @shop.app.task(shared=False, base=GuardedTask, name="shop.charge", policy=charging)
    def charge(order_id: int, amount: int = 1) -> None: ...

    @shop.app.task(shared=False, base=GuardedTask, name="shop.once", policy=Policy(idempotency=Idempotency()))
    def once() -> None: ...

    ledger = SqlLedger(migrated_file(shop.path))
    yield ledger
    ledger.close()


def letter(number: int = 1, task: str = "shop.charge", *, key: str | None = None, **message: Any) -> Letter:
    """A dead letter of a task whose argument is the number; with the key that its sender gave."""
    headers: dict[str, Any] = {"task": task, "id": f"task-{number}"}
    if key is not None:
        headers[HEADER] = {"v": 1, "key": key}
    parts = {"content_type": "application/json", "content_encoding": "utf-8", **message}
    body = parts.pop("body", json.dumps([[number], {}, {}]).encode())
    original = OriginalMessage(body=base64.b64encode(body), headers=headers, **parts)
    return dead(number, task=task, message=original)


def finish(ledger: SqlLedger, key: Key, ttl: timedelta = HOUR) -> None:
    """Note that some work is done."""
    ledger.begin(key, Run(f"run of {key.digest}", key.digest, 0, "t", "first-id"), "", HOUR)
    assert ledger.finish(key, f"run of {key.digest}", Result(), ttl)


def requeue(shop: Shop, *words: str) -> Any:
    return shop.run("dlq", "requeue", *words, "--reason", "mended")


@pytest.mark.parametrize(
    ("done", "made", "shown"),
    [
        (BY_ORDER, letter(), BY_ORDER.text),
        (GIVEN, letter(task="shop.mail", key="order-1"), "order-1"),
        (BY_TASK_ID, letter(task="shop.once"), "task-1"),
        (key_of_text("test", "shop.gone", "k"), letter(task="shop.gone", key="k"), "k"),
    ],
)
def test_it_is_said_before_and_put_back_all_the_same(
    shop: Shop, bank: SqlLedger, done: Key, made: Letter, shown: str
) -> None:
    shop.archive(made)
    finish(bank, done)
    refused = requeue(shop, made.id)
    assert refused.exit_code == 2
    words = f"The work of {made.id} is done since "
    assert words in refused.stderr
    assert f" as first-id (key {shown}). A requeue gives that result and does not run the body." in refused.stderr
    assert "add --yes" in refused.stderr
    assert in_queue(shop) == []
    result = requeue(shop, made.id, "--yes")
    assert result.exit_code == 0
    assert lines(result.stderr)[0].startswith(words)
    assert len(in_queue(shop)) == 1


@pytest.mark.parametrize("ttl", [timedelta(0), None])
def test_work_that_is_not_done_is_put_back_without_a_word(shop: Shop, bank: SqlLedger, ttl: timedelta | None) -> None:
    shop.archive(letter())
    if ttl is not None:
        finish(bank, BY_ORDER, ttl)
    finish(bank, key_of_arguments("test", "shop.charge", {"order_id": 2}))
    result = requeue(shop, letter().id)
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(in_queue(shop)) == 1


def test_a_query_names_them(shop: Shop, bank: SqlLedger) -> None:
    shop.archive(letter(1), letter(2), letter(3))
    for number in (1, 2):
        finish(bank, key_of_arguments("test", "shop.charge", {"order_id": number}))
    looked = shop.json("dlq", "requeue", "task:shop.charge", "--reason", "r", "--dry-run")
    assert (looked["matched"], sorted(each["id"] for each in looked["finished"])) == (
        3, sorted([letter(1).id, letter(2).id])
    )  # fmt: skip
    assert {each["task_id"] for each in looked["finished"]} == {"first-id"}
    result = requeue(shop, "task:shop.charge", "--yes")
    assert "The work of 2 of these is done already: " in result.stderr
    assert "Requeued 3 dead letters." in result.stdout
    assert len(in_queue(shop)) == 3


def test_of_many_letters_not_all_are_looked_up() -> None:
    found = [Finished(f"letter-{number}", "k", None, "t") for number in range(5)]
    words = finished_words(found, LOOKED_AT + 1)
    assert words.startswith("The work of at least 5 of these is done already: letter-0, letter-1, letter-2 and more. A")
    assert finished_words([], LOOKED_AT + 1) == ""


def test_other_decisions_do_not_ask_the_ledger(shop: Shop, bank: SqlLedger) -> None:
    shop.archive(letter())
    finish(bank, BY_ORDER)
    result = shop.run("dlq", "discard", letter().id, "--reason", "r")
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_ledger_that_is_away_is_said_and_hinders_nothing(shop: Shop, bank: SqlLedger) -> None:
    shop.app.conf.guardrails |= {"idempotency": {"url": "redis://127.0.0.1:1/0"}}
    shop.archive(letter(), letter(2, task="shop.mail"))
    unasked = requeue(shop, letter(2, task="shop.mail").id)
    assert (unasked.exit_code, unasked.stderr) == (0, "")
    result = requeue(shop, letter().id)
    assert result.exit_code == 0
    assert "Could not ask whether the work is done already: the ledger redis://127.0.0.1:1/0: " in result.stderr
    assert len(in_queue(shop)) == 2


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/json"])
def test_a_letter_is_not_unpickled_and_may_be_damaged(
    shop: Shop, bank: SqlLedger, tmp_path: Path, content_type: str
) -> None:
    shop.app.conf.accept_content = ["json", "pickle"]
    body = pickle.dumps(([Trap(tmp_path / "sprung")], {}, {}))
    made = letter(body=body, content_type=content_type, content_encoding="binary")
    shop.archive(made)
    assert requeue(shop, made.id).exit_code == 0
    assert not (tmp_path / "sprung").exists()
