"""An outage of the shop's mail provider, played with real processes: `make demo`, or `python -m example_project.demo`.

Twelve onboarding emails run into it, retry, die, are announced by one Slack message, which somebody acknowledges, and
are put back when the provider is repaired. Meanwhile nobody cares for a bug, so more people are asked, and a report
that never ran is missed. Each promise is checked on the way; the exit code is 0 only if all of them held. The broker is
a SQLite file, or what `BROKER_URL` says. This file is the story; `scene.py` is how it is set up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from types import FrameType
from typing import Any

from example_project.scene import EVERYBODY, CommandFailed, Scene
from example_project.shop.mail_server import OK, TIME_OUT
from example_project.stage import StageError, must_wait
from example_project.timeline import Timeline

__all__ = ["main"]

CUSTOMERS, ORDERS, ATTEMPTS = 12, 4, 4
LOOKED_AT = 4
EMAIL, IMPORT, REPORT = "onboarding_email", "import_order", "sales_report"
DIE_WITHIN, RECOVER_WITHIN, SLACK_SAYS_WITHIN = 75.0, "30", 20.0
ASKED_WITHIN, MISSED_WITHIN, OVER_WITHIN = 60.0, 60.0, 60.0


def main() -> int:
    """Play the demo; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _terminated)
    timeline = Timeline()
    scene = Scene(timeline, os.environ)
    trouble = ""
    try:
        with scene:
            customers = play(scene)
        check_the_end(scene, customers)
    except (StageError, CommandFailed, ConnectionError) as error:
        trouble = str(error)
    except KeyboardInterrupt:
        scene.remove()
        timeline.say("stopped; every process that was started has ended", style="bold red")
        return 130
    finally:
        scene.leave_broker_clean()
    good = timeline.verdict(trouble)
    scene.remove() if good else scene.show_logs()
    return 0 if good else 1


def play(scene: Scene) -> list[str]:
    """The story, act by act; returns the customers' addresses."""
    scene.timeline.act("A shop opens: it mails new customers, imports orders, tells a partner")
    scene.open()
    scene.guardrails("policy", f"shop.{EMAIL}", start="Attempts of")
    scene.timeline.act("The mail provider stops answering")
    customers = break_provider(scene)
    watch_them_die(scene)
    scene.timeline.act("What people see")
    check_slack(scene)
    check_letters(scene)
    scene.timeline.act("An alert that nobody acknowledges")
    check_escalation(scene)
    scene.timeline.act("A task that never ran")
    check_overdue(scene)
    scene.timeline.act("The provider is repaired, and the work is put back")
    put_back(scene)
    check_report(scene)
    scene.timeline.act("The shop closes")
    scene.timeline.say("every process is told to end; after that, nothing can arrive twice any more", style="dim")
    return customers


def break_provider(scene: Scene) -> list[str]:
    """The provider accepts connections and says nothing more; then the day's work comes in."""
    scene.timeline.command(scene.world.set_mail_mode(TIME_OUT), "accepts connections, never answers")
    published = scene.python("example_project.shop.storefront", "--customers", str(CUSTOMERS), "--orders", str(ORDERS))
    scene.timeline.say(f"{CUSTOMERS} onboarding emails, {ORDERS} webhooks and one order without lines are in the queue")
    return list(json.loads(published)["addresses"])


def watch_them_die(scene: Scene) -> None:
    """Until Slack knows of all dead letters, say how the mail server is called again and again."""
    told, retries = 0, 0
    acknowledged = False

    def announced() -> bool:
        nonlocal told, retries, acknowledged
        calls = len(scene.world.calls()) // CUSTOMERS * CUSTOMERS
        if calls > told:
            told = calls
            scene.timeline.say(f"mail server: {told} connections so far, none answered")
        lines = _retries_of_one(scene.worker_log())
        for line in lines[retries:]:
            scene.timeline.say(f"worker: {line}", style="yellow")
        retries = len(lines)
        if not acknowledged and scene.slack_log.count(EMAIL):
            acknowledged = True
            acknowledge(scene)
        return scene.slack_log.count(EMAIL) >= CUSTOMERS and scene.slack_log.count(IMPORT) >= 1

    scene.stage.wait_until(announced, "Slack knows of all dead letters", DIE_WITHIN)
    webhooks = scene.webhooks()
    scene.timeline.check(
        len(webhooks) == ORDERS == len(set(webhooks)),
        "the webhooks were not held up by the failing emails",
        f"{len(webhooks)} delivered, each once",
    )


def acknowledge(scene: Scene) -> None:
    """Ada sees the alert while it still grows, and says so."""
    scene.timeline.say("Ada reads the alert. She says that she takes care of it, so that nobody else has to:")
    scene.guardrails("alerts", "ack", scene.alert_id(EMAIL), "--by", "ada", "--reason", "I am calling the provider")


def check_slack(scene: Scene) -> None:
    """One message for the twelve, which grew in place and says who takes care; one of its own for the bug."""
    said = "ada takes care of it"
    scene.stage.wait_until(
        lambda: any(said in reply.text for reply in scene.thread(EMAIL)),
        "the thread says who takes care of it",
        SLACK_SAYS_WITHIN,
    )
    about = scene.slack_log.about(EMAIL)
    scene.show_slack(EMAIL)
    posts = [arrival for arrival in about if arrival.what == "posted"]
    scene.timeline.check(len(posts) == 1, f"one Slack message for the {CUSTOMERS}", f"{len(posts)} posted")
    thread = scene.thread(EMAIL)
    scene.timeline.check(
        len(thread) == 1,
        "the thread says who takes care of it",
        " / ".join(reply.text.partition(": ")[2] for reply in thread),
    )
    counts = list(dict.fromkeys(arrival.count for arrival in about))
    scene.timeline.check(
        len({arrival.ts for arrival in about}) == 1 and len(counts) > 1 and counts == sorted(counts),
        "it grew in place",
        f"{' → '.join(map(str, counts))} dead letters, by edits of message {about[0].ts}",
    )
    bug = scene.slack_log.about(IMPORT)
    scene.timeline.check(
        len({arrival.ts for arrival in bug}) == 1 and bug[0].ts != about[0].ts,
        "the import's bug has a message of its own",
        bug[0].headline,
    )


def check_letters(scene: Scene) -> None:
    """What the archive says: the emails after several attempts with growing delays, the bug after one."""
    scene.guardrails("dlq", "groups")
    dead = scene.guardrails_json("dlq", "list", "--state", "dead")
    emails = [letter for letter in dead if letter["task"] == f"shop.{EMAIL}"]
    bugs = [letter for letter in dead if letter["task"] == f"shop.{IMPORT}"]
    held = len(emails) == CUSTOMERS and len(bugs) == 1 and len(dead) == CUSTOMERS + 1
    scene.timeline.check(held, "every failed task is in the archive", f"{len(emails)} emails, {len(bugs)} import")
    if not held:
        raise StageError(f"the archive holds {Counter(letter['task'] for letter in dead)}")
    scene.guardrails("dlq", "show", emails[0]["id"][:8], end="Traceback")
    ended = [f"{letter['attempt_count']} attempts, {letter['reason']}" for letter in emails]
    scene.timeline.check(
        set(ended) == {f"{ATTEMPTS} attempts, attempts_exhausted"}, "the emails used up their attempts", _counted(ended)
    )
    # each command is a process: a few of the twelve will do
    *letters, bug = scene.letters([letter["id"] for letter in (*emails[:: CUSTOMERS // LOOKED_AT], *bugs)])
    check_delays(scene, [_delays(letter) for letter in letters])
    scene.timeline.check(
        len(bug["attempts"]) == 1 and bug["reason"] == "permanent_error",
        "the bug died at once, without a retry",
        f"{len(bug['attempts'])} attempt, {bug['reason']}: {bug['error']['type']}",
    )


def check_delays(scene: Scene, delays: list[list[float]]) -> None:
    """Each email waited longer each time, and no two waited alike."""
    grew = len(delays) == LOOKED_AT and all(len(one) == ATTEMPTS - 1 and one == sorted(set(one)) for one in delays)
    steps = [f"{min(step):.1f} to {max(step):.1f} s" for step in zip(*delays, strict=False)]
    scene.timeline.check(grew, "their delays grew", ", then ".join(steps))
    first = {one[0] for one in delays if one}
    scene.timeline.check(
        len(first) > 1,
        "the jitter spread them",
        f"{len(first)} different first delays in {len(delays)} emails",
    )


def check_escalation(scene: Scene) -> None:
    """The bug's alert was acknowledged by nobody: after 30 seconds the wider channel gets a message of its own."""
    scene.timeline.say(
        "Ada acknowledged the alert about the emails, and nobody the one about the bug. No alert may wait for one "
        f"person alone: 30 s after it opened, the setting alerts.escalation asks in {EVERYBODY}, too"
    )
    scene.stage.wait_until(lambda: bool(scene.asked(IMPORT)), f"{EVERYBODY} is asked about the bug", ASKED_WITHIN)
    scene.show_everybody(IMPORT)
    [acknowledged] = scene.thread(EMAIL)
    later = [message for message in scene.asked(EMAIL) if message.ts > acknowledged.ts]
    scene.timeline.check(
        len(scene.asked(IMPORT)) == 1 and not later,
        "more people are asked about the alert that nobody acknowledged, and no more about the other",
        f"{len(scene.asked(IMPORT))} message about {IMPORT}, {len(later) or 'none'} about {EMAIL} since ada's word",
    )


def check_overdue(scene: Scene) -> None:
    """Nothing failed, and yet something is wrong: what beat sends, nobody takes."""
    scene.timeline.say(
        "nothing failed here: beat goes on sending the report, and no worker takes it. A task that does not run raises "
        "no error, so people find out last. The guardian compares beat's schedule with what has run"
    )
    scene.stage.wait_until(
        lambda: bool(scene.slack_log.about(REPORT)), "Slack knows that the report is overdue", MISSED_WITHIN
    )
    scene.show_slack(REPORT)
    told = scene.story(REPORT)
    scene.timeline.check(
        "no worker takes them" in told and "sales-report was due at" in told,
        "the alert says what is overdue, and that its worker is to blame, not beat",
        told.rpartition(": ")[2],
    )
    scene.timeline.say("now its worker is started; 10 s later its figures say that the report runs")
    scene.start_reports()


def check_report(scene: Scene) -> None:
    """When the report runs again its alert is over."""

    def over() -> bool:
        return scene.slack_log.about(REPORT)[-1].headline.endswith(", over")

    scene.stage.wait_until(over, "the report's alert is over", OVER_WITHIN)
    about = scene.slack_log.about(REPORT)
    scene.timeline.check(
        len({arrival.ts for arrival in about}) == 1, "the report runs again, and its alert is over", about[-1].headline
    )


def put_back(scene: Scene) -> None:
    """Repair, requeue with a reason, and wait until the archive says that all have recovered."""
    scene.timeline.command(scene.world.set_mail_mode(OK))
    scene.guardrails(
        "dlq",
        "requeue",
        f"task:shop.{EMAIL} state:dead",
        "--reason",
        "provider repaired",
        "--wait",
        RECOVER_WITHIN,
        "--yes",
    )
    letters = scene.guardrails_json("dlq", "list")
    recovered = [letter for letter in letters if letter["state"] == "recovered"]
    scene.timeline.check(
        [letter["task"] for letter in recovered] == [f"shop.{EMAIL}"] * CUSTOMERS,
        "the letters read recovered",
        f"{len(recovered)} recovered",
    )
    said = f"{CUSTOMERS} recovered"
    scene.stage.wait_until(lambda: scene.slack_log.letters(EMAIL) == said, f"Slack says {said}", SLACK_SAYS_WITHIN)
    scene.timeline.check(True, "Slack's message says so too", scene.slack_log.letters(EMAIL))
    left = [letter for letter in letters if letter["state"] != "recovered"]
    scene.timeline.check(
        [(letter["task"], letter["state"]) for letter in left] == [(f"shop.{IMPORT}", "dead")],
        "what was not put back is still there",
        f"{len(left)} dead: {', '.join(letter['task'] for letter in left)}",
    )


def check_the_end(scene: Scene, customers: list[str]) -> None:
    """When nothing runs any more: how the processes ended, and what the customers have in their mailboxes."""
    codes = {actor.name: actor.process.returncode for actor in scene.stage.actors}
    ended = {name: code for name, code in codes.items() if name in ("worker", "guardian")}
    scene.timeline.check(
        set(ended.values()) == {0},
        "worker and guardian stopped cleanly",
        ", ".join(f"{name}: exit code {code}" for name, code in ended.items()),
    )
    arrived = Counter(letter["to"] for letter in scene.world.mailbox())
    scene.timeline.check(
        arrived == Counter(customers),
        f"all {CUSTOMERS} emails arrived, each exactly once",
        _counted(f"arrived {times} x" for times in arrived.values()),
    )


def _retries_of_one(log: str) -> list[str]:
    """What the worker said of one of the emails, the first that failed."""
    found = re.findall(rf"Task shop\.{EMAIL}\[(\w{{8}})\S* retry: (.+)", log)
    return [f"{EMAIL}[{task_id}] {words}" for task_id, words in found if task_id == found[0][0]]


def _delays(letter: dict[str, Any]) -> list[float]:
    return [float(attempt["delay"]) for attempt in letter["attempts"] if attempt["delay"] is not None]


def _counted(what: Iterable[str]) -> str:
    return "; ".join(f"{count} x {words}" for words, count in Counter(what).items()) or "nothing"


def _terminated(signum: int, frame: FrameType | None) -> None:
    # Where Python discards exceptions (in a destructor, say) this one would be lost: it comes again until it is met.
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    if not must_wait():
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
