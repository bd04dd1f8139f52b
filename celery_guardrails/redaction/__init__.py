"""Hiding secrets in what people see: by the name of a value, and by the form of a value.

Owns what counts as a secret, in values (`Redactor.mask`) and in text (`Redactor.text`). It must not know where the
result is shown. The payload that is replayed never comes here: it stays whole.
"""

from celery_guardrails.redaction.name import DENIED_NAMES, is_denied
from celery_guardrails.redaction.process import hide_also, shown
from celery_guardrails.redaction.redactor import MASK, Redactor
from celery_guardrails.redaction.work import Work

__all__ = ["DENIED_NAMES", "MASK", "Redactor", "Work", "hide_also", "is_denied", "shown"]
