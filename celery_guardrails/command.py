"""Commands that people copy into a shell, the words in them, and the query terms in these words.

Owns quoting for the shell and for the query language: whatever a text contains, a command that guardrails prints does
what it says and nothing else. It must not know which commands there are.
"""

from __future__ import annotations

import re
import shlex

from celery_guardrails.printable import one_line

__all__ = ["celery_command", "query_term", "shell_quote"]

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:-]+")
_KEPT = frozenset("/.,:;=+-_#%()[]{}<>?^~| ")
"""What needs no escape in a quoted value, beside letters and digits: no quotes of a shell or a chat."""


def shell_quote(word: str) -> str:
    """The word as a shell reads it back: one word, with nothing in it that the shell would act on.

    What is not printable is written as escapes in `$'...'`, which bash, zsh, ksh and POSIX shells of 2024 read.
    """
    if one_line(word) == word:
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def query_term(field: str, value: str) -> str:
    """`field:value` as the query language reads it back, exactly this value and no pattern."""
    if _PLAIN_VALUE.fullmatch(value):
        return f"{field}:{value}"
    pieces = [_spelled(char) for char in value]
    for number, char in enumerate(value):
        if char == " " and (number in (0, len(value) - 1) or value[number - 1] == " "):
            pieces[number] = "\\u0020"  # blanks that a display may swallow
    return f'{field}:"{"".join(pieces)}"'


def celery_command(app: str, command: str, *words: str, tail: str = "") -> str:
    """A command as a person types it: `celery -A shop guardrails dlq show ID`.

    Args:
        app: what follows `-A`, quoted already (`app/command_name.py`); a `--workdir` may be in it.
        command: the sub-commands, such as `guardrails dlq show`; not quoted.
        words: arguments; each is quoted.
        tail: what follows, such as `--reason "..."`; not quoted.
    """
    return " ".join(["celery -A", app, command, *map(shell_quote, words), *([tail] if tail else [])])


def _spelled(char: str) -> str:
    if char.isprintable() and (char.isalnum() or char in _KEPT):
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _escaped(char: str) -> str:
    if char in "'\\":
        return f"\\{char}"
    if char.isprintable() and char != " ":
        return char
    return "".join(
        f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape" if _is_byte(char) else "surrogatepass")
    )


def _is_byte(char: str) -> bool:
    """Whether a lone surrogate stands for a byte of an argument that is not UTF-8."""
    return 0xDC80 <= ord(char) <= 0xDCFF
