"""What Celery itself shows of our settings, in `celery report` and `celery inspect conf`: no secret.

Owns the step into `Settings.table` of Celery, from which both are made, and what of the dict `guardrails` is shown:
the keys that are known, and of those what is no secret. What an application reads in its configuration stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from celery.app.utils import Settings as CelerySettings

from celery_guardrails.seams import REPORTS, holds

__all__ = ["hide_settings", "shown_settings"]

_HIDING = "guardrails_hiding"
_SECRETS = frozenset(("slack.token", "slack.webhook_url", "slack.proxy", "store.url"))
"""Keys whose values are secrets, or may hold one."""


def hide_settings() -> None:
    """Have Celery hide the secrets of our settings in this process; doing it again changes nothing."""
    table: Callable[..., dict[str, Any]] | None = getattr(CelerySettings, "table", None)
    if table is not None and holds(REPORTS) and not hasattr(table, _HIDING):
        CelerySettings.table = _hiding(table)


def _hiding(table: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @wraps(table)
    def hiding(self: Any, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        found = table(self, with_defaults, censored)
        return (
            {key: shown_settings(value) if _is_ours(key) else value for key, value in found.items()}
            if censored
            else found
        )

    setattr(hiding, _HIDING, True)
    return hiding


def _is_ours(key: Any) -> bool:
    """Whether a name in the configuration is that of our dict: `guardrails`, `CELERY_GUARDRAILS` or another prefix."""
    return isinstance(key, str) and f"_{key.lower()}".endswith("_guardrails")


def shown_settings(raw: Any) -> Any:
    """The dict `guardrails` of a configuration as people may see it: a copy.

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
    """What a section consists of, a dict or one of our own; `None`: it is neither."""
    if isinstance(value, Mapping):
        return value
    named = getattr(type(value), "model_fields", None)
    return None if named is None else {name: getattr(value, name) for name in named}
