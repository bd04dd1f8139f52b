"""Redis as a broker that loses nothing: taking without holding, keeping what runs, giving back what a death left.

    list of the queue ── take (one script) ──> unacked + unacked_index ── ack ──> gone
         ^                                          │  lease: the score is refreshed while the worker lives
         └────────── restore (one script) ──────────┘  once the score is older than the visibility timeout

Owns kombu's keys and formats on Redis, so that plain workers can share a queue with guarded ones. redis-py is an
extra: `channel.py`, `qos.py` and `connection.py` are imported only where the broker is Redis.
"""

from __future__ import annotations

__all__: list[str] = []
