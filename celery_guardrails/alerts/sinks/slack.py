"""Alerts in Slack, over slack-sdk: with a token (posts, edits, threads) or an incoming webhook (posts only).

Sends text, blocks and `metadata.event_payload.post_uid`. It turns Slack's many errors into `errors.Trouble` and
leaves the decision to the poster: it never retries, sleeps or drops by itself.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.error import HTTPError, URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.webhook import WebhookClient
from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from celery_guardrails.alerts.sinks.plain import PostOnly
from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.redaction.process import shown
from celery_guardrails.text import cut, escape

__all__ = ["SlackSink", "SlackWebhookSink"]

_EVENT_TYPE = "celery_guardrails_alert"
_PLAIN_LIMIT = 3000
_PAGES = 10
_DEFAULT_RETRY_AFTER = 30.0
_AUTH = (
    "invalid_auth not_authed token_revoked token_expired account_inactive missing_scope not_allowed_token_type "
    "org_login_required ekm_access_denied access_denied invalid_token no_service no_active_hooks action_prohibited "
    "team_disabled no_team team_access_not_granted"
)
_CHANNEL = (
    "channel_not_found not_in_channel is_archived channel_is_archived restricted_action no_permission "
    "posting_to_general_channel_denied user_not_found restricted_action_read_only_channel"
)
_GONE = "message_not_found cant_update_message edit_window_closed thread_not_found cant_reply_to_message"
_TOO_BIG = "invalid_blocks invalid_blocks_format msg_blocks_too_long msg_too_long metadata_too_large invalid_payload"
_LATER = "internal_error fatal_error service_unavailable request_timeout rollup_error team_added_to_org"
_TROUBLES = {
    **dict.fromkeys(_AUTH.split(), Trouble.AUTH),
    **dict.fromkeys(_CHANNEL.split(), Trouble.CHANNEL),
    **dict.fromkeys(_GONE.split(), Trouble.GONE),
    **dict.fromkeys(_TOO_BIG.split(), Trouble.TOO_BIG),
    **dict.fromkeys(_LATER.split(), Trouble.UNCERTAIN),
    **dict.fromkeys(["ratelimited", "rate_limited", "message_limit_exceeded"], Trouble.RATE_LIMITED),
}

# slack-sdk logs whole requests at DEBUG, and each failed one at ERROR, of which Sentry would make an event of its own.
# The poster reports failures itself, once.
_sdk_logger = logging.getLogger(f"{__name__}.sdk")
_sdk_logger.setLevel(logging.CRITICAL)
_SLACK_WORD = re.compile(r"[a-z0-9_]+")


class SlackSink:
    """Post, edit and thread alerts with a bot token.

    Args:
        token: a bot token with `chat:write`. With `channels:history` (or `groups:history`), `find` can look an
            uncertain post up; with `channels:read`, it can do so in a channel given by name.
        channel: id or `#name` of the channel.
        base_url: the URL of an API that stands in for Slack's, with a slash at the end. `None`: Slack's own.
        proxy: an HTTP proxy's url, or `None`.
        timeout: seconds for one call.
    """

    name = "slack"
    can_edit = True
    can_find = True
    min_gap = 1.0

    def __init__(
        self, token: str, channel: str, *, base_url: str | None = None, proxy: str | None = None, timeout: float = 10
    ) -> None:
        self._client = WebClient(
            token=token,
            base_url=base_url or WebClient.BASE_URL,
            proxy=proxy,
            timeout=max(1, round(timeout)),
            retry_handlers=[],
            logger=_sdk_logger,
        )
        self.channel = channel
        self._ids: dict[str, str] = {}

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Post with `chat.postMessage`."""
        name = channel or self.channel
        answer = _call(self._client.chat_postMessage, channel=name, **_layout(message), **_metadata(message))
        self._ids[name] = str(answer["channel"])
        return Posted(str(answer["ts"]), str(answer["channel"]))

    def edit(self, posted: Posted, message: Message) -> None:
        """Replace with `chat.update`; the metadata of the post stays."""
        layout = _layout(message)
        layout.pop("unfurl_links"), layout.pop("unfurl_media")
        _call(self._client.chat_update, channel=posted.channel, ts=posted.ts, **{"blocks": [], **layout})

    def reply(self, posted: Posted, message: Message, *, broadcast: bool = False) -> Posted:
        """Reply with `chat.postMessage` and `thread_ts`."""
        answer = _call(
            self._client.chat_postMessage,
            channel=posted.channel,
            thread_ts=posted.ts,
            reply_broadcast=broadcast,
            **_layout(message),
            **_metadata(message),
        )
        return Posted(str(answer["ts"]), str(answer["channel"]))

    def find(self, post_uid: str, *, since: datetime, channel: str | None = None, thread: str = "") -> Posted | None:
        """Look in `conversations.history`, or in `conversations.replies` for a thread, at most 2,000 messages back."""
        cursor: str | None = None
        try:
            found = self._id(channel or self.channel)
            window = {"channel": found, "oldest": f"{since.timestamp():.6f}", "include_all_metadata": True}
            for _ in range(_PAGES):
                if thread:
                    page = _call(self._client.conversations_replies, ts=thread, cursor=cursor, limit=200, **window)
                else:
                    page = _call(self._client.conversations_history, cursor=cursor, limit=200, **window)
                for message in page.get("messages") or ():
                    if _uid(message) == post_uid:
                        return Posted(str(message["ts"]), found)
                cursor = (page.get("response_metadata") or {}).get("next_cursor")
                if not cursor:
                    return None
        except Undelivered as error:
            # Posting may well work where reading does not: a missing scope is no reason to stop posting.
            if error.reason.startswith(("missing_scope", "channel_not_found", "not_in_channel")):
                raise Undelivered(Trouble.REFUSED, f"cannot search: {error.reason}") from error
            raise
        raise Undelivered(Trouble.REFUSED, "cannot search: too many messages since")

    def check(self) -> None:
        """Ask with `auth.test`."""
        _call(self._client.auth_test)

    def _id(self, channel: str) -> str:
        # conversations.history takes ids only, chat.postMessage takes names as well.
        if not channel.startswith("#"):
            return channel
        cursor: str | None = None
        for _ in range(_PAGES):
            if channel in self._ids:
                break
            page = _call(self._client.conversations_list, limit=1000, exclude_archived=True, cursor=cursor)
            self._ids.update({f"#{found['name']}": str(found["id"]) for found in page.get("channels") or ()})
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                break
        if channel not in self._ids:
            raise Undelivered(Trouble.REFUSED, f"channel_not_found: {channel}")
        return self._ids[channel]


class SlackWebhookSink(PostOnly):
    """Post alerts to an incoming webhook, which can neither edit nor reply, and cannot be searched.

    Args:
        url: the webhook's url, a secret.
        proxy: an HTTP proxy's url, or `None`.
        timeout: seconds for one call.
    """

    name = "slack webhook"

    def __init__(self, url: str, *, proxy: str | None = None, timeout: float = 10) -> None:
        self._client = WebhookClient(
            url, timeout=max(1, round(timeout)), proxy=proxy, retry_handlers=[], logger=_sdk_logger
        )

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Post; taken only if the status is 200 *and* the body is `ok`. A webhook posts to one channel of its own."""
        answer = _guard(lambda: self._client.send_dict(_layout(message)))
        body = (answer.body or "").strip()
        if answer.status_code == 200 and body == "ok":
            return Posted(ts=message.post_uid, channel="webhook")
        if answer.status_code == 200:
            raise Undelivered(Trouble.UNCERTAIN, "unexpected answer: not Slack's ok")
        raise _from_status(answer.status_code, body, answer.headers)


def _layout(message: Message) -> dict[str, Any]:
    layout: dict[str, Any] = {"text": message.text, "unfurl_links": False, "unfurl_media": False}
    if message.blocks:
        return {**layout, "blocks": list(message.blocks)}
    lines = "\n".join(escape(line) for line in message.plain.splitlines())
    return {**layout, "text": lines if len(lines) <= _PLAIN_LIMIT else message.text}


def _metadata(message: Message) -> dict[str, Any]:
    if not message.post_uid:
        return {}
    return {"metadata": {"event_type": _EVENT_TYPE, "event_payload": {"post_uid": message.post_uid}}}


def _uid(message: Mapping[str, Any]) -> str | None:
    payload = (message.get("metadata") or {}).get("event_payload") or {}
    return payload.get("post_uid") if isinstance(payload, Mapping) else None


def _call(method: Callable[..., Any], **arguments: Any) -> Mapping[str, Any]:
    answer = _guard(lambda: method(**{name: value for name, value in arguments.items() if value is not None}))
    if not isinstance(answer.data, Mapping):
        raise Undelivered(Trouble.UNCERTAIN, "unexpected answer: not JSON")
    return answer.data


def _guard(send: Callable[[], Any]) -> Any:
    try:
        return send()
    except SlackApiError as error:
        raise _from_answer(error) from error
    except HTTPError as error:
        raise _from_status(error.code, str(error.reason), error.headers) from error
    except URLError as error:
        raise _from_network(error.reason) from error
    except http.client.InvalidURL as error:
        # the error quotes the URL, and a webhook's URL is a secret
        raise Undelivered(Trouble.REFUSED, f"the URL is not valid: {type(error).__name__}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _from_network(error) from error
    except (SlackClientError, json.JSONDecodeError) as error:
        raise Undelivered(Trouble.UNCERTAIN, f"unexpected answer: {cut(shown(str(error)), 80)!r}") from error
    except ValueError as error:
        # the error quotes the wrong URL or token, which is a secret; nothing was sent
        raise Undelivered(Trouble.REFUSED, f"the URL or the token is not valid: {type(error).__name__}") from None


def _from_answer(error: SlackApiError) -> Undelivered:
    answer = error.response
    status, data = getattr(answer, "status_code", 200), getattr(answer, "data", answer)
    headers = getattr(answer, "headers", None) or {}
    if not isinstance(data, Mapping) or not _SLACK_WORD.fullmatch(str(data.get("error", ""))):
        if status == 200:
            return Undelivered(Trouble.UNCERTAIN, "unexpected answer: not Slack's JSON")
        return _from_status(status, "", headers)
    reason = str(data["error"])
    if status in (429, 503) or _TROUBLES.get(reason) is Trouble.RATE_LIMITED:
        return _from_status(429 if status != 503 else status, reason, headers)
    if status >= 500:
        return Undelivered(Trouble.UNCERTAIN, reason)
    return Undelivered(_TROUBLES.get(reason, Trouble.REFUSED), reason)


def _from_status(status: int, reason: str, headers: Mapping[str, str] | Any) -> Undelivered:
    words = cut(shown(reason.strip()), 80) if reason and not reason.lstrip().startswith("<") else ""
    words = words or f"HTTP {status}"
    if status == 429:
        return Undelivered(Trouble.RATE_LIMITED, words, _retry_after(headers))
    if status >= 500:
        return Undelivered(Trouble.UNCERTAIN, words)
    known = _TROUBLES.get(reason.strip())
    if known is None and status in (401, 403, 404, 410):
        known = Trouble.AUTH
    return Undelivered(known or Trouble.REFUSED, words)


def _from_network(reason: object) -> Undelivered:
    # Without a connection Slack took nothing. After a later error it may have taken the message.
    never = isinstance(reason, (ConnectionRefusedError, socket.gaierror))
    words = cut(shown(str(reason)), 80) or type(reason).__name__
    return Undelivered(Trouble.UNAVAILABLE if never else Trouble.UNCERTAIN, words)


def _retry_after(headers: Mapping[str, str] | Any) -> float:
    for name, value in dict(headers or {}).items():
        if name.lower() != "retry-after":
            continue
        try:
            return max(float(Retry().parse_retry_after(value[0] if isinstance(value, list) else value)), 1.0)
        except (InvalidHeader, OverflowError, ValueError):
            break
    return _DEFAULT_RETRY_AFTER
