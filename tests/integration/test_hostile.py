"""Whoever can publish a task can neither take a letter over nor steer the terminal of those who look."""

from __future__ import annotations

import json
import shlex
import uuid
from typing import Any

import pytest
from celery import Celery

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.claim import draw_token
from celery_guardrails.letters.header import HEADER, Header, read_header
from celery_guardrails.recovery.requeue import requeue
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.dead_letter import Replayer
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness, Process
from tests.published import Published, publish, task_message
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
            requeue(store, self, letter, "ada", "mended", clock.now())
        finally:
            store.close()
            self._publisher.close()


def dead(guarded: Guarded, worker: Process) -> dict[str, dict[str, Any]]:
    """Four letters in the archive, by name."""
    tasks = guarded.tasks
    sent = {key: tasks.bug.delay(key).id for key in ("victim", "again")}
    # dead after five runs; put back it fails once more, and succeeds at its next attempt
    sent["mended"] = tasks.flaky.delay("mended", 6).id
    sent["carried"] = tasks.flaky.starmap([("carried", 5)]).apply_async().id
    wait_until(lambda: worker.log().count("is dead-lettered as") >= 4, 60, "four letters")
    archive(guarded)
    found = {letter["task_id"]: letter for letter in command(guarded, "guardrails", "dlq", "list")}
    return {key: found[task_id] for key, task_id in sent.items()}


def put_back_to_nobody(guarded: Guarded) -> str:
    """Publish work that was put back, of a task that no worker has: Celery logs its headers. Its claim token."""
    header = Header(clock.now(), dead_letter_id=str(uuid.uuid4()), generation=1, claim_token=draw_token())
    headers = {HEADER: header.encode(), "headers": {HEADER: header.encode()}}
    publish(guarded.app, f"{guarded.prefix}.tasks", [task_message("gone.task", (), **headers)])
    return str(header.claim_token)


def steal(guarded: Guarded, victim: str, again: str) -> None:
    """Publish what claims to be work that was put back: two that succeed, three that die."""
    thief = Celery("thief", broker=guarded.app.conf.broker_url, set_as_current=False)
    thief.conf.task_default_queue = f"{guarded.prefix}.tasks"
    forged = [
        ("guarded.add", (1, 2), {"dead_letter_id": victim, "generation": 1}),
        ("guarded.add", (1, 2), {"dead_letter_id": again, "generation": 1, "claim_token": "0" * 48}),
        ("guarded.bug", ("forged",), {"dead_letter_id": victim, "generation": 9}),
        ("guarded.own_words", ("forged", "permanent"), {"dead_letter_id": again, "generation": 1}),
        ("guarded.bug", ("forged",), {"dead_letter_id": "x; curl evil.example #", "generation": 3}),
    ]
    for name, args, header in forged:
        thief.send_task(name, args, headers={HEADER: {"v": 1, "work": uuid.uuid4().hex, **header}})
    thief.close()


def test_only_the_requeued_work_itself_settles_its_letter(guarded: Guarded) -> None:
    worker = guarded.worker()
    letters = dead(guarded, worker)
    courier = Courier(guarded)
    for key in ("mended", "carried", "again"):
        courier.put_back(letters[key]["id"])
    victim, again = letters["victim"]["id"], letters["again"]["id"]
    steal(guarded, victim, again)
    courier.tokens["unknown"] = put_back_to_nobody(guarded)
    guarded.wait_for_runs("mended", 7)
    guarded.wait_for_runs("carried", 6)
    wait_until(lambda: worker.log().count("is dead-lettered as") >= 9, 60, "five more deaths")
    guarded.finish()
    once = guarded.harness.run(APP, "guardian", "--once", "-l", "INFO")
    assert once.returncode == 0, once.stderr
    assert "is set aside" in once.stderr

    for key in ("mended", "carried"):
        assert shown(guarded, letters[key]["id"])["state"] == "recovered"
    after, died = shown(guarded, victim), shown(guarded, again)
    assert (after["state"], after["generation"], after["args_preview"]) == ("dead", 0, "('victim',)")
    assert [entry["outcome"] for entry in after["audit"]] == ["refused", "refused"]
    assert (died["state"], died["generation"], died["task"]) == ("dead", 1, "guarded.bug")
    assert [entry["action"] for entry in died["audit"] if entry["outcome"] == "done"] == ["requeue", "die"]
    assert [entry["outcome"] for entry in died["audit"]].count("refused") == 2
    everything = command(guarded, "guardrails", "dlq", "list", "--limit", "100")
    own = {letter["id"] for letter in everything} - {letter["id"] for letter in letters.values()}
    assert len(own) == 4
    assert {str(uuid.UUID(id_)) for id_ in own} == own

    text = guarded.harness.run(APP, "guardrails", "dlq", "show", victim)
    assert "refused" in text.stdout
    said = "".join([worker.log(), once.stderr, once.stdout, text.stdout, json.dumps([after, died, everything])])
    assert not [token for token in courier.tokens.values() if token in said]


def harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


TYPED = EVIL.replace("\0", "")
"""What a person can write on a command line."""


def evil_messages() -> list[Published]:
    return [
        task_message("guarded.hostile", (TYPED,), id=EVIL, root_id=EVIL, origin=EVIL),
        task_message(f"gone.{EVIL}", (EVIL,), id=EVIL),
        task_message("guarded.hostile", (TYPED,), retries=EVIL, id=f"2{EVIL}"),
        task_message("guarded.hostile", ("kind",), guardrails={"dead_letter_id": EVIL, "work": EVIL}),
    ]


def test_hostile_names_reach_no_terminal_and_no_log_of_ours(guarded: Guarded) -> None:
    worker = guarded.worker("-c", "1")
    publish(guarded.app, f"{guarded.prefix}.tasks", evil_messages())
    wait_until(lambda: worker.log().count("is dead-lettered as") >= 4, 60, "four letters")
    ours = [line for line in worker.log().split("\n") if "is dead-lettered as" in line]
    assert len(ours) == 4
    assert all(harmless(line) for line in ours)
    guardian = guarded.harness.guardian(APP, ready="archive:")
    guardian.wait_for_log("Next step:")
    wait_until(lambda: len(command(guarded, "guardrails", "dlq", "list")) == 4, 60, "four letters in the archive")
    assert guardian.stop() == 0
    assert harmless(guardian.log())
    assert not any(line.startswith("WARNING forged") for line in guardian.log().splitlines())

    letters = [letter["id"] for letter in command(guarded, "guardrails", "dlq", "list")]
    commands = [
        ["dlq", "list"], ["dlq", "groups"], ["dlq", "groups", "--by", "task"], ["dlq", "stats"], ["alerts", "list"],
        *(["dlq", "show", letter] for letter in letters), ["dlq", "show", TYPED], ["dlq", "list", f"task:{TYPED}"],
        ["dlq", "requeue", "task:gone*", "--reason", TYPED],
        ["dlq", "discard", letters[0], "--reason", TYPED, "--by", TYPED], ["dlq", "show", letters[0]],
    ]  # fmt: skip
    for words in commands:
        done = guarded.harness.run(APP, "guardrails", *words)
        assert "Traceback" not in done.stderr
        assert harmless(done.stdout + done.stderr), words
        for line in done.stdout.splitlines():
            if line.strip().startswith("celery -A"):
                assert shlex.split(line)[:3] == ["celery", "-A", APP]
