"""`guardrails check`, `policy` and `migrate`, and how the commands are found."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.celery import celery
from celery.bin.worker import worker

from celery_guardrails import Constant, GuardedTask, Policy, Schedule
from celery_guardrails.cli import _extend_worker, guardrails
from celery_guardrails.cli.timeline import draw
from celery_guardrails.policy.schedule import PlannedAttempt, schedule
from tests.unit.cli.conftest import Shop, lines, runner


def test_a_notice_is_shown_and_is_no_warning(shop: Shop) -> None:
    shop.app.conf.guardrails |= {"policies": {"shop.mail": {"severity": "critical"}}}
    result = shop.run("check")
    assert result.exit_code == 0
    assert "Notice: running twice: critical and acknowledged late: shop.mail." in result.stderr
    assert result.stdout.startswith("Settings and policies are right: ")
    looked = shop.run("doctor")
    assert ", 1 notice, " in looked.stderr
    (notice,) = [row for row in shop.json("doctor", code=looked.exit_code) if row["level"] == "notice"]
    assert (notice["check"], bool(notice["fix"])) == ("running twice", True)


def test_check_praises_what_is_right(shop: Shop) -> None:
    result = shop.run("check")
    assert result.exit_code == 0
    assert result.stdout == "Settings and policies are right: 2 tasks under guard, 1 not under guard.\n"
    assert result.stderr == ""
    assert shop.json("check") == []


def test_check_lists_wrong_settings_and_wrong_tasks_together(shop: Shop) -> None:
    shop.app.conf.guardrails = {"enviroment": "x", "policies": {"shop.*": {"max_atempts": 3}}}

    @shop.app.task(shared=False, base=GuardedTask, name="shop.both", policy=Policy(), autoretry_for=(ValueError,))
    def both() -> None: ...

    found = shop.json("check", code=1)
    assert [list(fault) for fault in found] == [["task", "setting", "value", "problem", "suggestion"]] * 3
    assert {(fault["task"], fault["setting"]) for fault in found} == {
        (None, "enviroment"), (None, "policies.shop.*.max_atempts"), ("shop.both", "autoretry_for")
    }  # fmt: skip
    result = shop.run("check")
    assert result.exit_code == 1
    assert "did you mean environment?" in result.stdout
    assert "3 faults found." in result.stderr


def test_check_warns_of_what_is_hardly_meant(shop: Shop) -> None:
    shop.app.conf.guardrails = {
        "guard": ["nothing.*"], "policies": {"void.*": {}, "vendor.*": {}}, "enabled": False
    }  # fmt: skip
    result = shop.run("check")
    assert result.exit_code == 0
    assert lines(result.stderr) == [
        "Warning: guard: the pattern nothing.* matches no task",
        "Warning: policies: the pattern void.* matches no task",
        "Warning: policies: vendor.* matches only tasks that are not under guard, such as vendor.sync",
        "Warning: enabled is False: every guarded task behaves as a plain one",
    ]
    assert result.stdout.startswith("No faults, 4 warnings: ")


def test_check_warns_of_options_that_contradict_a_policy(shop: Shop) -> None:
    @shop.app.task(shared=False, base=GuardedTask, name="shop.both", max_retries=1, policy=Policy(max_attempts=5))
    def both() -> None: ...

    result = shop.run("check")
    assert result.exit_code == 0
    (line,) = lines(result.stderr)
    assert "max_attempts is 2 by the task's own options (max_retries), but 5 by decorator, which holds." in line


def test_policy_names_the_option_that_a_field_came_from(shop: Shop) -> None:
    @shop.app.task(shared=False, base=GuardedTask, name="shop.early", acks_late=False)
    def early() -> None: ...

    text = " ".join(shop.run("policy", "shop.early").stdout.split())
    assert "acks early the task's own options (acks_late)" in text


def test_check_warns_when_nothing_is_under_guard() -> None:
    app = Celery("bare", broker="memory://", set_as_current=False)
    result = runner().invoke(guardrails, ["check"], obj=CLIContext(app=app, no_color=True, workdir=None))
    assert "no task is under guard" in result.stderr
    assert result.stdout == "No faults, 1 warning: 0 tasks under guard.\n"


def test_policy_lists_the_tasks_under_guard_and_by_what(shop: Shop) -> None:
    shop.app.conf.guardrails = {"guard": ["vendor.*"], "policies": {"vendor.*": {"max_attempts": 2}}}
    result = shop.run("policy")
    rows = {line.split()[0]: line for line in lines(result.stdout)}
    assert list(rows) == ["Task", "shop.import", "shop.mail", "vendor.sync"]
    assert "guard pattern vendor.*" in rows["vendor.sync"]
    assert "base class" in rows["shop.mail"]
    assert "growth" in rows["shop.mail"]
    assert "3 under guard, 0 not." in result.stderr
    listed = {item["task"]: item for item in shop.json("policy")}
    assert listed["vendor.sync"]["policy"]["max_attempts"] == 2
    assert listed["shop.mail"]["guarded_by"] == "base class"


def test_policy_shows_one_task_with_where_each_field_came_from(shop: Shop) -> None:
    shop.app.conf.guardrails = {"policies": {"shop.mail": {"max_attempts": 3}}, "policy": {"severity": "warning"}}
    shown = shop.json("policy", "shop.mail")
    assert shown["policy"]["max_attempts"] == 3
    assert shown["provenance"]["max_attempts"] == "policies[shop.mail]"
    assert shown["provenance"]["backoff"] == "decorator"
    assert shown["provenance"]["severity"] == "settings policy"
    assert shown["provenance"]["jitter"] == "default"
    assert [attempt["attempt"] for attempt in shown["schedule"]] == [1, 2, 3]
    assert shown["schedule"][1] == {"attempt": 2, "earliest": 0.75, "latest": 1.25, "deadline": "within"}
    text = shop.run("policy", "shop.mail").stdout
    assert "shop.mail, under guard by base class" in text
    assert "the built-in transient errors" in text
    assert "no attempt starts later than 2 h" in text
    assert "█" in text


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(deadline=None), "No deadline."),
        (Policy(max_attempts=None, backoff=Constant("1s")), "... and so on."),
        (Policy(max_attempts=70, backoff=Constant("1s")), "... and so on, 70 attempts in all."),
        (Policy(deadline="20s", jitter="none"), "never: after the deadline"),
        (Policy(give_up_on=(ValueError, "vendor.Error")), "ValueError, vendor.Error"),
        (Policy(backoff_for={"rate_limit": Constant("1m")}), 'rate_limit: Constant("1m")'),
        (Policy(respect_retry_after=False), "no "),
    ],
)
def test_policy_draws_every_kind(shop: Shop, policy: Policy, words: str) -> None:
    shop.app.conf.guardrails = {"policies": {"shop.import": policy}}
    assert words in shop.run("policy", "shop.import").stdout


@pytest.mark.parametrize("most", [None, 70])
def test_a_schedule_that_is_cut_is_short_and_says_nothing_of_its_last_attempt(shop: Shop, most: int | None) -> None:
    endless = Policy(max_attempts=most, backoff=Constant("1s"), jitter="none")
    shop.app.conf.guardrails = {"policies": {"shop.import": endless}}
    shown = shop.run("policy", "shop.import").stdout
    drawn = shown.partition("Attempt ")[2]
    assert [line.split()[0] for line in lines(drawn) if line.split()[0].isdigit()] == [str(n) for n in range(1, 11)]
    assert "long before" not in shown


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shop.mial", "did you mean shop.mail?"),
        ("zzzzzz", "No task is named zzzzzz."),
        ("vendor.sync", "vendor.sync is not under guard"),
    ],
)
def test_policy_of_a_task_that_is_not_there(shop: Shop, name: str, words: str) -> None:
    result = shop.run("policy", name)
    assert result.exit_code == 1
    assert words in result.stderr


def test_the_picture_marks_deadline_and_spans() -> None:
    planned = schedule(Policy(backoff=Schedule(["10s", "20s", "30s"]), max_attempts=4, deadline="45s", jitter=0.5))
    rows = draw(planned, timedelta(seconds=45), 46, ascii_only=True)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0][3] == "#" + "." * 44 + "|"
    assert rows[1][3] == "." * 5 + "#" * 11 + "." * 29 + "|"
    assert rows[3][4] == "may miss the deadline"
    assert {len(row[3]) for row in rows} == {46}
    assert draw([PlannedAttempt(1, timedelta(0), timedelta(0))], None, 10)[0][3] == "█·········"
    assert draw([], None) == []


def test_migrate_makes_and_keeps_the_archive(shop: Shop) -> None:
    for _ in range(2):
        result = shop.run("migrate")
        assert result.exit_code == 0
        assert "is up to date" in result.stdout
    assert shop.path.exists()


def test_an_archive_that_cannot_be_opened_is_one_line(shop: Shop, tmp_path: Path) -> None:
    shop.app.conf.guardrails = {"store": {"url": f"sqlite:///{tmp_path}/no/such/folder.db"}}
    for words in (["migrate"], ["dlq", "list"], ["alerts", "list"], ["guardian", "--once"], ["guardian"]):
        result = shop.run(*words)
        assert result.exit_code == 1
        assert len(lines(result.stderr)) == 1
        assert "does not exist" in result.stderr


def test_a_wrong_setting_ends_every_command(shop: Shop) -> None:
    shop.app.conf.guardrails = {"enviroment": "x"}
    for words in (["dlq", "list"], ["policy"], ["guardian", "--once"]):
        result = shop.run(*words)
        assert result.exit_code == 1
        assert "did you mean environment?" in result.stderr


def test_a_wrong_command_is_answered_with_the_nearest(shop: Shop) -> None:
    result = shop.run("dlq", "lst")
    assert result.exit_code == 2
    assert "list" in result.stderr
    assert shop.run("zzzzzzzz").exit_code == 2


def test_every_command_has_help(shop: Shop) -> None:
    for words in ([], ["dlq"], ["alerts"], ["dlq", "requeue"], ["dlq", "list"], ["guardian"], ["policy"]):
        result = shop.run(*words, "--help") if words else shop.run("--help")
        assert result.exit_code == 0
        assert "Usage:" in result.stdout


def test_the_application_must_be_named() -> None:
    result = runner().invoke(celery, ["guardrails", "check"])
    assert result.exit_code == 2
    assert "celery -A PROJ guardrails" in result.stderr


def test_the_worker_has_the_option_once() -> None:
    _extend_worker()
    assert [param.name for param in worker.params].count("guardian") == 1


def test_json_is_one_value(shop: Shop) -> None:
    shop.app.conf.guardrails = {"guard": ["nothing.*"], "store": {"url": f"sqlite:///{shop.path}"}}
    shop.archive()
    for words in (["check"], ["policy"], ["dlq", "list"], ["dlq", "stats"], ["alerts", "list"], ["guardian", "--once"]):
        assert json.loads(shop.run(*words, "--json").stdout) is not None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://anna:hunter2@db/x", "mysql is not supported: use sqlite or postgresql"),
        ("nonsense", "is no database URL: write sqlite:///file.db or postgresql://user@host/name"),
    ],
)
def test_check_finds_an_archive_that_no_guardian_could_open(shop: Shop, url: str, words: str) -> None:
    shop.app.conf.guardrails["store"] = {"url": url}
    (fault,) = shop.json("check", code=1)
    assert (fault["setting"], fault["problem"]) == ("store.url", words)
    assert "hunter2" not in str(fault)


def test_check_finds_that_the_driver_of_postgresql_is_missing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    shop.app.conf.guardrails["store"] = {"url": "postgresql://anna@db/x"}
    (fault,) = shop.json("check", code=1)
    assert fault["problem"] == "psycopg is missing: pip install 'celery-guardrails[postgres]'"
