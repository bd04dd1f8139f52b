"""The guardian on real brokers and a real archive: what it takes off a queue is in the archive first."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta

import pytest

from celery_guardrails.errors import StoreError
from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.recovery import search
from celery_guardrails.recovery.transition import claim_requeue, requeue_published
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.dead_letter import recovered_queue
from tests.conftest import Broker
from tests.integration.guardian.bench import NOW, QUEUE, Bench, letter
from tests.waiting import wait_until


def test_once_archives_what_waits_and_ends(bench: Bench) -> None:
    for number in range(250):
        bench.sender.send(letter(number))
    seen: list[int] = []
    report = bench.guardian().run_once(seen.append)
    assert (report.archived, report.known, report.held) == (250, 0, 0)
    assert sum(seen) == 250
    assert bench.count() == 250
    assert bench.waiting() == 0
    assert bench.guardian().run_once().archived == 0


def test_what_was_archived_but_not_acknowledged_is_recognised(bench: Bench) -> None:
    for number in range(20):
        bench.sender.send(letter(number))
    consumer = bench.consumer()
    batch = consumer.receive(20, 5)
    assert len(batch) == 20
    bench.ingest().run_once(batch, NOW)
    consumer.close()  # dies between the commit and the acknowledgement
    report = bench.guardian().run_once()
    assert (report.archived, report.known) == (0, 20)
    assert bench.count() == 20
    assert bench.waiting() == 0


def test_nothing_is_acknowledged_while_the_archive_is_locked(bench: Bench) -> None:
    for number in range(5):
        bench.sender.send(letter(number))
    bench.impatient()
    blocker = open_store(f"sqlite:///{bench.path}")
    with blocker.begin(), pytest.raises(StoreError):
        bench.guardian().run_once()
    blocker.close()
    wait_until(lambda: bench.waiting() == 5, 30, "the letters back in their queue")
    assert bench.guardian().run_once().archived == 5


def test_the_daemon_waits_for_a_locked_archive_and_goes_on_by_itself(bench: Bench) -> None:
    bench.impatient()
    guardian, stop = bench.guardian(), threading.Event()
    thread = threading.Thread(target=guardian.run, args=(stop,))
    blocker = open_store(f"sqlite:///{bench.path}")
    with blocker.begin():
        thread.start()
        bench.sender.send(letter(1))
        wait_until(lambda: guardian.troubles > 0, 30, "the archive's refusal")
        reader = open_store(f"sqlite:///{bench.path}")
        assert search.count(reader) == 0
        reader.close()
    wait_until(lambda: bench.count() == 1, 60, "the letter in the archive")
    stop.set()
    thread.join(30)
    assert bench.waiting() == 0
    blocker.close()


@pytest.mark.parametrize("body", [b"not json", b"\xff\xfe\x00", b"[]", b'{"v": 1, "id": 3}', b""])
def test_a_message_that_is_no_letter_is_archived_and_shown(bench: Bench, body: bytes) -> None:
    bench.raw(body)
    bench.sender.send(letter(1))
    assert bench.guardian().run_once().archived == 2
    assert bench.count("reason:undecodable") == 1
    assert bench.waiting() == 0


def test_a_letter_from_a_newer_version_stays_in_the_queue(bench: Bench) -> None:
    newer = json.loads(encode(letter(1)))
    newer["v"] = 99
    bench.raw(json.dumps(newer).encode())
    for number in range(2, 6):
        bench.sender.send(letter(number))
    report = bench.guardian().run_once()
    assert (report.archived, report.held) == (4, 1)
    wait_until(lambda: bench.waiting() == 1, 30, "the newer letter back in its queue")


def test_a_recovery_is_confirmed_once(bench: Bench) -> None:
    dead = letter(1)
    bench.sender.send(dead)
    bench.guardian().run_once()
    claim = claim_requeue(bench.store, dead.id, "ada", "fixed", NOW)
    requeue_published(bench.store, claim, NOW)
    for _ in range(2):
        bench.sender.report_recovered(Recovery(dead.id, 1, NOW, dead.task, claim.token))
    bench.raw(b"{}", recovered_queue(QUEUE))
    report = bench.guardian().run_once()
    assert (report.recovered, report.known) == (1, 1)
    assert bench.count("state:recovered") == 1
    assert bench.count("reason:undecodable") == 1


def test_a_second_death_belongs_to_the_first_letter(bench: Bench) -> None:
    first = letter(1)
    bench.sender.send(first)
    bench.guardian().run_once()
    claim = claim_requeue(bench.store, first.id, "ada", "fixed", NOW)
    requeue_published(bench.store, claim, NOW)
    bench.sender.send(letter(1, generation=1, origin=first.id, token=claim.token))
    bench.guardian().run_once()
    found = search.get(bench.store, first.id)
    assert (found.summary.state.value, found.summary.generation, found.summary.regressed) == ("dead", 1, True)
    assert bench.count() == 1
    assert len(search.deaths(bench.store, first.id)) == 2


def test_two_guardians_share_the_work(bench: Bench) -> None:
    for number in range(400):
        bench.sender.send(letter(number))
    stop = threading.Event()
    threads = [threading.Thread(target=bench.guardian().run, args=(stop,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: bench.count() == 400, 60, "all letters in the archive")
    stop.set()
    for thread in threads:
        thread.join(30)
    assert bench.waiting() == 0


@pytest.mark.own_servers
def test_the_guardian_outlives_its_broker(bench: Bench, broker: Broker) -> None:
    guardian, stop = bench.guardian(), threading.Event()
    thread = threading.Thread(target=guardian.run, args=(stop,))
    bench.sender.send(letter(1))
    thread.start()
    wait_until(lambda: bench.count() == 1, 30, "the first letter")
    broker.server.stop()
    wait_until(lambda: guardian.troubles > 0, 60, "the broken connection")
    broker.server.start()
    bench.sender.send(letter(2))
    wait_until(lambda: bench.count() == 2, 60, "the second letter")
    stop.set()
    thread.join(30)


def test_a_failing_service_does_not_end_the_others(bench: Bench) -> None:
    class Broken:
        name, every = "broken", timedelta(0)

        def run_once(self, now: datetime, flush: bool) -> None:
            raise RuntimeError("no")

    class Counting:
        name, every, runs = "counting", timedelta(0), 0

        def run_once(self, now: datetime, flush: bool) -> None:
            self.runs += 1

    counting, stop = Counting(), threading.Event()
    thread = threading.Thread(target=bench.guardian(Broken(), counting).run, args=(stop,))
    thread.start()
    wait_until(lambda: counting.runs >= 3, 30, "three runs of the other service")
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
