"""Who requeued what stands in the alert's thread, once, with the reason: against the Slack stand-in and the archive."""

from __future__ import annotations

import pytest
from sqlalchemy import event as sql_event

from celery_guardrails.alerts import became
from celery_guardrails.alerts.stored import every_group
from celery_guardrails.policy.decision import Reason
from celery_guardrails.recovery.transition import claim_requeue, requeue_failed, requeue_finished, requeue_published
from celery_guardrails.store.engine import Store
from tests.contract.store.conftest import Mortuary

TASK = "shop.OnboardingEmail"


class Desk:
    """A driver with an archive that has letters, and people who requeue them."""

    def __init__(self, driver) -> None:
        self.driver, self.mortuary = driver, Mortuary(driver.store)
        self.letters = []

    def die(self, count: int, **fields) -> Desk:
        for _ in range(count):
            self.letters.append(self.mortuary.archive_new(task=TASK, **fields))
        self.driver.die(count)
        self.driver.run(flush=True)
        return self

    def claim(self, by: str = "ada", reason: str = "the provider is up again"):
        return claim_requeue(self.driver.store, self.letters.pop(0).id, by, reason, self.driver.now)

    def requeue(self, count: int = 1, **who: str) -> Desk:
        for _ in range(count):
            requeue_published(self.driver.store, self.claim(**who), self.driver.now)
        return self

    def later(self, seconds: float = 15) -> None:
        self.driver.run(seconds)
        self.driver.settle(60)

    def replies(self, slack) -> list[str]:
        (message,) = slack.in_channel("#alerts")
        return [reply.text.split("): ", 1)[1] for reply in message.replies if "requeued" in reply.text]


@pytest.fixture
def desk(drive) -> Desk:
    return Desk(drive(quiet="2h", acknowledge_for="1h", reminder="8h"))


def test_many_requeues_at_once_are_one_reply_with_name_and_reason(desk, slack):
    desk.die(5)
    for _ in range(3):
        desk.requeue()
        desk.driver.run(3)
    assert desk.replies(slack) == []
    for _ in range(4):
        desk.driver.run(5)
    assert desk.replies(slack) == ["ada requeued 3 letters: the provider is up again"]
    (message,) = slack.in_channel("#alerts")
    assert not any(reply.broadcast for reply in message.replies)
    assert "3 requeued" in str(message.blocks)
    for _ in range(20):
        desk.driver.run(30)
    assert len(desk.replies(slack)) == 1


def test_one_who_goes_on_for_long_is_told_of_each_minute(desk, slack):
    desk.die(30)
    for _ in range(24):
        desk.requeue()
        desk.driver.run(5)
    desk.later()
    told = desk.replies(slack)
    assert 2 <= len(told) <= 3
    assert sum(int(words.split()[2]) for words in told) == 24


def test_each_person_and_reason_has_a_reply_and_many_have_one(desk, slack):
    desk.die(9).requeue(2).requeue(by="ben", reason="password=hunter2 &lt; <!channel>")
    desk.later()
    assert desk.replies(slack)[0] == "ada requeued 2 letters: the provider is up again"
    assert desk.replies(slack)[1].startswith("ben requeued 1 letter: ")
    assert "<!channel>" not in desk.replies(slack)[1]
    for number in range(5):
        desk.requeue(by=f"person{number}", reason=f"reason {number}")
    desk.later()
    assert desk.replies(slack)[2:] == ["person0, person1, person2 and 2 more requeued 5 letters: 5 different reasons"]


def test_what_was_requeued_before_the_alert_began_is_no_answer_to_it(desk, slack):
    desk.letters.append(desk.mortuary.archive_new(task=TASK))
    desk.requeue()
    desk.die(1)
    for _ in range(4):
        desk.later()
    assert desk.replies(slack) == []


def test_a_requeue_that_was_not_published_is_told_of_when_it_is(desk, slack):
    desk.die(3)
    given_back, late = desk.claim(), desk.claim(by="ben")
    requeue_failed(desk.driver.store, given_back, "no broker", desk.driver.now)
    desk.later(60)
    assert desk.replies(slack) == []
    requeue_finished(desk.driver.store, late, desk.driver.now)
    desk.later(60)
    assert desk.replies(slack) == ["ben requeued 1 letter: the provider is up again"]


def test_letters_of_other_tasks_and_environments_are_theirs(desk, slack):
    desk.die(1)
    for fields in ({"task": "shop.other"}, {"task": TASK, "environment": "staging"}):
        desk.letters.append(desk.mortuary.archive_new(**fields))
    desk.letters.pop(0)
    desk.requeue(2)
    desk.later()
    assert desk.replies(slack) == []


def test_unknown_tasks_share_their_thread(drive, slack):
    desk = Desk(drive())
    desk.letters.append(desk.mortuary.archive_new(task="shop.gone", reason=Reason.UNKNOWN_TASK))
    desk.driver.die(task="shop.gone", reason="unknown_task")
    desk.driver.run(flush=True)
    desk.requeue()
    desk.later()
    assert desk.replies(slack) == ["ada requeued 1 letter: the provider is up again"]


def test_after_the_end_the_thread_still_says_who_put_it_back(drive, slack):
    desk = Desk(drive(quiet="1m")).die(1)
    desk.driver.run(120)
    desk.driver.settle()
    desk.requeue()
    desk.later()
    assert desk.replies(slack) == ["ada requeued 1 letter: the provider is up again"]


def test_a_webhook_is_not_told(drive, slack):
    desk = Desk(drive(webhook=True)).die(2).requeue()
    before = len(slack.in_channel())
    for _ in range(3):
        desk.later()
    assert len(slack.in_channel()) == before


def test_a_busy_trail_is_not_read_from_its_beginning(desk, monkeypatch):
    monkeypatch.setattr(became, "_MOST_ENTRIES", 5)
    desk.die(1)
    for _ in range(8):
        desk.letters.append(desk.mortuary.archive_new(task="shop.other"))
    desk.letters.pop(0)
    desk.requeue(8)
    desk.later()
    assert _audited(desk.driver.store, TASK) >= 8


def test_the_question_is_cheap(desk):
    """One statement that reads the last number; the trail itself only where it has grown."""
    desk.die(1)
    said: list[str] = []
    engine = desk.driver.store.engine
    sql_event.listen(engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    desk.later()
    assert [words for words in said if "guardrails_audit" in words and "max(" in words]
    assert not [words for words in said if "guardrails_audit" in words and "JOIN" in words]


def _audited(store: Store, task: str) -> int:
    with store.read() as conn:
        return next(group.audited or 0 for _, group in every_group(conn) if group.task == task)


def test_two_guardians_tell_of_a_requeue_once(drive, slack):
    desk = Desk(drive(quiet="2h")).die(3)
    other = drive(quiet="2h")
    desk.requeue(2)
    for _ in range(4):
        desk.driver.run(15)
        other.now = desk.driver.now
        other.run()
    assert desk.replies(slack) == ["ada requeued 2 letters: the provider is up again"]
