"""Words and limits for alerts: escaping, cutting, plurals, instants as people read them.

Pure text; it must not know groups, sinks or Slack's API beyond its markup and its limits.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

from celery_guardrails.printable import one_line

__all__ = ["code", "count_of", "cut", "escape", "one_line", "since", "unmentioned", "when"]

_MENTION = re.compile(r"([@!])(?=channel|here|everyone|subteam|group)", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def cut(text: str, limit: int) -> str:
    """The text, or as much of it as fits in `limit` characters with an ellipsis at the end."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…" * min(limit, 1)


def unmentioned(text: str) -> str:
    """The text with `@channel`, `@everyone`, `<!here>` and their like broken, so that no chat calls everybody."""
    return _MENTION.sub(rf"\1{_WORD_JOINER}", text)


def escape(text: str, limit: int = 3000) -> str:
    """Text that Slack shows as it is: `& < >` escaped, `@channel` and its like broken, at most `limit` characters.

    The limit counts the escaped text, and an entity is never cut in half.
    """
    text = unmentioned(one_line(text))
    pieces = [{"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(char, char) for char in text]
    if sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    kept, room = [], limit - 1
    for piece in pieces:
        if len(piece) > room:
            break
        kept.append(piece)
        room -= len(piece)
    return "".join(kept) + "…" * min(limit, 1)


def code(text: str, limit: int = 200) -> str:
    """The text in a code span, escaped, with the backticks that would end the span replaced."""
    return f"`{escape(text.replace('`', chr(39)), max(limit - 2, 1)) or ' '}`"


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """`1 dead letter`, `1,204 dead letters`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def when(instant: datetime | None) -> str:
    """`2026-03-01 14:02:05 UTC`, or `unknown`."""
    return instant.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC") if instant else "unknown"


def since(instant: datetime | None, now: datetime) -> str:
    """As `when`, but only `14:02 UTC` for an instant on the same day as `now`."""
    if instant is None or instant.astimezone(timezone.utc).date() != now.astimezone(timezone.utc).date():
        return when(instant)
    return instant.astimezone(timezone.utc).strftime("%H:%M UTC")
