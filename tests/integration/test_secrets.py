"""One secret of each kind through every output there is: workers, guardian, Slack, Sentry, archive, every command.

`tests/output.py` names every output once, and a unit test compares it with what the program has: whoever adds a
command, a sink, a table or a logger says there how it is looked at.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import click
import pytest
import sqlalchemy as sa
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest

from celery_guardrails import clock, log
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.render import render
from celery_guardrails.alerts.sinks.alert import Alert
from celery_guardrails.alerts.sinks.apprise import AppriseSink
from celery_guardrails.alerts.sinks.log import LOGGER_NAME, LogSink
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.alerts.sinks.own import OwnSink
from celery_guardrails.alerts.sinks.sentry import _event
from celery_guardrails.alerts.sinks.sink import Message
from celery_guardrails.alerts.sinks.slack import SlackWebhookSink
from celery_guardrails.cli import guardian, guardrails
from celery_guardrails.figures.summary import Summary
from celery_guardrails.guardian.health import Health
from celery_guardrails.guardian.metrics import GuardianMetrics, Sources
from celery_guardrails.idempotency.key import key_of_text
from celery_guardrails.idempotency.ledger import Run
from celery_guardrails.letters.codec import encode
from celery_guardrails.store import alert, reconcile
from celery_guardrails.store import letter as archived
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.figure import count
from celery_guardrails.store.ledger import SqlLedger
from celery_guardrails.store.metadata import metadata
from celery_guardrails.testing import SlackStandIn
from celery_guardrails.testing.sentry import SentryStandIn
from tests.apps.telltale import SEPARATOR
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness, Process
from tests.output import COMMANDS, OUTPUTS, WHOLE
from tests.published import Published, publish, task_message
from tests.secret import BY_NAME, BY_VALUE, PRIVATE, TOKEN, in_objects, needles_in
from tests.unit.letters.test_redaction import old
from tests.waiting import wait_until
from tests.web import Web

APP = "tests.apps.telltale"


class Own:
    """A sink of the user's own."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    def send(self, alert: Alert) -> None:
        """Keep it."""
        self.alerts.append(alert)


class Site:
    """A worker, a guardian, Slack and Sentry, whose tasks, senders and operators know every secret there is."""

    def __init__(self, guarded: Guarded, slack: SlackStandIn, sentry: SentryStandIn) -> None:
        self.guarded = guarded
        self.slack = slack
        self.sentry = sentry
        self.app = guarded.app
        # a broker that only this test knows: Celery may unpickle what comes from it, as root, too
        self.worker: Process = guarded.worker(env={"SENTRY_DSN": sentry.dsn, "TRACED": "yes", "C_FORCE_ROOT": "1"})
        self.guardian: Process = guarded.harness.guardian(APP, ready="guardian started")
        self.said = io.StringIO()
        self.parked = ""
        self.outputs: dict[str, str] = {}
        self._used: dict[str, int] = {}

    def send(self) -> int:
        """Send work of every kind, and return how many dead letters come of it."""
        tasks, count = self.guarded.tasks, 0
        for number, (text, _) in enumerate(BY_VALUE.values()):
            note = {"id": number, "note": [text]}
            tasks.fail.delay(number, PRIVATE["position"], note, text, f"the provider said: {text}, and again {text}")
            count += 1
        named = " ".join(f"{name}={needle}" for name, needle in BY_NAME.items() if name != "address")
        customer = {**BY_NAME, "id": 7, "password": PRIVATE["affected"]}
        secret, account = {"value": PRIVATE["affected"]}, {"number": PRIVATE["affected"]}
        address = BY_NAME["address"]
        tasks.fail.delay(90, customer=customer, said=named, address=address, secret=secret, account=account)
        tasks.fail.delay(91, PRIVATE["position"], json.dumps(customer), str(customer), f"{customer}")
        objects = in_objects(PRIVATE["object"])
        tasks.fail.apply_async((92,), {"customer": objects, "note": objects}, serializer="pickle")
        tasks.fail.apply_async((93, PRIVATE["sender"]), argsrepr=f"(93, 'password={PRIVATE['sender']}')")
        tasks.fail.delay(94, note=PRIVATE["pattern"], said=f"it was {PRIVATE['pattern']}")
        said = f"password={PRIVATE['history']}"
        tasks.again.delay(95, said)
        self.parked = tasks.park.delay(96, said, PRIVATE["position"]).id
        tasks.leave.delay(97, said)
        tasks.stuck.delay(98, PRIVATE["position"], customer)
        tasks.unstorable.delay(99, said)
        for number in range(4):
            tasks.wait.delay(number, said, PRIVATE["position"])
        return count + 10 + self._send_what_is_no_task()

    def _send_what_is_no_task(self) -> int:
        unknown, misshapen = PRIVATE["unknown"], PRIVATE["misshapen"]
        address = BY_NAME["address"]
        published = [
            task_message("telltale.gone", [unknown, {"a": unknown}], {"hm": unknown}, argsrepr=f"('{unknown}', 1)"),
            task_message("telltale.fail", [1, misshapen], f"hm {misshapen}"),
            task_message(
                "telltale.fail", [1, misshapen], {"address": address, "customer": [{"address": address}]}, eta="never"
            ),
            Published(f"{{password: {PRIVATE['undecodable']}".encode(), {"task": "telltale.fail", "id": "u1"}),
            Published(json.dumps([PRIVATE["undecodable"]]).encode(), {"task": "telltale.fail", "id": "u2"}),
        ]
        publish(self.app, self.app.conf.task_default_queue, published)
        older = json.dumps(json.loads(encode(old()))).replace("hunter2xyz", PRIVATE["older"])
        foreign = [Published(f"hm {PRIVATE['foreign']} raw".encode(), {}, "text/plain"), Published(older.encode(), {})]
        publish(self.app, f"{self.guarded.prefix}.dead", foreign)
        return len(published) + len(foreign)

    def _count_figures(self, store: Store) -> None:
        """Count what a worker of these tasks would: one death in the archive, one that never arrives."""
        ended = clock.now().timestamp()
        summary = Summary(str(uuid4()), "production", "w@host", 1, ended - 10, ended)
        for letter in self.letters(store):
            figures = summary.figures_of(letter.task)
            assert figures is not None
            figures.outcomes["dead"] = figures.outcomes.get("dead", 0) + 1
            figures.count_error(letter.fingerprint, letter.error)
        summary.note_dead(str(uuid4()), "telltale.fail")
        with store.begin() as conn:
            reconcile.note_counted(conn, count(conn, [summary], clock.now()).fresh, clock.now())

    def look(self, store: Store) -> None:
        """Look at every output."""
        self._count_figures(store)
        for name in COMMANDS:
            self.outputs[f"command {name}"] = "\n".join(self._run(name, store))
        for table in metadata.sorted_tables:
            self.outputs[f"table {table.name}"] = _raw(store, table)
        self._post(store)
        self.worker.stop()  # flushes what was still to be sent to Sentry
        self.guardian.stop()
        self.outputs["guardian log of a command"] = self.said.getvalue()
        for process, name in ((self.worker, "worker log"), (self.guardian, "guardian log")):
            self.outputs[name] = "".join(ours for ours in process.log().split(SEPARATOR) if _is_ours(ours))
        logged = self.outputs["worker log"] + self.outputs["guardian log"] + self.said.getvalue()
        for logger in log.LOGGERS:
            self.outputs[f"logger {logger}"] = logged
        events = [event for event in self.sentry.events if "guardrails.task" in event.get("tags", {})]
        self.outputs["Sentry"] = json.dumps([_without_unnamed_locals(event) for event in events])
        self.outputs["OpenTelemetry"] = json.dumps([_ours_of(span) for span in self.guarded.runs("spans")])
        self.outputs["result of parked work"] = str(self.app.backend.get_task_meta(self.parked))
        folders = [str(found) for found in os.walk(self.guarded.harness.folder)]
        self.outputs["celery report"] = self.app.bugreport()
        self.outputs["names of files"] = "\n".join(folders)
        registry = CollectorRegistry()
        registry.register(GuardianMetrics(Sources(store, "production", Health())))
        self.outputs["metrics"] = generate_latest(registry).decode()

    def _run(self, name: str, store: Store) -> Iterator[str]:
        command: Any = guardian if name == "guardian" else guardrails
        for words in name.split()[1:]:
            with click.Context(command) as ctx:
                command = command.get_command(ctx, words)
        as_json = any(param.name == "as_json" for param in command.params)
        for given in COMMANDS[name]:
            for further in ((), ("--json",)) if as_json else ((),):
                for arguments in self._arguments(given, store):
                    result = self.run(*name.split(), *arguments, *further)
                    assert result.exception is None or isinstance(result.exception, SystemExit), (
                        name,
                        result.exception,
                    )
                    yield result.stdout + result.stderr

    def _arguments(self, given: tuple[str, ...], store: Store) -> Iterator[list[str]]:
        if "{every}" in given:
            for letter in self.letters(store):
                yield [letter.id]
            return
        yield [self._filled(word, store) for word in given]

    def _filled(self, word: str, store: Store) -> str:
        if word == "{reason}":
            return f"it was password={PRIVATE['reason']}"
        if word == "{key}":
            return self._begun_once()
        if word == "{waiting}":
            return str(self.guarded_waiting()[0].id)
        if word in ("{alert}", "{silence}"):
            listed = self.run("guardrails", "alerts", "list" if word == "{alert}" else "silences", "--json")
            return str(json.loads(listed.stdout)[0]["id"])
        if word in ("{dead}", "{discarded}"):
            state = word.strip("{}")
            return next(
                one.id for one in self.letters(store) if one.state.value == state and one.task == "telltale.fail"
            )
        return word

    def _begun_once(self) -> str:
        """The key of some work that failed, so that it may be forgotten; the ledger knows more work than this."""
        ledger = SqlLedger(self.guarded.store_url)
        for text in ("order-4711", "order-4712"):
            key = key_of_text("production", "telltale.fail", text)
            ledger.begin(key, Run(f"run of {text}", text, 0, "telltale.fail", str(uuid4())), "", timedelta(0))
        ledger.close()
        return "order-4711"

    def guarded_waiting(self) -> Any:
        return self.app._celery_guardrails.waiting.entries(100)

    def letters(self, store: Store) -> Any:
        with store.read() as conn:
            return archived.search(conn, limit=200).letters

    def run(self, *words: str) -> Result:
        """Run `celery -A telltale WORDS` in this process."""
        command = guardian if words[0] == "guardian" else guardrails
        context = CLIContext(app=self.app, no_color=True, workdir=None)
        return CliRunner().invoke(command, list(words[1:]), obj=context)

    def _post(self, store: Store) -> None:
        """Give what Slack was given to the other sinks, too."""
        with store.read() as conn:
            rows = alert.load_groups(conn, states=["pending", "open", "quiet", "resolved"])
        messages: list[Message] = [render(AlertGroup.from_payload(row.data), clock.now()).message() for row in rows]
        assert messages
        memory, before = MemorySink(), len(self.slack.messages)
        self.outputs["sink SlackSink"] = str(self.slack.messages)
        own, web = Own(), Web().start()
        further = (AppriseSink("apprise json", web.apprise_url), OwnSink("telltale.Own", own))
        for sink in (memory, LogSink(), SlackWebhookSink(self.slack.webhook_url, proxy=None), *further):
            for message in messages:
                sink.post(message)
        web.stop()
        self.outputs["sink AppriseSink"] = str(web.posted)
        self.outputs["sink OwnSink"] = str(own.alerts)
        self.outputs["sink SentrySink"] = str([_event(message) for message in messages])
        self.outputs["sink SlackWebhookSink"] = str(list(self.slack.messages.values())[before:])
        self.outputs["sink MemorySink"] = str(memory.messages)
        self.outputs["sink LogSink"] = self.said.getvalue()


def _without_unnamed_locals(event: dict[str, Any]) -> dict[str, Any]:
    """An event without local variables that Sentry's SDK has made lists of: the README says that these may be seen."""
    for value in event["exception"]["values"] if "exception" in event else ():
        for frame in value.get("stacktrace", {}).get("frames", ()):
            frame["vars"] = {
                name: local for name, local in frame.get("vars", {}).items() if not isinstance(local, list)
            }
    return event


def _ours_of(span: dict[str, Any]) -> Any:
    """What guardrails has put on a span: its own spans whole, of others neither their errors nor their attributes."""
    if span["scope"] == "celery_guardrails":
        return span
    return [span["links"], {name: fact for name, fact in span["attributes"].items() if name.startswith("guardrails.")}]


def _is_ours(record: str) -> bool:
    return record.startswith("celery_guardrails")


def _raw(store: Store, table: sa.Table) -> str:
    columns = [column for column in table.c if (table.name, column.name) not in WHOLE]
    with store.read() as conn:
        rows = [str(tuple(row)) for row in conn.execute(sa.select(*columns))]
        if table.name == "guardrails_death":  # the letter around the work that is kept whole
            for payload in conn.execute(sa.select(table.c.payload)).scalars():
                rows.append(json.dumps({key: value for key, value in json.loads(payload).items() if key != "message"}))
    return "\n".join(rows)


@pytest.fixture
def site(
    redis_broker: Broker, harness: Harness, result_backend: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Site]]:
    with SlackStandIn() as slack, SentryStandIn() as sentry:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.chdir(harness.folder)
        settings = {
            "slack": {"channel": "#alerts", "base_url": slack.base_url, "token": TOKEN},
            "alerts": {"group_wait": 0.2, "edit_interval": 0.2, "log_always": True},
        }
        guarded = Guarded(harness, redis_broker.url, result_backend, settings, "telltale")
        made = Site(guarded, slack, sentry)
        handler = logging.StreamHandler(made.said)
        loggers = [logging.getLogger(name) for name in {LOGGER_NAME, *log.LOGGERS}]
        for logger in loggers:
            logger.addHandler(handler)
        yield lambda: made
        for logger in loggers:
            logger.removeHandler(handler)


def test_no_secret_is_seen_in_any_output(site: Callable[[], Site]) -> None:
    made = site()
    expected = made.send()
    store = open_store(made.guarded.store_url)
    try:
        wait_until(
            lambda: len(made.letters(store)) == expected, 90,
            lambda: f"{expected} letters, there are {[(one.task, one.message) for one in made.letters(store)]}",
        )  # fmt: skip
        wait_until(lambda: len(made.guarded_waiting()) == 4, 60, "four retries that wait")
        wait_until(lambda: len(made.slack.in_channel()) >= 6, 60, lambda: f"alerts, there are {made.slack.messages}")
        made.look(store)
    finally:
        store.close()
    assert set(made.outputs) == OUTPUTS
    leaks = [leak for name, text in made.outputs.items() for leak in _leaks(name, text)]
    assert leaks == [], "\n".join(leaks)
    _see_that_it_was_driven(made)


def _leaks(name: str, text: str) -> Iterator[str]:
    """Each needle that an output shows, with what stands around it."""
    for needle in needles_in(text):
        at = text.index(needle)
        yield f"{name} shows {needle}: {text[max(0, at - 150) : at + 80]!r}"


def _see_that_it_was_driven(made: Site) -> None:
    """An output in which nothing is shown proves nothing."""
    silent = {name for name, text in made.outputs.items() if not text.strip()}
    empty = {f"table guardrails_{name}" for name in ("audit_cut", "expected", "figure_beside")}
    assert silent <= {*empty, "command guardrails migrate"}, silent
    hidden = ("worker log", "Sentry", "sink SlackSink", "command guardrails dlq show", "table guardrails_death",
              "table guardrails_letter_argument", "command guardrails policy", "result of parked work")  # fmt: skip
    assert {name for name in hidden if "[redacted]" not in made.outputs[name]} == set()
    for kind in ("time_limit", "unknown_task", "undecodable"):
        assert f"guardrails {kind}" in made.outputs["OpenTelemetry"]
    for kind in ("attempts_exhausted", "permanent_error", "time_limit", "unknown_task", "undecodable"):
        assert kind in made.outputs["table guardrails_dead_letter"]
