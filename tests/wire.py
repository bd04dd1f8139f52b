"""Questions and answers between two test processes: JSON, one value a line, over a socket.

A question has a number, and its answer the same. Whoever was interrupted while waiting, by a test's timeout say, leaves
an answer behind, which must not be taken for the answer to the next question.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Wire"]


class Wire:
    """One end. The socket may be closed afterwards: the wire keeps it open."""

    def __init__(self, end: socket.socket) -> None:
        # not one stream for both: what it has read ahead goes with the next write
        self._reader = end.makefile("r", encoding="utf-8")
        self._writer = end.makefile("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._number = itertools.count(1)

    def ask(self, question: Any) -> Any:
        """What the other end answers.

        Raises:
            EOFError: it is gone.
        """
        with self._lock:
            number = next(self._number)
            self._write([number, question])
            for line in iter(self._reader.readline, ""):
                answered, answer = json.loads(line)
                if answered == number:
                    return answer
        raise EOFError("the other end is gone")

    def serve(self, answer: Callable[[Any], Any]) -> None:
        """Answer questions until the other end is gone."""
        for line in iter(self._reader.readline, ""):
            number, question = json.loads(line)
            self._write([number, answer(question)])

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
        self._reader.close()

    def _write(self, what: Any) -> None:
        self._writer.write(json.dumps(what) + "\n")
        self._writer.flush()
