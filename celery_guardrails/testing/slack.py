"""A local stand-in for Slack: takes messages as Slack does, keeps them, and fails in Slack's ways when told to.

Serves chat.postMessage, chat.update, conversations.history, conversations.replies, conversations.list, auth.test and
an incoming webhook. GET /messages is what it has, as JSON. As a process:
`python -m celery_guardrails.testing.slack --port N --show` prints every message as a person would see it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zlib import crc32

from celery_guardrails.testing.server import Answer, LocalServer, Request
from celery_guardrails.testing.slack_limits import MOST_TEXT, faults_of
from celery_guardrails.testing.slack_show import shown

__all__ = ["Mode", "SlackMessage", "SlackStandIn", "main"]

_WEBHOOK = "/services/T0/B0/standin"


class Mode(str, Enum):
    """How the stand-in answers a call. In place of a mode, any of Slack's error words may stand: `not_in_channel`."""

    OK = "ok"
    RATE_LIMITED = "429"
    RATE_LIMITED_DATE = "429 date"
    RATE_LIMITED_BARE = "429 bare"
    SERVER_ERROR = "500"
    HTML = "html"
    INVALID_AUTH = "invalid_auth"
    DROP_BEFORE = "drop before"
    DROP_AFTER = "drop after"
    SLOW = "slow"
    MESSAGE_NOT_FOUND = "message_not_found"


@dataclass
class SlackMessage:
    """One message as Slack keeps it: as it is now, its earlier texts and blocks, and its thread."""

    ts: str
    channel: str
    text: str
    blocks: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    replies: list[SlackMessage] = field(default_factory=list)
    broadcast: bool = False
    webhook: bool = False


class SlackStandIn(LocalServer):
    """Slack on 127.0.0.1, as a context manager: `with SlackStandIn() as slack: ...`.

    Args:
        port: where to listen; 0 takes a free one.
        on_change: called with a message and `posted`, `edited` or `replied` after each change.

    Attributes:
        mode: how all calls are answered from now on.
        retry_after: the seconds that a 429 answer asks for. Default 30.
        slow_for: the seconds that `Mode.SLOW` takes to answer what it has done. Default 30.
        scopes: what the token may do beside posting; without `history` or `list` those methods are refused.
        clock: gives the epoch seconds of a message's `ts`; replace it where a test sets the time.
    """

    def __init__(self, port: int = 0, on_change: Callable[[SlackMessage, str], None] | None = None) -> None:
        super().__init__(port)
        self.mode: Mode | str = Mode.OK
        self.retry_after = 30
        self.slow_for = 30.0
        self.clock: Callable[[], float] = time.time
        self.scopes = {"history", "list"}
        self.messages: dict[str, SlackMessage] = {}
        self.calls: list[str] = []
        self.channels: dict[str, str] = {}
        self._scripts: dict[str, deque[Mode | str]] = defaultdict(deque)
        self._lock = threading.RLock()
        self._on_change = on_change
        self._last_ts = 0

    @property
    def base_url(self) -> str:
        """What to set as `slack.base_url`."""
        return f"{self.address}/api/"

    @property
    def webhook_url(self) -> str:
        """What to set as `slack.webhook_url`."""
        return f"{self.address}{_WEBHOOK}"

    def script(self, method: str, *modes: Mode | str) -> None:
        """Answer the next calls of one method in these ways, one each, then as `mode` says again.

        Args:
            method: such as `chat.postMessage`; `webhook` for the webhook, `*` for any.
            modes: a `Mode`, or any of Slack's error words, such as `not_in_channel`.
        """
        with self._lock:
            self._scripts[method].extend(modes)

    def create_channel(self, name: str) -> str:
        """Create a channel, such as `#alerts`, as a person would before anything is posted there; returns its id."""
        with self._lock:
            return self._channel(name)

    def in_channel(self, channel: str | None = None) -> list[SlackMessage]:
        """The messages in a channel (an id or `#name`; `None`: in all), oldest first, without replies in threads."""
        with self._lock:
            known = self.channels.get(channel or "", channel)
            return [message for message in self.messages.values() if channel is None or message.channel == known]

    def delete(self, ts: str) -> None:
        """Delete a message as a person would."""
        with self._lock:
            del self.messages[ts]

    def answer(self, request: Request) -> Answer:
        """Do what Slack does, or fail as the mode says."""
        url = urlsplit(request.path)
        if request.method == "GET" and url.path == "/messages":
            with self._lock:
                return Answer(body=[asdict(message) for message in self.messages.values()])
        if url.path == _WEBHOOK:
            return self._perform("webhook", lambda: self._webhook(_arguments(request, url.query)))
        method = url.path.rpartition("/")[2]
        handler = self._handlers().get(method)
        if handler is None:
            return Answer(body={"ok": False, "error": "unknown_method"})
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return Answer(body={"ok": False, "error": "not_authed"})
        return self._perform(method, lambda: handler(_arguments(request, url.query)))

    def _handlers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
            "conversations.list": self._list,
            "auth.test": lambda _: {"ok": True, "team": "stand-in"},
        }

    def _perform(self, method: str, do: Callable[[], dict[str, Any] | str]) -> Answer:
        with self._lock:
            self.calls.append(method)
            script = self._scripts[method] or self._scripts["*"]
            mode = script.popleft() if script else self.mode
            if mode in (Mode.OK, Mode.DROP_AFTER, Mode.SLOW):
                result = do()
                if mode == Mode.OK:
                    return _outcome(result)
                drop = mode == Mode.DROP_AFTER
                return Answer(drop=True) if drop else Answer(body=result, after=self.slow_for)
        return self._failure(mode, webhook=method == "webhook")

    def _failure(self, mode: Mode | str, *, webhook: bool) -> Answer:
        if mode == Mode.DROP_BEFORE:
            return Answer(drop=True)
        if mode == Mode.HTML:
            return Answer(body="<!DOCTYPE html><html><body>Be right back</body></html>")
        if mode == Mode.SERVER_ERROR:
            return Answer(500, "server_error" if webhook else {"ok": False, "error": "internal_error"})
        if mode in (Mode.RATE_LIMITED, Mode.RATE_LIMITED_DATE, Mode.RATE_LIMITED_BARE):
            headers = {
                Mode.RATE_LIMITED: {"Retry-After": str(self.retry_after)},
                Mode.RATE_LIMITED_DATE: {"Retry-After": formatdate(time.time() + self.retry_after, usegmt=True)},
            }.get(Mode(mode), {})
            return Answer(429, "rate_limited" if webhook else {"ok": False, "error": "ratelimited"}, headers)
        word = mode.value if isinstance(mode, Mode) else mode
        return _outcome(_refusal(word) if not webhook else word)

    def _post(self, arguments: dict[str, Any]) -> dict[str, Any]:
        channel = self._channel(str(arguments.get("channel", "")))
        blocks, text = arguments.get("blocks") or [], str(arguments.get("text", ""))
        if not blocks and not text:
            return _refusal("no_text")
        if faults := faults_of(blocks):
            return {**_refusal("invalid_blocks"), "errors": faults}
        message = SlackMessage(self._next_ts(), channel, text[:MOST_TEXT], blocks, arguments.get("metadata") or {})
        thread = arguments.get("thread_ts")
        if thread:
            if thread not in self.messages:
                return _refusal("thread_not_found")
            message.broadcast = _true(arguments.get("reply_broadcast"))
            self.messages[thread].replies.append(message)
        else:
            self.messages[message.ts] = message
        self._tell(message, "replied" if thread else "posted")
        return {"ok": True, "channel": channel, "ts": message.ts, "message": {"text": message.text}}

    def _update(self, arguments: dict[str, Any]) -> dict[str, Any]:
        message = self.messages.get(str(arguments.get("ts", "")))
        if message is None or message.channel != arguments.get("channel"):
            return _refusal("message_not_found")
        if faults := faults_of(arguments.get("blocks") or []):
            return {**_refusal("invalid_blocks"), "errors": faults}
        message.edits.append({"text": message.text, "blocks": message.blocks})
        message.text, message.blocks = str(arguments.get("text", "")), arguments.get("blocks") or []
        self._tell(message, "edited")
        return {"ok": True, "channel": message.channel, "ts": message.ts, "text": message.text}

    def _history(self, arguments: dict[str, Any]) -> dict[str, Any]:
        found = [message for message in self.messages.values() if message.channel == arguments.get("channel")]
        found += [reply for message in found for reply in message.replies if reply.broadcast]
        return self._page(found, arguments)

    def _replies(self, arguments: dict[str, Any]) -> dict[str, Any]:
        message = self.messages.get(str(arguments.get("ts", "")))
        if message is None:
            return _refusal("thread_not_found")
        return self._page([message, *message.replies], arguments)

    def _page(self, found: list[SlackMessage], arguments: dict[str, Any]) -> dict[str, Any]:
        if "history" not in self.scopes:
            return {**_refusal("missing_scope"), "needed": "channels:history"}
        if arguments.get("channel") not in self.channels.values():
            return _refusal("channel_not_found")
        oldest, start = float(arguments.get("oldest") or 0), int(arguments.get("cursor") or 0)
        limit = int(arguments.get("limit") or 100)
        newest = sorted((m for m in found if float(m.ts) >= oldest), key=lambda m: m.ts, reverse=True)
        more = start + limit < len(newest)
        messages = [{"ts": m.ts, "text": m.text, "metadata": m.metadata} for m in newest[start : start + limit]]
        cursor = str(start + limit) if more else ""
        return {"ok": True, "messages": messages, "has_more": more, "response_metadata": {"next_cursor": cursor}}

    def _list(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if "list" not in self.scopes:
            return {**_refusal("missing_scope"), "needed": "channels:read"}
        channels = [{"id": known, "name": name[1:]} for name, known in self.channels.items() if name.startswith("#")]
        return {"ok": True, "channels": channels, "response_metadata": {"next_cursor": ""}}

    def _webhook(self, arguments: dict[str, Any]) -> str:
        if not arguments.get("text") and not arguments.get("blocks"):
            return "no_text"
        if faults_of(arguments.get("blocks") or []):
            return "invalid_blocks"
        channel = self._channel("#webhook")
        text = str(arguments.get("text", ""))
        message = SlackMessage(self._next_ts(), channel, text, arguments.get("blocks") or [], webhook=True)
        self.messages[message.ts] = message
        self._tell(message, "posted")
        return "ok"

    def _channel(self, name: str) -> str:
        known = name if not name.startswith("#") else f"C{crc32(name.encode()):08X}"
        return self.channels.setdefault(name, known)

    def _next_ts(self) -> str:
        self._last_ts = max(round(self.clock() * 1_000_000), self._last_ts + 1)
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def _tell(self, message: SlackMessage, what: str) -> None:
        if self._on_change is not None:
            self._on_change(message, what)


def main(arguments: list[str] | None = None) -> int:
    """Run the stand-in as a process until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m celery_guardrails.testing.slack", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free port")
    parser.add_argument("--show", action="store_true", help="print every message as a person would see it")
    options = parser.parse_args(arguments)

    def tell(message: SlackMessage, what: str) -> None:
        sys.stdout.write(shown(message.channel, message.text, message.blocks, what) + "\n")
        sys.stdout.flush()

    with SlackStandIn(options.port, tell if options.show else None) as slack:
        sys.stdout.write(f"SLACK_BASE_URL={slack.base_url}\nSLACK_WEBHOOK_URL={slack.webhook_url}\n")
        sys.stdout.flush()
        try:
            slack._stopping.wait()
        except KeyboardInterrupt:
            return 0
    return 0


def _refusal(word: str) -> dict[str, Any]:
    return {"ok": False, "error": word}


def _outcome(result: dict[str, Any] | str) -> Answer:
    if isinstance(result, str):
        return Answer(200 if result == "ok" else 403 if "auth" in result or "token" in result else 400, result)
    return Answer(body=result)


def _true(value: Any) -> bool:
    return str(value).lower() in ("1", "true")


def _arguments(request: Request, query: str) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(parse_qsl(query))
    if "json" in request.headers.get("content-type", ""):
        return {**arguments, **json.loads(request.body or b"{}")}
    arguments.update(parse_qsl(request.body.decode()))
    for name in ("blocks", "metadata"):
        if isinstance(arguments.get(name), str):
            arguments[name] = json.loads(arguments[name])
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
