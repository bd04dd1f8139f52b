"""The eight characters by which people know an alert, from a letter: workers put them on Sentry's events.

The guardian groups letters by the same key (`alerts/event.py`); a test holds that both agree. It must not know how long
a key may be in the archive: for a name that does not fit, a worker knows no alert.
"""
# on its own: a worker must not import the alerts, which need the archive

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import quote

from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import Reason

__all__ = ["alert_name"]

_UNKNOWN = "!unknown"
_LONGEST = 400


def alert_name(letter: Letter, group_by: Sequence[str] = ("task",)) -> str | None:
    """The id of the alert that counts this letter; `None`: its names are too long or odd to say.

    Args:
        letter: the letter.
        group_by: the setting `alerts.group_by`.
    """
    parts = [letter.environment, letter.task]
    if "error" in group_by:
        parts.append(letter.failure.fingerprint)
    quoted = [quote(part, safe=".:", errors="replace") for part in parts]
    if letter.reason is Reason.UNKNOWN_TASK:
        quoted[1:] = [_UNKNOWN]
    key = "/".join(quoted)
    if len(key) > _LONGEST or not all(part.isprintable() for part in parts):
        return None
    return sha256(key.encode()).hexdigest()[:8]
