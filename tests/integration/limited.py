"""A RabbitMQ user with few rights, and what an administrator declares for it."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import Broker

__all__ = ["Limited"]


class Limited:
    """A user `app-VHOST` on a test's own virtual host; `url` is the broker as this user sees it.

    Args:
        broker: the test's own, on RabbitMQ.
        configure, write, read: its rights.
    """

    def __init__(self, broker: Broker, configure: str = "", write: str = ".*", read: str = ".*") -> None:
        self.server = broker.server
        self.vhost = urlsplit(broker.url).path[1:]
        self.user = f"app-{self.vhost}"
        self.url = broker.url.replace("guest:guest@", f"{self.user}:secret@")
        self.server.allow(self.user, self.vhost, configure, write, read, "secret")

    def allow(self, configure: str, write: str, read: str) -> None:
        self.server.allow(self.user, self.vhost, configure, write, read)

    def declare(self, definitions: str, folder: Path) -> None:
        """What an administrator does with the output of `topology --definitions`."""
        json.loads(definitions)
        file = folder / "topology.json"
        file.write_text(definitions)
        file.chmod(0o644)
        folder.chmod(0o755)
        self.server.control("import_definitions", str(file))
