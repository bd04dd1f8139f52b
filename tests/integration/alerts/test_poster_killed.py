"""A poster that is killed with SIGKILL at any step, of several: one message all the same, whatever Slack does then."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import pytest

from celery_guardrails.testing import Mode, SlackMessage, SlackStandIn
from tests.integration.alerts.poster import STEPS
from tests.integration.alerts.posters import KILLED, Posters, job

METHOD = "chat.postMessage"
# a post for which Slack says "message_not_found" makes no sense, and is refused for good
MODES = [mode for mode in Mode if mode is not Mode.MESSAGE_NOT_FOUND]
AT_SLACK = "the message is at Slack, which has not answered"


class Scene:
    """One problem, and posters that are to tell Slack of it."""

    def __init__(self, driver, slack: SlackStandIn, posters: Posters, kind: str) -> None:
        self.driver, self.slack, self.posters, self.kind = driver, slack, posters, kind
        slack.slow_for = 1.5
        slack.create_channel("#alerts")
        driver.die(3)
        if kind == "reply":
            driver.run(flush=True)
            driver.now += timedelta(minutes=16)  # it is resolved: an edit, and a reply in the thread
        driver.store.close()

    def job(self, step: str | None = None, after: float = 0.0) -> dict:
        slack = {"token": "xoxb-test", "channel": "#alerts", "base_url": self.slack.base_url, "timeout": "1s"}
        return job(self.driver, {"slack": slack}, "slack", self.kind, step, after)

    def take_over(self) -> None:
        """Two others, when the lease of the one that was killed has expired."""
        assert self.posters.run(self.job(after=31), self.job(after=31)) == [0, 0]

    def told(self) -> list[SlackMessage]:
        """The messages that should be one."""
        (message, *further) = self.slack.in_channel("#alerts")
        assert self.kind == "post" or not further
        return message.replies if self.kind == "reply" else [message, *further]

    def check(self) -> None:
        """There is one, which is no possible duplicate, and nothing waits."""
        (message,) = self.told()
        assert "Possible duplicate" not in str(message)
        assert set(self.driver.statuses()) == {"sent"}
        assert (
            self.slack.in_channel("#alerts")[0].blocks[0]["text"]["text"].startswith("OnboardingEmail: 3 dead letters")
        )


@pytest.fixture(params=["post", "reply"])
def scene(request, drive, slack, posters) -> Scene:
    return Scene(drive(), slack, posters, request.param)


@pytest.mark.parametrize("step", STEPS)
def test_it_is_killed_at_each_step(scene, step):
    assert scene.posters.run(scene.job(step)) == [KILLED]
    scene.take_over()
    scene.check()


@pytest.mark.parametrize("step", ["after the claim", "after the message", "in the store of its place"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_whatever_slack_says_to_those_who_take_over(drive, slack, posters, step, mode):
    scene = Scene(drive(), slack, posters, "post")
    assert posters.run(scene.job(step)) == [KILLED]
    for method in (METHOD, "conversations.history", "conversations.list"):
        slack.script(method, mode)
    scene.take_over()
    scene.check()


@pytest.mark.parametrize("mode", [Mode.DROP_AFTER, Mode.SLOW, Mode.DROP_BEFORE, Mode.SERVER_ERROR, Mode.HTML], ids=str)
@pytest.mark.parametrize("step", ["with the lease", "in the sweep"])
def test_it_is_killed_when_it_does_not_know_whether_its_message_arrived(drive, slack, posters, mode, step):
    scene = Scene(drive(), slack, posters, "post")
    slack.script(METHOD, mode)
    assert posters.run(scene.job("in the store of its place")) == [KILLED]  # before it notes that it does not know
    assert posters.run(scene.job(step, after=31)) == [KILLED]
    scene.driver.now += timedelta(seconds=31)
    scene.take_over()
    scene.check()


def test_it_is_killed_while_slack_has_its_message_and_has_not_answered(scene):
    def kill(message: SlackMessage, what: str) -> None:
        if what in ("posted", "replied"):
            scene.slack._on_change = None
            scene.posters.known.wait(30)
            os.kill(scene.posters.pids[0], signal.SIGKILL)

    scene.slack._on_change = kill
    assert scene.posters.run(scene.job()) == [KILLED]
    assert len(scene.told()) == 1
    scene.take_over()
    scene.check()


def test_those_who_take_over_are_killed_one_after_the_other(scene):
    for step in ("before the claim", "after the claim", "before the message", "after the message"):
        assert scene.posters.run(scene.job(step)) == [KILLED]
        scene.driver.now += timedelta(seconds=31)
        if len(scene.told() if scene.slack.in_channel("#alerts") else []) == 1:
            break
    scene.take_over()
    scene.check()
