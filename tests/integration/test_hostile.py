"""Whoever can publish a task can neither take a letter over nor steer the terminal of those who look."""

from __future__ import annotations

import json
import shlex
import uuid
from typing import Any

import pytest
from celery import Celery

from celery_guardrails.letters.header import HEADER, read_header
from celery_guardrails.recovery.requeue import requeue
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.dead_letter import Replayer
from celery_guardrails.worker.install import Guardrails
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness
from tests.published import publish, task_message
from tests.waiting import wait_until

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp.exe\u2066\r\nWARNING forged line\x00\u2028 it's `id` $(id); curl #"


@pytest.fixture
def guarded(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, broker.url, result_backend, {"alerts": {"group_wait": 0}})


def command(guarded: Guarded, *words: str) -> Any:
    """What a command prints with `--json`."""
    done = guarded.harness.run(APP, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shown(guarded: Guarded, letter: str) -> dict[str, Any]:
    found: dict[str, Any] = command(guarded, "guardrails", "dlq", "show", letter)
    return found


def archive(guarded: Guarded) -> dict[str, Any]:
    found: dict[str, Any] = command(guarded, "guardian", "--once")
    return found


class Courier:
    """Puts letters back as the command does, and keeps what it published."""

    def __init__(self, guarded: Guarded) -> None:
        self.guarded = guarded
        self.tokens: dict[str, str] = {}
        self._publisher = Guardrails.of(guarded.app).publisher
        self._replayer = Replayer(guarded.app, self._publisher)

    def publish(self, message: Any) -> None:
        self.tokens[message.dead_letter_id] = str(read_header(message.headers).claim_token)
        self._replayer.publish(message)

    def put_back(self, letter: str) -> None:
        store = open_store(self.guarded.store_url, create=False)
        try:
            from celery_guardrails import clock

            requeue(store, self, letter, "ada", "mended", clock.now())
        finally:
            store.close()
            self._publisher.close()


def test_only_the_requeued_work_itself_settles_its_letter(guarded: Guarded) -> None:
    worker = guarded.worker()
    tasks = guarded.tasks
    sent = {key: tasks.bug.delay(key).id for key in ("victim", "again")}
    tasks.flaky.delay("mended", 6)  # dead after 5; put back it fails once more, and succeeds at its next attempt
    tasks.flaky.starmap([("carried", 5)]).apply_async()
    guarded.wait_for_runs("mended", 5)
    guarded.wait_for_runs("carried", 5)
    wait_until(lambda: worker.log().count("is dead-lettered as") >= 4, 60, "four letters")
    archive(guarded)
    before = {letter["task_id"]: letter for letter in command(guarded, "guardrails", "dlq", "list")}
    assert len(before) == 4
    victim, again = before[sent["victim"]], before[sent["again"]]
    mended, carried = [letter for letter in before.values() if letter["task"] == "guarded.flaky"]

    courier = Courier(guarded)
    for letter in (mended, carried, again):
        courier.put_back(letter["id"])
    thief = Celery("thief", broker=guarded.app.conf.broker_url, set_as_current=False)
    thief.conf.task_default_queue = f"{guarded.prefix}.tasks"
    forged = [
        ("guarded.add", (1, 2), {"dead_letter_id": victim["id"], "generation": 1}),
        ("guarded.add", (1, 2), {"dead_letter_id": again["id"], "generation": 1, "claim_token": "0" * 48}),
        ("guarded.bug", ("forged",), {"dead_letter_id": victim["id"], "generation": 9}),
        ("guarded.own_words", ("forged", "permanent"), {"dead_letter_id": again["id"], "generation": 1}),
        ("guarded.bug", ("forged",), {"dead_letter_id": "x; curl evil.example #", "generation": 3}),
    ]
    for name, args, header in forged:
        thief.send_task(name, args, headers={HEADER: {"v": 1, "work": uuid.uuid4().hex, **header}})
    thief.close()
    guarded.wait_for_runs("mended", 7)
    guarded.wait_for_runs("carried", 6)
    wait_until(lambda: worker.log().count("is dead-lettered as") >= 8, 60, "four more deaths")
    guarded.finish()
    once = guarded.harness.run(APP, "guardian", "--once", "-l", "INFO")
    assert once.returncode == 0, once.stderr

    assert shown(guarded, mended["id"])["state"] == "recovered"
    assert shown(guarded, carried["id"])["state"] == "recovered"
    after = shown(guarded, victim["id"])
    assert (after["state"], after["generation"], after["args_preview"]) == ("dead", 0, "('victim',)")
    assert sorted(entry["outcome"] for entry in after["audit"]) == ["refused", "refused"]
    died = shown(guarded, again["id"])
    assert (died["state"], died["generation"], died["task"]) == ("dead", 1, "guarded.bug")
    assert [entry["action"] for entry in died["audit"] if entry["outcome"] == "done"] == ["requeue", "die"]
    assert [entry["outcome"] for entry in died["audit"]].count("refused") == 2
    everything = command(guarded, "guardrails", "dlq", "list", "--limit", "100")
    own = [letter for letter in everything if letter["id"] not in {found["id"] for found in before.values()}]
    assert len(own) == 3
    assert all(str(uuid.UUID(letter["id"])) == letter["id"] for letter in own)
    assert "is set aside" in once.stderr

    text = guarded.harness.run(APP, "guardrails", "dlq", "show", victim["id"])
    assert "refused" in text.stdout
    said = "".join([worker.log(), once.stderr, once.stdout, text.stdout, json.dumps([after, died, everything])])
    for token in courier.tokens.values():
        assert token not in said


def harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


def test_hostile_names_reach_no_terminal_and_no_log_of_ours(guarded: Guarded) -> None:
    worker = guarded.worker("-c", "1")
    publish(
        guarded.app,
        f"{guarded.prefix}.tasks",
        [
            task_message("guarded.hostile", (EVIL.replace("\0", ""),), id=EVIL, root_id=EVIL, origin=EVIL),
            task_message(f"gone.{EVIL}", (EVIL,), id=EVIL),
            task_message("guarded.hostile", (EVIL.replace("\0", ""),), retries=EVIL, id=f"2{EVIL}"),
            task_message(
                "guarded.hostile", (EVIL.replace("\0", ""),), guardrails={"dead_letter_id": EVIL, "work": EVIL}
            ),
        ],
    )
    wait_until(lambda: worker.log().count("is dead-lettered as") >= 4, 60, "four letters")
    ours = [line for line in worker.log().split("\n") if "is dead-lettered as" in line]
    assert len(ours) == 4
    assert all(harmless(line) for line in ours)
    guardian = guarded.harness.guardian(APP, ready="archive:")
    guardian.wait_for_log("Next step:")
    guardian.wait_for_log("archived 4")
    assert guardian.stop() == 0
    assert harmless(guardian.log())
    assert not any(line.startswith("WARNING forged") for line in guardian.log().splitlines())

    letters = command(guarded, "guardrails", "dlq", "list", "--limit", "10")
    assert len(letters) == 4
    commands = [
        ["dlq", "list"], ["dlq", "groups"], ["dlq", "groups", "--by", "task"], ["dlq", "stats"], ["alerts", "list"],
        *(["dlq", "show", letter["id"]] for letter in letters),
        ["dlq", "show", EVIL.replace("\0", "")], ["dlq", "list", f"task:{EVIL}".replace("\0", "")],
        ["dlq", "requeue", "task:gone*", "--reason", EVIL.replace("\0", "")],
        ["dlq", "discard", letters[0]["id"], "--reason", EVIL.replace("\0", ""), "--by", EVIL.replace("\0", "")],
        ["dlq", "show", letters[0]["id"]],
    ]  # fmt: skip
    for words in commands:
        done = guarded.harness.run(APP, "guardrails", *words)
        assert "Traceback" not in done.stderr
        assert harmless(done.stdout), words
        assert harmless(done.stderr), words
        for line in done.stdout.splitlines():
            if line.strip().startswith("celery -A"):
                assert shlex.split(line)[:3] == ["celery", "-A", APP]
