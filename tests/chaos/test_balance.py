"""The balance must be able to fail: each way in which books can be wrong is fed to it, beside those that are right."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.record import FailedAttempt, Letter, LetterFailure, OriginalMessage
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from tests.chaos.archive import Archived
from tests.chaos.balance import Books, balance
from tests.chaos.ledger import read
from tests.chaos.storm import Struck
from tests.chaos.work import KINDS, digest_of

KWARGS = {"token": "t"}
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Story:
    """A run as a test tells it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.letters: list[Archived] = []
        self.struck: list[Struck] = []
        self.left: dict[str, int] = {}

    def sent(self, id: str, kind: str = "ok", sure: bool = True, **facts: Any) -> Story:
        digest = digest_of([], KWARGS)
        self._line("try", id, 1.0, kind=kind, digest=digest, **facts)
        if sure:
            self._line("sure", id, 1.0)
        return self

    def began(self, id: str, attempt: int = 1, at: float = 10.0, worker: int = 7, pid: int = 70) -> Story:
        return self._line("begin", id, at, n=attempt, pid=pid, worker=worker)

    def ran(self, id: str, attempt: int = 1, at: float = 10.0, worker: int = 7, pid: int = 70) -> Story:
        self.began(id, attempt, at, worker, pid)
        return self._line("end", id, at + 1, n=attempt, pid=pid, worker=worker)

    def died(self, id: str, reason: str, attempts: int = 1, state: str = "dead", **changed: Any) -> Story:
        letter = _letter(id, reason, attempts, **changed)
        self.letters.append(Archived(letter.id, letter.task, id, state, reason, encode(letter)))
        return self

    def fault(self, name: str, at: float, target: int | None = None, repeats: bool = True) -> Story:
        self.struck.append(Struck(name, at, at, "", target, repeats))
        return self

    def balanced(self) -> Books:
        return balance(read(self.lines), self.letters, self.struck, self.left)

    def findings(self) -> list[str]:
        return [finding.what for finding in self.balanced().findings]

    def _line(self, event: str, id: str, at: float, **facts: Any) -> Story:
        self.lines.append(json.dumps({"e": event, "id": id, "t": at, **facts}))
        return self


def _letter(task_id: str, reason: str, attempts: int, task: str = "chaos.broken", token: str = "t") -> Letter:
    numbered = [FailedAttempt(number=n, ended_at=NOW, error="E", message="m") for n in range(1, attempts + 1)]
    body = json.dumps([[], {"token": token}, {"callbacks": None}]).encode()
    return Letter(
        id=f"letter-{task_id}-{reason}",
        task=task,
        task_id=task_id,
        reason=Reason(reason),
        failure=LetterFailure(type="E", message="m", category=Category.UNKNOWN, fingerprint="f"),
        attempts=tuple(numbered),
        first_failed_at=NOW,
        died_at=NOW,
        message=OriginalMessage.model_construct(body=body, headers={"id": task_id, "task": task}, properties={}),
    )


def dead(story: Story, id: str = "a", **changed: Any) -> Story:
    story.sent(id, "broken")
    for attempt in (1, 2, 3):
        story.began(id, attempt, at=10.0 * attempt)
    return story.died(id, "attempts_exhausted", 3, **changed)


def test_books_that_balance() -> None:
    story = Story().sent("good").ran("good").sent("unsure", sure=False)
    dead(story, "dead")
    dead(story, "thrown", state="discarded")
    books = story.balanced()
    assert books.balanced
    assert books.ends == {"succeeded": 1, "dead": 1, "discarded": 1, "not confirmed, no end": 1}


def test_a_task_that_never_ran_is_missing() -> None:
    assert Story().sent("a").findings() == ["missing"]


def test_a_task_that_began_and_has_no_end_is_missing_whatever_broke() -> None:
    assert Story().sent("a").began("a").fault("worker killed", 10.5, target=7).findings() == ["missing"]


def test_a_retry_that_never_came_is_missing() -> None:
    assert Story().sent("a", "flaky").began("a", 1).findings() == ["missing"]


def test_a_run_and_a_letter_that_nobody_submitted_are_invented() -> None:
    assert Story().ran("a").findings() == ["invented"]
    assert Story().died("b", "attempts_exhausted", 3).findings() == ["invented"]


def test_a_task_that_succeeded_and_is_dead_is_double_unless_a_fault_explains_it() -> None:
    def told() -> Story:
        return Story().sent("a", "hasty").ran("a").died("a", "expired", 0, task="chaos.ok")

    assert told().findings() == ["double"]
    assert told().fault("guardian killed", 10.5, repeats=False).findings() == ["double"]
    assert told().fault("worker killed", 10.5, target=8).findings() == ["double"]
    explained = told().fault("worker killed", 10.5, target=7).balanced()
    assert explained.balanced
    assert explained.both == {"succeeded and dead (expired): worker killed": 1}


def test_a_task_that_is_dead_twice_is_double() -> None:
    assert "double" in dead(Story()).died("a", "worker_lost", 3).findings()


def test_at_least_once_work_may_run_again_only_when_a_fault_explains_it() -> None:
    def told() -> Story:
        return Story().sent("a").ran("a", at=10.0).ran("a", at=20.0, worker=8, pid=80)

    assert told().findings() == ["repeated"]
    assert told().fault("worker killed", 30.0, target=7).findings() == ["repeated"]
    assert told().fault("broker paused", 15.0).balanced().repeats == {"broker paused": 1}
    assert told().fault("worker killed", 10.5, target=7).findings() == []


def test_at_most_once_work_never_runs_twice() -> None:
    story = Story().sent("a", "once").ran("a", at=10.0).ran("a", at=20.0, worker=8, pid=80)
    assert story.fault("worker killed", 10.5, target=7).findings() == ["twice"]


@pytest.mark.parametrize("end", ["broker killed", "broker stopped"])
def test_at_most_once_work_runs_again_only_where_a_broker_that_ended_forgot_its_acknowledgement(end: str) -> None:
    def told(worker: int = 8) -> Story:
        return Story().sent("a", "once").ran("a", at=10.0).ran("a", at=20.0, worker=worker, pid=80)

    assert told().fault(end, 10.5).balanced().repeats == {f"(acknowledged and forgotten) {end}": 1}
    assert told().fault("broker paused", 10.5).findings() == ["twice"]
    assert told().fault(end, 9.9).findings() == ["twice"]
    assert told().fault(end, 12.1).findings() == ["twice"]
    assert told(worker=7).fault(end, 10.5).findings() == ["twice"]
    thrice = told().fault(end, 10.5).ran("a", at=30.0, worker=9, pid=90)
    assert thrice.findings() == ["twice", "twice"]


def test_attempts_of_at_most_once_work_are_runs_of_their_own() -> None:
    assert Story().sent("a", "once_flaky").began("a", 1).ran("a", 2, at=20.0).findings() == []


def test_at_most_once_work_that_a_killed_worker_had_is_missing_without_a_letter() -> None:
    def told() -> Story:
        return Story().sent("a", "once").began("a")

    assert told().findings() == ["missing"]
    assert told().fault("worker killed", 10.5, target=7).findings() == ["missing"]
    lost = told().died("a", "worker_lost", task="chaos.once")
    assert lost.fault("worker killed", 10.5, target=7).balanced().ends == {"dead": 1}
    assert told().died("a", "worker_lost", task="chaos.once").findings() == ["wrong"]
    assert told().died("a", "worker_lost", task="chaos.once").fault("broker paused", 10.5).findings() == ["wrong"]


def test_at_most_once_work_that_never_began_is_not_excused_by_the_death_of_who_took_it() -> None:
    def told() -> Story:
        return Story().sent("a", "once")._line("took", "a", 9.0, worker=7).fault("worker killed", 10.5, target=7)

    assert told().findings() == ["missing"]
    assert told().died("a", "worker_lost", task="chaos.once").balanced().ends == {"dead": 1}


def test_at_most_once_work_that_succeeded_may_be_a_letter_only_of_the_worker_that_was_killed() -> None:
    def told() -> Story:
        return Story().sent("a", "once").ran("a").died("a", "worker_lost", task="chaos.once")

    assert told().fault("worker killed", 11.5, target=7).findings() == []
    assert told().fault("worker killed", 11.5, target=8).findings() == ["double"]
    assert told().fault("worker killed", 5.0, target=7).findings() == ["double"]
    assert told().fault("worker killed", 5.0, target=8).fault("broker paused", 10.5).findings() == ["double"]


def test_what_was_not_confirmed_and_began_has_an_end_all_the_same() -> None:
    assert Story().sent("a", sure=False).began("a").findings() == ["missing"]
    story = Story().sent("a", "once", sure=False).fault("worker killed", 10.5, target=7)
    assert story.balanced().ends == {"not confirmed, no end": 1}


def test_links_of_a_chain_exist_when_the_one_before_succeeded() -> None:
    def told() -> Story:
        return Story().sent("a", "link").sent("b", "link", after="a")

    assert told().ran("a").ran("b", at=20.0).findings() == []
    assert told().ran("a").findings() == ["missing"]
    assert told().ran("b").findings() == ["missing", "invented"]
    broken = Story().sent("a", "link_broken").sent("b", "link", after="a").began("a")
    books = broken.died("a", "permanent_error", task="chaos.link_broken").balanced()
    assert (books.balanced, books.ends) == (True, {"dead": 1, "not reached": 1})


def test_what_was_revoked_or_dropped_counts_as_discarded() -> None:
    story = Story().sent("a", "revoked").sent("b", "dropped")
    story._line("revoke", "a", 2.0)._line("gone", "b", 9.0)
    assert story.balanced().ends == {"discarded": 2}
    assert Story().sent("b", "dropped").findings() == ["missing"]


def test_work_that_cannot_succeed_and_did_is_wrong() -> None:
    assert Story().sent("a", "broken").ran("a").findings() == ["wrong"]


def test_only_a_time_limit_that_nobody_looked_after_explains_a_success_of_what_it_should_have_ended() -> None:
    for kind in ("soft", "hard"):
        assert Story().sent("a", kind).ran("a").findings() == ["wrong"]
        assert Story().sent("a", kind).ran("a").fault("broker stopped", 10.5).findings() == []
        assert Story().sent("a", kind).ran("a").fault("worker killed", 10.5, target=7).findings() == []
        assert Story().sent("a", kind).ran("a").fault("worker killed", 10.5, target=8).findings() == ["wrong"]
        assert Story().sent("a", kind).ran("a").fault("broker stopped", 12.5).findings() == ["wrong"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"token": "other"}, "not what was submitted"),
        ({"task": "chaos.bug"}, "is of chaos.bug"),
    ],
)
def test_a_letter_that_is_not_complete_is_wrong(changed: dict[str, Any], said: str) -> None:
    findings = dead(Story(), **changed).balanced().findings
    assert any(said in finding.text for finding in findings), findings


def test_a_letter_that_does_not_decode_is_wrong() -> None:
    story = dead(Story())
    story.letters = [Archived("l", "chaos.broken", "a", "dead", "attempts_exhausted", b'{"v": 1}')]
    (finding,) = story.balanced().findings
    assert "does not decode" in finding.text


def test_a_letter_with_too_few_attempts_or_another_reason_is_wrong() -> None:
    story = Story().sent("a", "broken").began("a", 1).died("a", "attempts_exhausted", 2)
    assert story.findings() == ["wrong"]
    assert Story().sent("a", "broken").began("a").died("a", "worker_lost").findings() == ["wrong"]
    assert Story().sent("a", "broken").began("a").died("a", "unknown_task").findings() == ["wrong"]


def test_a_lost_connection_counts_as_a_death() -> None:
    def told() -> Story:
        return Story().sent("a").ran("a", 5).died("a", "worker_lost", 5, task="chaos.ok")

    assert "wrong" in told().findings()
    assert "wrong" in told().fault("connections cut", 9.0).findings()
    assert "wrong" in told().fault("broker paused", 10.5).findings()
    assert told().fault("connections cut", 10.5).findings() == []
    assert told().fault("broker stopped", 11.5).findings() == []
    assert "wrong" in told().fault("broker stopped", 60.0).findings()


def test_what_still_lies_somewhere_is_left() -> None:
    story = Story()
    story.left = {"chaos.tasks": 2}
    assert story.findings() == ["left"]


def test_an_unstorable_result_is_one_end() -> None:
    story = Story().sent("a").ran("a").died("a", "result_unstorable", 1, task="chaos.ok").fault("broker killed", 11.0)
    assert story.balanced().ends == {"dead": 1}
    assert story.findings() == []


def test_a_torn_line_is_counted_and_the_rest_read() -> None:
    told = read(['{"e": "try", "id": "a", "t": 1, "kind": "ok"}', '{"e": "su'])
    assert (told.torn, list(told.sent)) == (1, ["a"])


def test_every_link_of_every_chain_is_a_kind() -> None:
    assert all(link in KINDS for kind in KINDS.values() for link in kind.links)
