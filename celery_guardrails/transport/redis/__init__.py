"""Redis as a broker that loses no message: taking by script, keeping what runs, giving back what a dead worker held.

    list of the queue ── take (one script) ──> unacked + unacked_index ── ack ──> gone
         ^                                          │  lease: the score is refreshed while the worker lives
         └────────── restore (one script) ──────────┘  once the score is older than the visibility timeout

Uses kombu's own keys and formats, so that plain workers can share a queue with guarded workers. redis-py is an
extra: `channel.py`, `qos.py` and `connection.py` are imported only where the broker is Redis.
"""

from __future__ import annotations

__all__: list[str] = []
