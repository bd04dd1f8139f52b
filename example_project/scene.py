"""How the demo is set up: the processes around the shop, the commands a person would type, and what they answer.

Commands run as they are shown, in processes of their own. The story is in `demo.py`.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.text import Text

from celery_guardrails.testing import SlackMessage, SlackStandIn
from example_project.slack_log import Arrival, SlackLog
from example_project.slack_view import slack_message
from example_project.stage import Actor, Stage
from example_project.timeline import Timeline
from example_project.world import ROOT, World

__all__ = ["CHANNEL", "EVERYBODY", "CommandFailed", "Scene"]

CHANNEL, EVERYBODY = "#shop-alerts", "#shop-everybody"
_CELERY = ("celery", "-A", "example_project.shop")
_COMMAND_WITHIN = 60
_LOG_LINES = 25
_AT_ONCE = 3


class CommandFailed(Exception):
    """A command ended with another exit code than 0, or did not end."""


class Scene:
    """The shop with everything around it; a context manager that stops all of it.

    Args:
        timeline: where it is shown.
        environ: the demo's own environment.
    """

    def __init__(self, timeline: Timeline, environ: Mapping[str, str]) -> None:
        self.timeline = timeline
        self.world = World(environ)
        self.stage = Stage(self.world.directory, ROOT, self.world.environ)
        self.slack_log = SlackLog(self._tell)
        self.slack = SlackStandIn(on_change=self.slack_log)
        self._partner: Actor | None = None
        self._worker: Actor | None = None

    def __enter__(self) -> Scene:
        self.slack.start()
        return self

    def __exit__(self, *_: object) -> None:
        # a second Ctrl-C must not leave a process behind
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        try:
            self.stage.stop()
        finally:
            self.slack.stop()

    def open(self) -> None:
        """Start every process, the shop's own last, when all that they need is there."""
        self.timeline.say(f"broker: {self.world.broker}")
        self.world.reach_broker()
        mail = self._start_server("mail server", "example_project.shop.mail_server", str(self.world.mail))
        self._partner, partner_address = self._start_server("partner", "example_project.shop.partner_server")
        self.timeline.say(f"a stand-in for Slack: {self.slack.base_url}", style="dim")
        self.world.environ |= {
            "SHOP_SMTP": mail[1],
            "SHOP_PARTNER_URL": f"http://{partner_address}/orders",
            "GUARDRAILS_SLACK_BASE_URL": self.slack.base_url,
            "GUARDRAILS_SLACK_TOKEN": "xoxb-stand-in",
            "GUARDRAILS_SLACK_CHANNEL": CHANNEL,
        }
        self.guardrails("check")
        self._worker = self._start("worker", "worker", "--concurrency", "2", "--loglevel", "INFO")
        self._start("guardian", "guardian")
        self._start("beat", "beat", "--schedule", str(self.world.directory / "beat"))
        self.timeline.say(
            "beat sends shop.sales_report every 10 s. Its worker was never started, and nobody has noticed"
        )
        self.stage.wait_for_log(self._worker, r" ready\.")
        self.timeline.say("the worker is ready")
        self.timeline.space()

    def start_reports(self) -> None:
        """Start the worker that beat's task waits for."""
        self._start("reports", "worker", "-Q", self.world.reports, "-n", "reports@%h", "--concurrency", "1")

    def guardrails(self, *arguments: str, start: str = "", end: str = "") -> None:
        """Run `celery guardrails ...` and show what it answers.

        Args:
            arguments: of the command.
            start: what comes before the line that begins so is left out.
            end: the line that begins so is left out, with what comes after it.
        """
        lines = Text.from_ansi(self._run(_CELERY, "guardrails", *arguments).rstrip()).split("\n")
        plain = [line.plain.strip() for line in lines]
        first = next((number for number, line in enumerate(plain) if start and line.startswith(start)), 0)
        last = next((number for number, line in enumerate(plain) if end and line.startswith(end)), len(lines))
        shown = [Text("…", style="dim")] if first else []
        shown += list(lines[first:last])
        shown += [Text("…", style="dim")] if last < len(lines) else []
        self.timeline.show(Text("\n").join(shown))
        self.timeline.space()

    def guardrails_json(self, *arguments: str, shown: bool = True) -> Any:
        """Run it with `--json` and return what it answers."""
        return json.loads(self._run(_CELERY, "guardrails", *arguments, "--json", shown=shown))

    def letters(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Each of these dead letters, as `dlq show --json` has it."""
        others = f"   # and {len(ids) - 1} more" if len(ids) > 1 else ""
        line = shlex.join([*_CELERY, "guardrails", "dlq", "show", ids[0], "--json"])
        self.timeline.command(line + others)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda one: self.guardrails_json("dlq", "show", one, shown=False), ids))

    def python(self, module: str, *arguments: str) -> str:
        """Run a module of the shop's."""
        return self._run(("python", "-m"), module, *arguments)

    def show_slack(self, task: str) -> None:
        """Show the message about a task as a person would see it, with its thread."""
        about = self.slack_log.about(task)
        message = self.slack.messages[about[0].ts]
        edits = f"edited {len(message.edits)} times" if message.edits else "not edited"
        replies = [reply.text for reply in message.replies]
        self.timeline.show(slack_message(message.blocks, CHANNEL, edits, self.timeline.width, replies))

    def show_everybody(self, task: str) -> None:
        """Show the message about a task in the wider channel."""
        message = self.asked(task)[0]
        self.timeline.show(slack_message(message.blocks, EVERYBODY, "not edited", self.timeline.width))

    def thread(self, task: str) -> list[SlackMessage]:
        """What is in the thread of the message about a task."""
        about = self.slack_log.about(task)
        return list(self.slack.messages[about[0].ts].replies) if about else []

    def story(self, task: str) -> str:
        """What the message about a task says, in its own words."""
        blocks = self.slack.messages[self.slack_log.about(task)[0].ts].blocks
        return str(blocks[1]["text"]["text"])

    def asked(self, task: str) -> list[SlackMessage]:
        """What the wider channel was sent about a task."""
        return [each for each in self.slack.in_channel(EVERYBODY) if each.text.startswith(f"{task} ")]

    def alert_id(self, task: str) -> str:
        """The alert's id, which is the last line of the message about a task."""
        found = re.search(r"Alert (\w+)", str(self.slack.messages[self.slack_log.about(task)[0].ts].blocks))
        return found[1] if found else ""

    def worker_log(self) -> str:
        """What the worker has said so far."""
        return self._worker.log.read_text(errors="replace") if self._worker else ""

    def webhooks(self) -> list[str]:
        """What the partner has received."""
        lines = self._partner.log.read_text().splitlines() if self._partner else []
        return [line for line in lines if line.startswith("received ")]

    def leave_broker_clean(self) -> None:
        """Take the demo's queues off a broker that others use too."""
        try:
            self.world.remove_queues()
        except Exception as error:  # noqa: BLE001  the demo is over, whatever the broker says to this
            self.timeline.say(f"could not remove the queues {self.world.queue}*: {error}", style="yellow")

    def show_logs(self) -> None:
        """Show the last lines of the processes that failed; of worker and guardian when none did."""
        ours = [actor for actor in self.stage.actors if actor.name in ("worker", "guardian")]
        for actor in self.stage.failed() or ours:
            self.timeline.act(f"{actor.name} (exit code {actor.process.returncode}), the end of {actor.log}")
            for line in actor.tail(_LOG_LINES):
                self.timeline.console.print(Text(line, style="dim"))
        self.timeline.console.print(f"\nlogs, archive and broker are kept in {self.world.directory}")

    def remove(self) -> None:
        """Remove what the demo has written."""
        self.world.remove()

    def _tell(self, arrival: Arrival) -> None:
        verb = {"posted": "new message", "edited": "same message", "replied": "in the thread"}[arrival.what]
        letters = f", {arrival.letters}" if "re" in arrival.letters else ""
        wider = f" in {EVERYBODY}" if arrival.channel == self.slack.channels.get(EVERYBODY) else ""
        self.timeline.say(f"Slack, {verb}{wider}: {arrival.headline}{letters}", style="magenta")

    def _start_server(self, name: str, module: str, *arguments: str) -> tuple[Actor, str]:
        self.timeline.command(shlex.join(["python", "-m", module, *arguments, "&"]).replace("'&'", "&"))
        actor = self.stage.start(name, [sys.executable, "-m", module, *arguments])
        return actor, self.stage.wait_for_log(actor, r"listening on (\S+)")

    def _start(self, name: str, *arguments: str) -> Actor:
        self.timeline.command(shlex.join([*_CELERY, *arguments]) + " &")
        return self.stage.start(name, [sys.executable, "-m", *_CELERY, *arguments])

    def _run(self, program: tuple[str, ...], *arguments: str, shown: bool = True) -> str:
        line = shlex.join([*program, *arguments])
        if shown:
            self.timeline.command(line)
        real = [sys.executable, "-m", *program] if program == _CELERY else [sys.executable, "-m"]
        # FORCE_COLOR: as on a terminal. Where the demo itself is not shown on one, the timeline drops the colours.
        environ = {**self.world.environ, "COLUMNS": str(self.timeline.width), "FORCE_COLOR": "1"}
        try:
            code, stdout, stderr = self.stage.run([*real, *arguments], environ, _COMMAND_WITHIN)
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"$ {line}\ntook longer than {_COMMAND_WITHIN} seconds") from None
        if code != 0:
            raise CommandFailed(f"$ {line}\nexit code {code}\n{stdout}{stderr}".rstrip())
        return stdout
