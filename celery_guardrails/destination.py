"""Where an alert goes, as a setting writes it: `#payments`, `log`, `sentry`, an apprise URL, or the path of a class.

Owns `Destination`, and how a text becomes one. An apprise URL is a secret as a whole, so only its scheme is ever shown.
It must not know any sink, nor whether a sink can be made: the guardian and `check` find that out.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from pydantic import SecretStr

from celery_guardrails.errors import nearest
from celery_guardrails.policy.faults import HIDDEN
from celery_guardrails.policy.field import problem

__all__ = ["Destination", "Means", "read_destination"]

_CHANNEL = re.compile(r"#[^\s#@<>&]{1,80}|[CGD][A-Z0-9]{7,20}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://\S+")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_WORDS = ("slack", "log", "sentry")
_WRITE = 'write "#channel", the id of a channel, "slack", "log", "sentry", an apprise URL, or "package.module.Class"'
_ROUNDS = 10_000


class Means(str, Enum):
    """Which sink a destination needs."""

    SLACK = "slack"
    LOG = "log"
    SENTRY = "sentry"
    APPRISE = "apprise"
    OWN = "own"


@dataclass(frozen=True)
class Destination:
    """One place where alerts go. `text` is what the setting says, and may be a secret; `name` may be shown.

    Args:
        means: which sink it needs.
        text: a channel, empty for the sink's own; a URL; the dotted path of a class.
    """

    means: Means
    text: SecretStr = field(default_factory=lambda: SecretStr(""))

    @property
    def channel(self) -> str | None:
        """The channel of Slack; `None`: the one that `slack.channel` names."""
        return self.text.get_secret_value() or None if self.means is Means.SLACK else None

    @cached_property
    def name(self) -> str:
        """What people may see, the same in each process and another one for each destination: `apprise json 1a2b3c`."""
        text = self.text.get_secret_value()
        if self.means is Means.APPRISE:
            return f"apprise {text.partition('://')[0].lower()} {_told_apart(text)}"
        return text or self.means.value

    def __repr__(self) -> str:
        return f"<{self.name}>"


def read_destination(value: Any) -> Destination:
    """Read a destination as a user writes it.

    Raises:
        PydanticCustomError: it is none; a text that may be a URL is not quoted.
    """
    if isinstance(value, Destination):
        return value
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise problem(HIDDEN, f"is of type {type(value).__name__}, not text", _WRITE)
    text = text.strip()
    if text in _WORDS:
        return Destination(Means(text))
    for pattern, means in ((_CHANNEL, Means.SLACK), (_URL, Means.APPRISE), (_CLASS, Means.OWN)):
        if pattern.fullmatch(text):
            return Destination(means, SecretStr(text))
    near = nearest(text, _WORDS)
    hint = f"did you mean {near!r}?" if near else _WRITE
    raise problem(HIDDEN if ":" in text or "/" in text else text, "is no place where alerts can go", hint)


def _told_apart(secret: str) -> str:
    """Six digits that tell two URLs apart. They are slow to compute and too few to confirm a guess of a password."""
    return hashlib.pbkdf2_hmac("sha256", secret.encode("utf-8", "replace"), b"celery_guardrails", _ROUNDS).hex()[:6]
