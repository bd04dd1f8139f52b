"""The commands as a person runs them: the real `celery`, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest

from tests.conftest import Broker
from tests.harness import Harness
from tests.integration.cli.conftest import APP, ShopProcesses
from tests.waiting import wait_until

BROKEN = "tests.integration.cli.broken_app"


def test_check_lists_the_faults_of_all_declarations_and_settings_at_once(harness: Harness) -> None:
    result = harness.run(BROKEN, "guardrails", "check", "--json")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert {(fault["task"], fault["setting"]) for fault in found} == {
        ("billing.charge", "max_attempts"),
        ("billing.charge", "deadlin"),
        ("billing.refund", "backoff.base"),
        ("billing.retried", "autoretry_for"),
        (None, "enviroment"),
        (None, "policies.billing.*.max_atempts"),
    }
    assert all(list(fault) == ["task", "setting", "value", "problem", "suggestion"] for fault in found)
    text = harness.run(BROKEN, "guardrails", "check")
    assert text.returncode == 1
    assert "did you mean deadline?" in text.stdout
    assert "6 faults found." in text.stderr


def test_any_other_command_stops_at_a_wrong_declaration(harness: Harness) -> None:
    result = harness.run(BROKEN, "guardrails", "policy")
    assert result.returncode != 0
    assert "did you mean deadline?" in result.stderr


def test_check_and_policy_of_a_right_application(shop: ShopProcesses) -> None:
    result = shop.run("guardrails", "check")
    assert result.returncode == 0
    assert result.stderr.startswith("Warning: waiting: retries wait by eta, in the memory of the worker")
    assert len(result.stderr.splitlines()) == 1
    assert "3 tasks under guard, 1 not under guard" in result.stdout
    shown = shop.run("guardrails", "policy", "vendor.sync").stdout
    assert "guard pattern vendor.*" in shown
    assert "policies[vendor.*]" in shown
    assert "\x1b" not in shown


def test_the_commands_cost_other_applications_nothing_heavy(harness: Harness) -> None:
    code = (
        "import sys; sys.argv = ['celery', 'report']; import celery.bin.celery; "
        "import celery_guardrails.cli; "
        "print([m for m in ('sqlalchemy', 'alembic', 'rich', 'slack_sdk', 'sentry_sdk') if m in sys.modules])"
    )
    result = harness.run_python("-c", code)
    assert result.stdout.strip() == "[]", result.stderr
    plain = harness.run_python("-m", "celery", "--app", "celery", "worker", "--help")
    assert "--guardian" in plain.stdout


def test_an_application_with_options_of_its_own(shop: ShopProcesses) -> None:
    for words in (["guardrails", "--zone", "cet", "check"], ["guardian", "--zone", "cet", "--once"]):
        result = shop.run(*words, SHOP_PRELOAD="1")
        assert result.returncode == 0, result.stderr


def test_the_whole_way_with_a_guardian_inside_the_worker(
    broker: Broker, make_shop: Callable[..., ShopProcesses]
) -> None:
    shop = make_shop(broker)
    worker = shop.worker("--guardian")
    worker.wait_for_log("guardian started")
    shop.send("for n in range(3): mail.delay(n, customer='ada', password='hunter2')\nimport_.delay('/data/x.csv')")
    shop.wait_for_states(dead=4)
    letters = shop.json("dlq", "list", "--task", "shop.mail")
    shown = shop.run("guardrails", "dlq", "show", letters[0]["id"][:8])
    assert "TimeoutError: smtp did not answer" in shown.stdout
    assert "hunter2" not in shown.stdout
    assert "\x1b" not in shown.stdout

    shop.repair()
    result = shop.run(
        "guardrails", "dlq", "requeue", "task:shop.mail", "--reason", "provider is back", "--wait", "60", "--yes"
    )
    assert (result.returncode, result.stdout) == (0, "Requeued 3 dead letters. 3 recovered.\n")
    assert sorted((shop.folder / "sent").read_text().split()) == ["0", "1", "2"]
    again = shop.run("guardrails", "dlq", "requeue", letters[0]["id"], "--reason", "once more")
    assert again.returncode == 1
    assert "it recovered at" in again.stderr
    back = shop.run(
        "guardrails", "dlq", "requeue", "task:shop.import", "--reason", "file is there", "--wait", "60", "--yes"
    )
    assert (back.returncode, back.stdout) == (1, "Requeued 1 dead letter. 0 recovered, 1 died again.\n")
    assert worker.stop() == 0
    assert "guardian stopped" in worker.log()


def test_letters_wait_in_the_queue_until_a_guardian_runs_once(
    redis_broker: Broker, make_shop: Callable[..., ShopProcesses]
) -> None:
    shop = make_shop(redis_broker)
    worker = shop.worker()
    shop.send("mail.delay(1)\nimport_.delay('x')")
    assert shop.run("guardrails", "migrate").returncode == 0
    wait_until(
        lambda: "2 dead letters still wait" in shop.run("guardrails", "dlq", "list").stderr,
        60,
        "two letters",
        every=0.3,
    )
    down = shop.run("guardian", "--once", SHOP_STORE="sqlite:////no/such/folder/archive.db")
    assert down.returncode == 1
    assert "dead letters stay in their queue" in down.stderr
    once = shop.run("guardian", "--once")
    assert once.returncode == 0
    assert once.stdout.startswith("Archived 2 dead letters; sent 2 alerts to the log")
    result = shop.run("guardrails", "dlq", "list")
    assert len(result.stdout.splitlines()) == 3
    assert "still wait" not in result.stderr
    assert worker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_ends_cleanly_when_asked(shop: ShopProcesses, number: signal.Signals) -> None:
    guardian = shop.guardian()
    text = guardian.log()
    for words in ("archive: sqlite:///", "dead-letter queues: shop", "alerts go to the log", "one machine with a disk"):
        assert words in text
    guardian.signal(number)
    assert guardian.wait() == 0
    assert "guardian stopped" in guardian.log()


def _child(shop: ShopProcesses, text: str) -> int:
    """The pid that the guardian inside the worker has told."""
    return int(text.split("guardian started, process ")[1].split()[0])


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_the_guardian_inside_a_worker_ends_with_it(shop: ShopProcesses, pool: str) -> None:
    worker = shop.worker("--guardian", pool=pool)
    worker.wait_for_log("guardian started")
    pid = _child(shop, worker.log())
    assert worker.stop() == 0
    assert "guardian stopped" in worker.log()
    assert _gone(pid)


def test_the_guardian_inside_a_worker_that_is_killed_ends_too(shop: ShopProcesses) -> None:
    worker = shop.worker("--guardian", pool="solo")
    worker.wait_for_log("guardian started")
    worker.kill()
    wait_until(lambda: "guardian stopped" in worker.log(), 30, "the guardian's end")


def test_a_worker_says_when_its_guardian_dies_and_goes_on(shop: ShopProcesses) -> None:
    worker = shop.worker("--guardian", pool="solo")
    worker.wait_for_log("guardian started")
    os.kill(_child(shop, worker.log()), signal.SIGKILL)
    worker.wait_for_log("the guardian inside this worker ended")
    assert worker.is_running
    assert worker.stop() == 0


def test_a_worker_whose_guardian_has_no_archive_works_and_says_so(shop: ShopProcesses) -> None:
    shop.harness.environment["SHOP_STORE"] = "sqlite:////no/such/folder/archive.db"
    worker = shop.worker("--guardian", pool="solo")
    worker.wait_for_log("the guardian inside this worker cannot run: archive sqlite:////no/such/folder/archive.db")
    assert worker.is_running
    assert worker.stop() == 0


def test_green_pools_are_refused_with_what_to_do(shop: ShopProcesses) -> None:
    pytest.importorskip("gevent")
    result = shop.run("worker", "--guardian", "-P", "gevent")
    assert result.returncode != 0
    assert f"run a guardian as its own process, celery -A {APP} guardian" in result.stderr + result.stdout
