"""How much memory a guardian needs, after so many letters: `python -m bench.memory [LETTERS ...]`, about ten minutes.

A real guardian on a private Redis, with an SQLite archive. Letters are published while it archives, 2,000 at once at
most.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from celery import Celery

from bench.guarded import QUEUE
from bench.keeping_up import guardian, letters_in
from bench.letter import letter
from celery_guardrails.letters.codec import encode
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from tests.servers import RedisServer

__all__ = ["measure"]

SIZES = (20_000, 100_000, 200_000)
_AT_ONCE = 2_000


def measure(url: str, archive: Store, sizes: Sequence[int]) -> list[tuple[int, float]]:
    """The guardian's resident memory in MiB, each time that the archive holds so many letters.

    Args:
        url: the broker's URL.
        archive: an empty archive.
        sizes: so many letters, ascending.
    """
    app = Celery("bench-memory", broker=url, set_as_current=False)
    publisher, queue = Publisher(app), declared_queue(QUEUE)
    found, published = [], 0
    with guardian(url, archive.engine.url.render_as_string(hide_password=False)) as process:
        found.append((0, process.resident))
        for size in sizes:
            while published < size:
                for number in range(published, min(size, published + _AT_ONCE)):
                    publisher.publish(Envelope(encode(letter(number)), QUEUE, content_type="application/json"), [queue])
                published = min(size, published + _AT_ONCE)
                behind = published - _AT_ONCE // 2
                process.until(lambda behind=behind: letters_in(archive) >= behind)
            process.until(lambda size=size: letters_in(archive) >= size)
            found.append((size, process.resident))
            print(f"{size:,} letters: {found[-1][1]:.1f} MiB", flush=True)
    publisher.close()
    return found


def main() -> int:
    """Measure and print."""
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    server = RedisServer()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = open_store(f"sqlite:///{Path(folder) / 'archive.sqlite3'}").ready()
            found = measure(server.fresh_url(), archive, sizes)
            archive.close()
    finally:
        server.close()
    for size, resident in found:
        print(f"{size:>9,} letters  {resident:6.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
