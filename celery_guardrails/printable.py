"""Makes foreign text harmless where people see it: on a terminal, in a log, in an alert.

Everybody who can publish chooses error types, messages, ids, and the names of tasks, queues and workers. In them, an
escape sequence can steer a terminal, a line break can forge a line of the log, a bidirectional override can show
another text. Pure; it must not know where a text is shown.
"""

from __future__ import annotations

__all__ = ["lines", "one_line", "same_length", "text_of"]


def one_line(text: str) -> str:
    """The text on one line, without repeated blanks and without a character that is not printable.

    Not printable are control characters (C0, C1, escapes), Unicode's format characters (overrides of the direction,
    invisible joiners), lone surrogates, private and unassigned characters.
    """
    if text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(same_length(text).split())


def lines(text: str) -> str:
    """The text with its own line breaks, each line without a character that is not printable; blanks are kept."""
    return "\n".join(same_length(line) for line in text.split("\n"))


def same_length(text: str) -> str:
    """The text with a blank for each character that is not printable."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def text_of(value: object) -> str:
    """The text of any value; never raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 somebody else's __str__
        return f"<a {type(value).__name__} whose text cannot be shown>"
