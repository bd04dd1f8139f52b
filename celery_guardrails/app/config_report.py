"""Hides the secrets of our settings where Celery shows its configuration: `celery report`, `celery inspect conf`.

Owns the wrapper around Celery's `Settings.table`, which both commands use. It masks the secrets and the unknown keys of
the dict `guardrails`. What the application itself reads from its configuration does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from celery.app.utils import Settings as CelerySettings

from celery_guardrails.seams import REPORTS, holds

__all__ = ["hide_settings", "shown_settings"]

_HIDING = "guardrails_hiding"
_SECRETS = frozenset(
    ("slack.token", "slack.webhook_url", "slack.proxy", "store.url", "alerts.routes", "alerts.fallback",
     "alerts.heartbeat_url")
)  # fmt: skip
"""Keys whose values are secrets, or may hold one."""


def hide_settings() -> None:
    """Make Celery hide the secrets of our settings in this process. A second call changes nothing."""
    table: Callable[..., dict[str, Any]] | None = getattr(CelerySettings, "table", None)
    if table is not None and holds(REPORTS) and not hasattr(table, _HIDING):
        CelerySettings.table = _hide_in(table)


def _hide_in(table: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @wraps(table)
    def censored_table(self: Any, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        found = table(self, with_defaults, censored)
        return (
            {key: shown_settings(value) if _is_ours(key) else value for key, value in found.items()}
            if censored
            else found
        )

    setattr(censored_table, _HIDING, True)
    return censored_table


def _is_ours(key: Any) -> bool:
    """Whether a configuration key names our dict: `guardrails`, `CELERY_GUARDRAILS` or another prefix."""
    return isinstance(key, str) and f"_{key.lower()}".endswith("_guardrails")


def shown_settings(raw: Any) -> Any:
    """A copy of the dict `guardrails` of a configuration, as people may see it.

    Args:
        raw: the dict as the application wrote it, right or wrong.
    """
    from celery_guardrails.redaction import MASK, Redactor  # here: every command of Celery imports this module
    from celery_guardrails.settings import Settings, sections

    redactor, known = Redactor(), sections()

    def shown(key: str, value: Any, below: Mapping[str, Any]) -> Any:
        if key in _SECRETS:
            return None if value is None else MASK
        fields = _fields(value)
        if not below or fields is None:
            return redactor.mask(value, key.rpartition(".")[2]) if not below else MASK
        return {str(name): shown(f"{key}.{name}", item, {}) if name in below else MASK for name, item in fields.items()}

    fields = _fields(raw)
    if fields is None:
        return MASK
    return {
        str(name): shown(str(name), value, known.get(name, {})) if name in Settings.model_fields else MASK
        for name, value in fields.items()
    }


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The fields of a section, which is a dict or one of our models; `None`: it is neither."""
    if isinstance(value, Mapping):
        return value
    named = getattr(type(value), "model_fields", None)
    return None if named is None else {name: getattr(value, name) for name in named}
