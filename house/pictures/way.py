"""The way of a message, from the producer to its end and back by a person's hand: `python -m house.pictures.way`."""

from __future__ import annotations

import sys
from pathlib import Path

from house.pictures.canvas import Canvas

__all__ = ["PICTURE", "drawn"]

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "way.svg"

_W, _H = 180, 62
_X = (24, 254, 484, 714)
_Y = (56, 186, 316, 446)
_BOXES = (  # column, row, what it is, where it is, edge
    (0, 0, "Producer", "your web application", "edge"),
    (1, 0, "Queue", "in the broker", "edge"),
    (2, 0, "Worker", "runs the task", "edge"),
    (3, 0, "Succeeded", "message acknowledged", "good-edge"),
    (1, 1, "Waits", "in the broker", "edge"),
    (2, 1, "Decision", "policy, error, history, time", "edge"),
    (2, 2, "Dead-letter queue", "in the broker", "bad-edge"),
    (3, 2, "Spool", "on the worker's disk", "edge"),
    (0, 3, "A person", "looks, mends, decides", "edge"),
    (1, 3, "Archive", "SQLite or PostgreSQL", "edge"),
    (2, 3, "Guardian", "archives, alerts, confirms", "edge"),
    (3, 3, "Slack", "one message a problem", "edge"),
)


def drawn() -> str:
    """The picture."""
    canvas = Canvas(918, _TITLE, 540)
    for column, row, what, where, edge in _BOXES:
        x, y = _X[column], _Y[row]
        canvas.box(x, y, _W, _H, "chip", edge)
        canvas.text(x + _W / 2, y + 27, what, bold=True, size=15, anchor="middle")
        canvas.text(x + _W / 2, y + 47, where, "pale", 12, anchor="middle")
    _arrows(canvas)
    return canvas.svg()


def _arrows(canvas: Canvas) -> None:
    middle = _H / 2
    right = [x + _W for x in _X]
    centre = [x + _W / 2 for x in _X]
    below = [y + _H for y in _Y]
    first, second, third, last = (y + middle for y in _Y)
    canvas.arrow((right[0], first), (_X[1], first))
    canvas.text(229, first - 9, "publish", "pale", 12, anchor="middle")
    canvas.arrow((right[1], first), (_X[2], first))
    canvas.arrow((right[2], first), (_X[3], first), edge="good-edge")
    canvas.text(689, first - 9, "success", "good", 12, anchor="middle")
    canvas.arrow((centre[2], below[0]), (centre[2], _Y[1]), edge="bad-edge")
    canvas.text(centre[2] + 9, 157, "failure", "bad", 12)
    canvas.arrow((_X[2], second), (right[1], second))
    canvas.text(459, second - 9, "retry", "pale", 12, anchor="middle")
    canvas.arrow((centre[1] + 40, _Y[1]), (centre[1] + 40, below[0]))
    canvas.text(centre[1] + 49, 157, "when due", "pale", 12)
    canvas.arrow((centre[2], below[1]), (centre[2], _Y[2]), edge="bad-edge")
    canvas.text(centre[2] - 9, 287, "dead letter, confirmed", "bad", 12, anchor="end")
    canvas.arrow((right[2], second), (centre[3], second), (centre[3], _Y[2]))
    canvas.text(right[2] + 12, second - 9, "the broker is away", "pale", 12)
    canvas.arrow((_X[3], third), (right[2], third))
    canvas.text(689, third - 9, "later", "pale", 12, anchor="middle")
    canvas.arrow((centre[2], below[2]), (centre[2], _Y[3]))
    canvas.arrow((_X[2], last), (right[1], last))
    canvas.arrow((right[2], last), (_X[3], last))
    canvas.arrow((_X[1], last), (right[0], last))
    canvas.arrow(
        (centre[0], _Y[3]), (centre[0], 152), (centre[1] - 40, 152), (centre[1] - 40, below[0]), edge="good-edge"
    )
    canvas.text(centre[0] + 9, 300, "requeue: once,", "good", 12)
    canvas.text(centre[0] + 9, 317, "with a name and a reason", "good", 12)
    canvas.text(24, 34, "The way of a message", bold=True, size=16)


_TITLE = (
    "The way of a message. The producer publishes it to a queue, a worker runs it. Success: it is acknowledged. "
    "Failure: a decision follows. A retry waits in the broker and goes back to the queue. A dead letter goes to the "
    "dead-letter queue, or to the spool while the broker is away. The guardian archives it and tells Slack. A person "
    "requeues it."
)


if __name__ == "__main__":
    PICTURE.write_text(drawn(), "utf-8")
    sys.exit(0)
