"""A poster that is killed at any step, with sinks that cannot be searched: a webhook, apprise, the user's own.

Nobody can find out whether the last message arrived. So it comes again, and says so: never none, and each kill after
the claim costs at most one possible duplicate.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celery_guardrails.testing import Mode, SlackMessage
from celery_guardrails.testing.server import Answer, Request
from tests.integration.alerts.poster import STEPS, Pager
from tests.integration.alerts.posters import KILLED, job
from tests.web import Web

MARK, HEADLINE = "Possible duplicate", "OnboardingEmail: 3 dead letters"
SINKS = ["slack webhook", "apprise", "own"]
IN_DOUBT = ["after the claim", "before the message"]
"""Killed here, it has sent nothing, and nobody knows."""
TWICE = ["after the message", "before its place is stored", "in the store of its place"]
"""Killed here, its message is there, and nobody knows."""
UNCERTAIN = [Mode.SERVER_ERROR, Mode.HTML, Mode.DROP_BEFORE, Mode.DROP_AFTER, Mode.SLOW]
ARRIVES = [Mode.DROP_AFTER, Mode.SLOW]
SLOW, IMPATIENT = 12.0, 4
"""Seconds until a slow stand-in answers, and how long those wait for it who do not wait long."""
ANSWERS = {
    "401": Answer(401), "429": Answer(429), "500": Answer(500), "dropped": Answer(drop=True),
    "slow": Answer(after=SLOW),
}  # fmt: skip
"""What apprise's service says."""


class Blind:
    """One problem, a sink that cannot be searched, and posters that are to say it there.

    `patience` is how many seconds they wait for an answer: long enough for every machine, unless a test is about it.
    """

    def __init__(self, driver: Any, slack: Any, web: Web, posters: Any, sink: str, patience: int = 60) -> None:
        self.driver, self.slack, self.web, self.posters, self.sink = driver, slack, web, posters, sink
        slack.slow_for = SLOW
        driver.die(3)
        driver.store.close()
        to = {"apprise": f"{web.apprise_url}?rto={patience}", "own": f"{Pager.__module__}.{Pager.__name__}"}.get(sink)
        self.settings = {"slack": {"webhook_url": slack.webhook_url, "timeout": patience}}
        if to is not None:
            self.settings = {"alerts": {"routes": [{"to": to}]}}

    def run(self, *steps: str | None, hurries: bool = False) -> list[int]:
        """Run posters at the same time, each of which is killed at its step; how they ended."""
        ends: list[int] = self.posters.run(
            *(job(self.driver, self.settings, self.sink, "post", step, hurries=hurries) for step in steps)
        )
        return ends

    def kill(self, step: str) -> None:
        """One is killed at a step; later its lease has expired."""
        assert self.run(step) == [KILLED]
        self.driver.now += timedelta(seconds=31)

    def take_over(self) -> None:
        """Another one ends what is left. A second one would wait until the first one's clock, which goes fast."""
        assert self.run(None) == [0]

    def arrived(self) -> list[str]:
        """The messages, oldest first."""
        if self.sink == "apprise":
            return [f"{each['title']}\n{each['message']}" for each in self.web.posted]
        if self.sink == "own":
            return [each["text"] for each in self.paged()]
        return [str(each.blocks) for each in self.slack.in_channel("#webhook")]

    def paged(self) -> list[dict[str, str]]:
        """What the user's own sink got."""
        path = Path(f"{self.driver.store.engine.url.database}.pager")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def check(self, *marked: bool) -> None:
        """There are so many messages about the problem; those that are a possible duplicate say so. Nothing waits."""
        found = self.arrived()
        assert [MARK in each for each in found] == list(marked)
        assert all(HEADLINE in each for each in found)
        assert set(self.driver.statuses()) == {"sent"}


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as standing_in:
        yield standing_in


@pytest.fixture
def blind(drive: Any, slack: Any, web: Web, posters: Any) -> Callable[..., Blind]:
    return lambda sink, **given: Blind(drive(webhook=True), slack, web, posters, sink, **given)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("sink", SINKS)
def test_it_is_killed_at_each_step(blind: Callable[..., Blind], sink: str, step: str) -> None:
    scene = blind(sink)
    scene.kill(step)
    scene.take_over()
    scene.check(*([False, True] if step in TWICE else [True] if step in IN_DOUBT else [False]))


@pytest.mark.parametrize("sink", SINKS)
def test_each_further_kill_costs_at_most_one_further_message(blind: Callable[..., Blind], sink: str) -> None:
    scene = blind(sink)
    for step in ("after the claim", "after the message", "with the lease", "before the message", "after the message"):
        scene.kill(step)
    scene.take_over()
    scene.check(True, True, True)


@pytest.mark.parametrize("sink", SINKS)
def test_several_guardians_of_which_some_are_killed_at_once(blind: Callable[..., Blind], sink: str) -> None:
    scene = blind(sink)
    steps = ["after the message", None, "before the message", None, "after the claim"]
    ends = scene.run(*steps, hurries=True)  # so some lose their lease while they send, too
    assert set(ends) <= {0, KILLED}
    scene.driver.now += timedelta(days=1)  # every lease has expired, and it is resolved
    scene.take_over()
    opened = [each for each in scene.arrived() if "no new ones" not in each]
    found = [MARK in each for each in opened]
    assert all(HEADLINE in each for each in opened)
    assert 1 <= len(found) <= len(steps) + 2
    assert found.count(False) <= 1
    assert set(scene.driver.statuses()) == {"sent"}


@pytest.mark.parametrize("step", ["after the claim", "after the message", "in the store of its place"])
@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.MESSAGE_NOT_FOUND], ids=str)
def test_whatever_a_webhook_says_to_those_who_take_over(blind: Callable[..., Blind], mode: Mode, step: str) -> None:
    scene = blind("slack webhook", patience=IMPATIENT if mode is Mode.SLOW else 60)
    scene.kill(step)
    scene.slack.script("webhook", mode)
    scene.take_over()
    first = [False] if step in TWICE else []
    scene.check(*first, *[True] * (1 + (mode in ARRIVES)))


@pytest.mark.parametrize("step", ["after the claim", "after the message"])
@pytest.mark.parametrize("said", ANSWERS)
def test_whatever_a_service_says_to_those_who_take_over(blind: Callable[..., Blind], said: str, step: str) -> None:
    scene = blind("apprise", patience=IMPATIENT if said == "slow" else 60)
    scene.kill(step)
    left = [ANSWERS[said]]
    scene.web.answer = _answering(scene.web, left)  # type: ignore[method-assign]
    scene.take_over()
    # this stand-in keeps each request, also those that it refuses
    scene.check(*([False] if step in TWICE else []), True, True)


@pytest.mark.parametrize("mode", UNCERTAIN, ids=str)
@pytest.mark.parametrize("step", ["with the lease", "in the sweep"])
def test_it_is_killed_when_it_does_not_know_whether_its_message_arrived(
    blind: Callable[..., Blind], mode: Mode, step: str
) -> None:
    scene = blind("slack webhook", patience=IMPATIENT if mode is Mode.SLOW else 60)
    scene.slack.script("webhook", mode)
    scene.kill("in the store of its place")  # before it notes that it does not know
    scene.kill(step)
    scene.take_over()
    scene.check(*[False] * (mode in ARRIVES), True)


@pytest.mark.parametrize("sink", ["slack webhook", "apprise"])
def test_it_is_killed_while_its_message_is_there_and_nobody_has_answered(
    blind: Callable[..., Blind], sink: str
) -> None:
    scene = blind(sink)

    def kill() -> None:
        scene.posters.known.wait(30)
        os.kill(scene.posters.pids[0], signal.SIGKILL)

    def told(message: SlackMessage, what: str) -> None:
        scene.slack._on_change = None
        kill()

    usual = scene.web.answer

    def answer(request: Request) -> Answer:
        scene.web.answer = usual  # type: ignore[method-assign]
        found = usual(request)
        kill()
        return found

    scene.slack._on_change = told
    scene.web.answer = answer  # type: ignore[method-assign]
    assert scene.run(None) == [KILLED]
    assert len(scene.arrived()) == 1
    scene.driver.now += timedelta(seconds=31)
    scene.take_over()
    scene.check(False, True)


def test_a_sink_of_ones_own_knows_a_repeated_message_by_its_uid(blind: Callable[..., Blind]) -> None:
    scene = blind("own")
    for step in ("after the message", "after the message"):
        scene.kill(step)
    scene.take_over()
    assert len(scene.paged()) == 3
    assert len({each["uid"] for each in scene.paged()}) == 1


def _answering(web: Web, left: list[Answer]) -> Callable[[Request], Answer]:
    usual = web.answer

    def answer(request: Request) -> Answer:
        found = usual(request)
        return left.pop() if left else found

    return answer
