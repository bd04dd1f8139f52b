"""`guardrails idempotency`: what people see of work that takes effect once, and how they have it forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from celery_guardrails import GuardedTask, Policy, clock
from celery_guardrails.errors import KeyRefused
from celery_guardrails.idempotency.key import key_of_arguments, key_of_text
from celery_guardrails.idempotency.ledger import Kept, Key, Result, Run
from celery_guardrails.policy import Idempotency
from celery_guardrails.recovery.forgetting import find_work, forget_work
from celery_guardrails.store.ledger import SqlLedger
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead

HOUR = timedelta(hours=1)
SECRET = b'"iban DE89"'


@pytest.fixture
def bank(shop: Shop) -> Iterator[SqlLedger]:
    """The shop's ledger, which is in its archive; the shop charges once, in the scope `money`."""
    charging = Policy(idempotency=Idempotency(key=("order_id",), scope="money"))

    @shop.app.task(shared=False, base=GuardedTask, name="shop.charge", policy=charging)
    def charge(order_id: int) -> None: ...

    shop.archive()
    ledger = SqlLedger(f"sqlite:///{shop.path}")
    yield ledger
    ledger.close()


def key(text: str = "order-4711", scope: str = "shop.mail") -> Key:
    """A key that a sender gave."""
    return key_of_text("test", scope, text)


def begin(ledger: SqlLedger, named: Key, lease: timedelta = HOUR, task: str = "shop.mail") -> Key:
    """Begin some work."""
    run = Run(f"run of {named.digest}", named.digest, 0, task, "id-1")
    ledger.begin(named, run, "a", lease)
    return named


def finished(ledger: SqlLedger, named: Key, result: Result | None = None) -> Key:
    """Begin some work and finish it."""
    begin(ledger, named)
    assert ledger.finish(
        named, f"run of {named.digest}", result or Result(Kept.HERE, SECRET, "application/json utf-8"), HOUR
    )
    return named


def test_show_says_that_work_is_done_and_not_what_it_returned(shop: Shop, bank: SqlLedger) -> None:
    finished(bank, key())
    result = shop.run("idempotency", "show", "order-4711")
    facts = {line[:14].strip(): line[14:] for line in lines(result.stdout)}
    assert (facts["Key"], facts["Scope"], facts["Environment"]) == ("order-4711", "shop.mail", "test")
    assert (facts["Task"], facts["Task id"], facts["Fence"]) == ("shop.mail", "id-1", "1")
    assert facts["State"] == "done: a message with this key gets its result"
    assert facts["Result"] == "in the ledger"
    assert {"Since", "Until", "Done at"} < set(facts)
    found = shop.json("idempotency", "show", "order-4711")
    assert (found["state"], found["may_begin"], found["result_kept"]) == ("done", False, "here")
    assert found["done_at"]
    assert found["until"] > found["done_at"]
    assert "DE89" not in result.stdout + str(found)


def test_show_says_who_does_the_work_and_whether_anybody_may_begin_it(shop: Shop, bank: SqlLedger) -> None:
    begin(bank, key("running"))
    begin(bank, key("over"), timedelta(0))
    freed = begin(bank, key("free"))
    bank.free(f"run of {freed.digest}")
    shown = {text: shop.run("idempotency", "show", text).stdout for text in ("running", "over", "free")}
    assert "running, or waiting for its next attempt" in shown["running"]
    assert "its lease is over" in shown["over"]
    assert "free: it failed" in shown["free"]
    assert "Result" not in shown["running"]
    assert "Done at" not in shown["running"]
    may_begin = {text: shop.json("idempotency", "show", text)["may_begin"] for text in shown}
    assert may_begin == {"running": False, "over": True, "free": True}


def test_a_key_made_of_arguments_is_found_by_what_a_log_line_shows(shop: Shop, bank: SqlLedger) -> None:
    made = finished(bank, key_of_arguments("test", "money", {"order_id": 4711}))
    for words in ([], ["--task", "shop.charge"], ["--scope", "money"]):
        assert shop.json("idempotency", "show", made.text, *words)["scope"] == "money"
    assert shop.run("idempotency", "show", made.text, "--task", "shop.mail").exit_code == 1


def test_work_of_several_scopes_needs_its_scope_and_work_of_a_task_that_is_gone_is_found(
    shop: Shop, bank: SqlLedger
) -> None:
    finished(bank, key())
    finished(bank, key(scope="money"))
    finished(bank, key("old", "shop.gone"))
    refused = shop.run("idempotency", "show", "order-4711")
    assert refused.exit_code == 1
    assert "in the scopes money, shop.mail: name one with --scope" in refused.stderr
    assert shop.json("idempotency", "show", "order-4711", "--scope", "money")["scope"] == "money"
    assert shop.json("idempotency", "show", "order-4711", "--task", "shop.charge")["scope"] == "money"
    assert shop.json("idempotency", "show", "old")["scope"] == "shop.gone"


@pytest.mark.parametrize("command", [("show",), ("forget", "--reason", "r")])
@pytest.mark.parametrize(
    ("words", "problem", "code"),
    [
        (["order-4712"], "knows no work with the key 'order-4712' (environment test)", 1),
        (["order-4711", "--environment", "production"], "(environment production)", 1),
        (["order-4711", "--scope", "money"], "in the scope money", 1),
        ([""], "the idempotency key is empty", 1),
        (["x" * 513], "513 bytes", 1),
        (["order-4711", "--scope", "money", "--task", "shop.mail"], "not both", 2),
    ],
)
def test_what_is_not_known_is_a_clear_error(
    shop: Shop, bank: SqlLedger, command: tuple[str, ...], words: list[str], problem: str, code: int
) -> None:
    finished(bank, key())
    result = shop.run("idempotency", command[0], *words, *command[1:])
    assert result.exit_code == code
    assert problem in result.stderr
    assert bank.entry(key()) is not None


def test_forget_lets_the_work_be_done_again_and_is_audited(shop: Shop, bank: SqlLedger) -> None:
    finished(bank, key())
    result = shop.run("idempotency", "forget", "order-4711", "--reason", "charged the wrong card", "--by", "ada")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Forgot order-4711 of shop.mail: the next message with this key does the work.\n"
    assert bank.entry(key()) is None
    (entry,) = shop.json("audit", "list", "--action", "idempotency.forget")
    assert (entry["actor"], entry["target"], entry["outcome"]) == ("ada", "order-4711", "done")
    assert entry["reason"] == "charged the wrong card"
    assert entry["before"]["task_id"] == "id-1"
    assert entry["before"]["state"] == "done"
    assert "idempotency.forget" in shop.run("audit", "list").stdout
    finished(bank, key())
    assert shop.json("idempotency", "forget", "order-4711", "--reason", "r")["forgotten"] is True


def test_work_that_is_being_done_is_not_forgotten_without_force(shop: Shop, bank: SqlLedger) -> None:
    begin(bank, key())
    refused = shop.run("idempotency", "forget", "order-4711", "--reason", "r")
    assert refused.exit_code == 1
    assert "as id-1" in refused.stderr
    assert "add --force" in refused.stderr
    assert bank.entry(key()) is not None
    assert shop.json("audit", "list") == []
    assert shop.run("idempotency", "forget", "order-4711", "--reason", "r", "--force").exit_code == 0
    assert bank.entry(key()) is None


def test_work_whose_lease_is_over_is_forgotten_without_force(shop: Shop, bank: SqlLedger) -> None:
    begin(bank, key(), timedelta(0))
    assert shop.run("idempotency", "forget", "order-4711", "--reason", "r").exit_code == 0
    assert bank.entry(key()) is None


def test_work_that_somebody_begins_meanwhile_is_not_forgotten_and_the_trail_says_so(
    shop: Shop, bank: SqlLedger
) -> None:
    freed = begin(bank, key())
    bank.free(f"run of {freed.digest}")
    work = find_work(bank, "test", "order-4711", "shop.mail")
    begin(bank, key())
    with pytest.raises(KeyRefused, match="begun again or forgotten meanwhile"):
        forget_work(shop.store, bank, work, "ada", "r", clock.now())
    assert bank.entry(key()) is not None
    failed, tried = shop.json("audit", "list")
    assert (failed["outcome"], tried["outcome"]) == ("failed", "done")
    assert failed["operation_id"] == tried["operation_id"]
    assert "begun again" in failed["after"]["error"]


@pytest.mark.parametrize("words", [[], ["--reason", "  "]])
def test_forget_needs_a_reason(shop: Shop, bank: SqlLedger, words: list[str]) -> None:
    finished(bank, key())
    assert shop.run("idempotency", "forget", "order-4711", *words).exit_code == 2
    assert bank.entry(key()) is not None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://127.0.0.1:1/0", "the ledger redis://127.0.0.1:1/0: ConnectionError"),
        ("memory://", "is in the memory of each process, so that no command sees it"),
    ],
)
def test_a_ledger_that_cannot_be_asked_says_so(tmp_path: Path, url: str, problem: str) -> None:
    shop = Shop(tmp_path, idempotency={"url": url})
    shop.archive()
    for command in (("show", "k"), ("forget", "k", "--reason", "r")):
        result = shop.run("idempotency", *command)
        assert result.exit_code == 1
        assert problem in result.stderr
    assert shop.json("audit", "list") == []
    shop.close()


def test_a_guardian_removes_what_need_not_be_remembered(shop: Shop, bank: SqlLedger) -> None:
    begin(bank, key("old"))
    assert bank.finish(key("old"), f"run of {key('old').digest}", Result(), timedelta(0))
    finished(bank, key("young"))
    assert shop.run("guardian", "--once").exit_code == 0
    assert bank.entry(key("old")) is None
    assert bank.entry(key("young")) is not None


def test_a_guardian_does_its_other_work_while_the_ledger_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path, idempotency={"url": f"sqlite:///{tmp_path}/nowhere/ledger.db"})
    shop.archive(dead(1))
    result = shop.run("guardian", "--once")
    assert result.exit_code == 0, result.output
    assert "stays in the ledger for now" in caplog.text
    assert len(shop.json("dlq", "list")) == 1
    shop.close()
