"""`celery guardian`: what it is made of, what `--once` does and says, how it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from celery_guardrails import clock
from celery_guardrails.cli.daemon import assembly
from celery_guardrails.cli.daemon.assembly import alerts_go_to, assembled, await_archive, dead_letter_queues
from celery_guardrails.cli.daemon.command import serve, stopped_by_signals
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import ConfigurationError, StoreError
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.recovery import transition
from celery_guardrails.settings import load_settings
from celery_guardrails.store import lease
from celery_guardrails.testing.slack import Mode, SlackStandIn
from celery_guardrails.transport.dead_letter import DeadLetterSender
from celery_guardrails.transport.publisher import Publisher
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """`app.log.setup` changes the root logger of the process."""
    root, ours = logging.getLogger(), logging.getLogger("celery_guardrails.guardian")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


def send(shop: Shop, *numbers: int, queue: str | None = None) -> None:
    """Dead-letter as a worker does."""
    publisher = Publisher(shop.app)
    for number in numbers:
        DeadLetterSender(publisher, "shop.dead").send(dead(number), queue)
    publisher.close()


def test_once_archives_what_waits_in_every_queue_and_says_so_in_one_line(shop: Shop) -> None:
    shop.archive()
    send(shop, 1, 2)
    send(shop, 3, queue="shop.imports")
    result = shop.run("guardian", "--once")
    assert result.exit_code == 0, result.output
    assert result.stdout == ("Archived 3 dead letters; sent 1 alert to the log, because no Slack is set.\n")
    assert len(shop.json("dlq", "list")) == 3
    assert shop.run("guardian", "--once").stdout == "Archived 0 dead letters.\n"


def test_once_tells_what_it_knew_and_what_recovered(shop: Shop) -> None:
    letter = dead(1)
    shop.archive(letter)
    claim = transition.claim_requeue(shop.store, letter.id, "ada", "mended", clock.now())
    publisher = Publisher(shop.app)
    recovery = Recovery(letter.id, 1, clock.now(), letter.task, claim.token)
    DeadLetterSender(publisher, "shop.dead").report_recovered(recovery)
    publisher.close()
    send(shop, 1)
    outcome = shop.json("guardian", "--once")
    assert {key: outcome[key] for key in ("archived", "recovered", "known", "held")} == {
        "archived": 0, "recovered": 1, "known": 1, "held": 0
    }  # fmt: skip
    send(shop, 1)
    assert shop.run("guardian", "--once").stdout == "Archived 0 dead letters; 1 message already known.\n"
    assert shop.json("dlq", "show", letter.id)["state"] == "recovered"
    assert "has recovered (it had died: attempts_exhausted)" in shop.run("dlq", "show", letter.id).stdout


def test_once_posts_to_slack_and_keeps_what_slack_refuses(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.archive()
    monkeypatch.setattr("celery_guardrails.cli.daemon.assembly.DRAIN", timedelta(milliseconds=50))
    with SlackStandIn() as slack:
        shop.app.conf.guardrails |= {"slack": {"token": "xoxb-1", "channel": "C1", "base_url": slack.base_url}}
        slack.script("chat.postMessage", *[Mode.SERVER_ERROR] * 20)
        send(shop, 1)
        assert "1 alert not sent yet, the next guardian tries again" in shop.run("guardian", "--once").stdout
    assert shop.json("dlq", "stats")["total"] == 1


def test_a_broker_that_is_down_is_one_line(shop: Shop) -> None:
    shop.archive()
    shop.app.conf.broker_url = "redis://127.0.0.1:1/0"
    result = shop.run("guardian", "--once")
    shop.app.conf.broker_url = "memory://"
    assert result.exit_code == 1
    assert lines(result.stderr)[-1].startswith("Error: the broker cannot be reached: ")


def test_an_archive_that_cannot_be_opened_leaves_the_letters_in_the_queue(shop: Shop, tmp_path: Path) -> None:
    shop.app.conf.guardrails |= {"store": {"url": f"sqlite:///{tmp_path}/none/archive.db"}}
    send(shop, 1)
    result = shop.run("guardian", "--once")
    assert result.exit_code == 1
    assert "dead letters stay in their queue" in result.stderr
    with shop.app.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("shop.dead", passive=True).message_count == 1


@pytest.mark.parametrize("words", [["--json"], ["-l", "LOUD"], ["--once", "--check"]])
def test_wrong_usage(shop: Shop, words: list[str]) -> None:
    assert shop.run("guardian", *words).exit_code == 2


def test_the_daemon_introduces_itself_works_and_stops(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    store = shop.archive()
    send(shop, 1)
    stop, project = threading.Event(), Project(shop.app, "shop")
    caplog.set_level(logging.INFO, "celery_guardrails.guardian")
    thread = threading.Thread(target=serve, args=(project, stop))
    thread.start()
    while not shop.json("dlq", "list"):
        stop.wait(0.02)
    stop.set()
    thread.join()
    project.close()
    text = caplog.text
    for words in ("archive.sqlite3", "shop.dead, shop.imports", "alerts go to the log", "SQLite", "guardian stopped"):
        assert words in text
    with store.read() as conn:
        assert lease.guardians(conn) == []


def test_sigterm_asks_it_to_stop_and_a_second_one_would_end_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_queue_that_settings_and_policies_name(shop: Shop) -> None:
    shop.app.conf.guardrails |= {
        "policies": {"a.*": {"dead_letter_queue": "a.dead"}}, "policy": {"dead_letter_queue": "all.dead"}
    }  # fmt: skip
    assert dead_letter_queues(Project(shop.app).guardrails) == ("shop.dead", "a.dead", "all.dead", "shop.imports")


def test_a_wrong_policy_stops_it_before_anything_is_consumed(shop: Shop) -> None:
    shop.app.conf.guardrails |= {"policies": {"shop.*": {"max_attempts": None, "deadline": None}}}
    with pytest.raises(ConfigurationError), assembled(Project(shop.app)):
        pass


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "the log, because no Slack is set"),
        ({"slack": {"token": "xoxb-secret", "channel": "#ops"}}, "Slack, channel #ops"),
        ({"slack": {"webhook_url": "https://hooks/secret"}}, "Slack, through a webhook"),
    ],
)
def test_where_alerts_go_without_secrets(settings: dict[str, Any], words: str) -> None:
    assert alerts_go_to(load_settings(settings, {})) == words


def test_the_kill_switch_is_mentioned(shop: Shop) -> None:
    shop.archive()
    shop.app.conf.guardrails |= {"enabled": False}
    with assembled(Project(shop.app)) as made:
        assert any("enabled is False" in line for line in made.introduction())


def test_signing_off_from_an_archive_that_is_gone_is_only_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.archive()

    def gone(*_: Any, **__: Any) -> Any:
        raise StoreError("sqlite:///x", "gone")

    with assembled(Project(shop.app)):
        monkeypatch.setattr("celery_guardrails.store.lease.forget", gone)
    assert "could not sign off" in caplog.text


def _seen(shop: Shop, ago: float) -> None:
    with shop.store.begin() as conn:
        lease.heartbeat(conn, "g", clock.now(), clock.now() - timedelta(seconds=ago), "host", 7)


def test_check_is_about_the_last_30_seconds(shop: Shop) -> None:
    shop.archive()
    never = shop.run("guardian", "--check")
    assert (never.exit_code, never.stdout) == (1, "")
    assert lines(never.stderr) == ["No guardian is alive; start one: celery -A PROJ guardian"]
    _seen(shop, 20)
    alive = shop.run("guardian", "--check")
    assert (alive.exit_code, alive.stderr) == (0, "")
    assert alive.stdout.startswith("1 guardian alive, last seen 2")
    assert [each["pid"] for each in shop.json("guardian", "--check")["alive"]] == [7]
    _seen(shop, 31)
    dead_by_now = shop.run("guardian", "--check")
    assert dead_by_now.exit_code == 1
    assert lines(dead_by_now.stderr) == ["No guardian is alive, last seen 31 s ago; start one: celery -A PROJ guardian"]
    assert shop.json("guardian", "--check", code=1)["alive"] == []


def test_check_costs_one_query_and_makes_no_archive(shop: Shop) -> None:
    missing = shop.run("guardian", "--check")
    assert missing.exit_code == 1
    assert "no archive yet" in missing.stderr
    assert not shop.path.exists()
    shop.archive()
    statements: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        shop.run("guardian", "--check")
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert [statement.split()[0] for statement in statements if statement != "BEGIN"] == ["SELECT"]


def test_check_of_a_database_without_tables_says_so_in_words(shop: Shop) -> None:
    shop.path.touch()
    empty = shop.run("guardian", "--check")
    assert empty.exit_code == 1
    assert "no archive yet: start a guardian (celery -A PROJ guardian)" in empty.stderr
    assert "no such table" not in empty.stderr


def test_an_archive_that_is_away_is_waited_for_and_said_once(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.archive()
    monkeypatch.setattr("celery_guardrails.cli.daemon.assembly._FIRST_PAUSE", 0.01)
    tries: list[int] = []
    really = assembly.open_archive

    def away_at_first(project: Project) -> Any:
        tries.append(1)
        if len(tries) < 4:
            raise StoreError("postgresql://x", "connection refused", away=True)
        return really(project)

    monkeypatch.setattr(assembly, "open_archive", away_at_first)
    store = await_archive(Project(shop.app, "shop"), threading.Event())
    assert store is not None
    store.close()
    said = [record.message for record in caplog.records if "archive" in record.message]
    assert len(said) == 2
    assert "connection refused" in said[0]
    assert said[1].endswith("it answers again")


def test_a_guardian_that_waits_for_its_archive_can_be_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_project: Project) -> Any:
        stop.set()
        raise StoreError("postgresql://x", "connection refused", away=True)

    stop = threading.Event()
    monkeypatch.setattr(assembly, "open_archive", away)
    serve(Project(shop.app, "shop"), stop)
