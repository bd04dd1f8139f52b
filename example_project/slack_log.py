"""What arrived at the Slack stand-in, in order: each post, edit and reply, with the count that it stated.

It must not know how a message is shown.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

from celery_guardrails.testing import SlackMessage

__all__ = ["Arrival", "SlackLog"]

_COUNT = re.compile(r": ([\d,]+) dead letters?")


@dataclass(frozen=True)
class Arrival:
    """One change in a channel: `what` is `posted`, `edited` or `replied`; `letters` says what became of them."""

    ts: str
    channel: str
    what: str
    headline: str
    count: int
    letters: str


class SlackLog:
    """Listens to a stand-in: give it as `on_change`.

    Args:
        tell: called with each arrival, in a thread of the stand-in's.
    """

    def __init__(self, tell: Callable[[Arrival], None]) -> None:
        self._tell = tell
        self._arrivals: list[Arrival] = []
        self._lock = threading.Lock()

    def __call__(self, message: SlackMessage, what: str) -> None:
        """Note a change."""
        headers = [block["text"]["text"] for block in message.blocks if block.get("type") == "header"]
        headline = str(headers[0]) if headers else message.text
        stated = _COUNT.search(headline)
        count = int(stated[1].replace(",", "")) if stated else 0
        arrival = Arrival(message.ts, message.channel, what, headline, count, _letters(message))
        with self._lock:
            told = [(old.headline, old.letters) for old in self._arrivals if old.ts == arrival.ts]
            self._arrivals.append(arrival)
        if (headline, arrival.letters) not in told:
            self._tell(arrival)

    def about(self, task: str) -> list[Arrival]:
        """What was said about a task, oldest first; `task` is the last part of its name."""
        with self._lock:
            return [arrival for arrival in self._arrivals if arrival.headline.startswith(f"{task}:")]

    def count(self, task: str) -> int:
        """How many dead letters of a task Slack knows of by now."""
        return max((arrival.count for arrival in self.about(task)), default=0)

    def letters(self, task: str) -> str:
        """What Slack says by now has become of the dead letters of a task."""
        about = self.about(task)
        return about[-1].letters if about else ""


def _letters(message: SlackMessage) -> str:
    fields = [field["text"] for block in message.blocks for field in block.get("fields", ())]
    return next((text.partition("\n")[2] for text in fields if text.startswith("*Letters of this task*")), "")
