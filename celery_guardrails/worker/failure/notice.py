"""What the log says of a dead letter: why it is dead, and the error with its message, each once."""
# on its own: it owns the words of one log line, outcome.py what is done

from __future__ import annotations

import logging

from celery_guardrails.letters.record import Letter

__all__ = ["log_death"]

logger = logging.getLogger("celery_guardrails.worker")

_MESSAGE = 300


def log_death(letter: Letter) -> None:
    """Log that a task is dead-lettered."""
    logger.warning("%s[%s] is dead-lettered as %s: %s", letter.task, letter.task_id, letter.reason.shown, _why(letter))


def _why(letter: Letter) -> str:
    text, error = letter.explanation, letter.failure.type
    message = " ".join(letter.failure.message.split())[:_MESSAGE]
    if not message or message in text:
        return text if error in text else f"{text} ({error})"
    if text.endswith(error):  # "..., the last with TimeoutError"
        return f"{text}: {message}"
    return f"{text} ({message})" if error in text else f"{text} ({error}: {message})"
