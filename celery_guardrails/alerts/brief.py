"""An alert's text where `render` fails on its group: it says that there is an alert, and where to look.

It must not read the group's figures: `render` has just failed on them.
"""
# on its own: it stands in for render.py, whose failure it must survive

from __future__ import annotations

from hashlib import sha256

from celery_guardrails.alerts.render import Rendered, Style
from celery_guardrails.command import celery_command
from celery_guardrails.text import cut, escape, one_line

__all__ = ["render_in_brief"]

_TASK, _ENVIRONMENT, _TEXT = 150, 40, 300


def render_in_brief(task: str, environment: str, style: Style) -> Rendered:
    """The message about a group that cannot be rendered, so that people notice the group all the same."""
    where = cut(one_line(environment), _ENVIRONMENT) or "no environment"
    name = cut(one_line(task), _TASK)
    look = f"see the guardian's log, and `{celery_command(style.app, 'guardrails dlq list')}`"
    words = f"{name}: dead letters ({where}). This alert cannot be shown in full: {look}"
    block = {"type": "section", "text": {"type": "mrkdwn", "text": escape(words, 2 * _TEXT)}}
    return Rendered(escape(words, _TEXT), (block,), words, sha256(words.encode()).hexdigest())
