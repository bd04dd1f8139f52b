"""What surrounds the shop in the demo: a directory, an environment for its processes, what the outside has received.

It must not know the story that is played.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

from kombu import Connection, Exchange, Queue
from kombu.utils.url import maybe_sanitize_url

from celery_guardrails.transport.figures import declared_figures_queue

__all__ = ["ROOT", "World"]

_CONNECT_WITHIN = 5

ROOT = Path(__file__).resolve().parent.parent
"""Where `celery -A example_project.shop` is run."""


class World:
    """A directory of its own under the system's temporary one, and a queue that nobody else uses.

    Args:
        environ: the demo's own environment; `BROKER_URL` is the broker, else a SQLite file.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="shop-demo-"))
        self.mail = self.directory / "mail"
        self.mail.mkdir()
        self.queue = f"shop-demo-{uuid.uuid4().hex[:8]}"
        self._reached = False
        given = environ.get("BROKER_URL", "")
        self.broker_url = given or f"sqla+sqlite:///{self.directory}/broker.sqlite3"
        if not given:
            _prepare_sqlite(self.directory / "broker.sqlite3")
        self.environ = {name: value for name, value in environ.items() if not _interferes(name)}
        self.environ |= {
            "BROKER_URL": self.broker_url,
            "SHOP_QUEUE": self.queue,
            "GUARDRAILS_STORE_URL": f"sqlite:///{self.directory}/guardrails.sqlite3",
            "GUARDRAILS_DEAD_LETTER_SPOOL_DIR": str(self.directory / "spool"),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def reports(self) -> str:
        """The queue of the sales report, as the shop's settings name it."""
        return f"{self.queue}.reports"

    @property
    def broker(self) -> str:
        """The broker as it may be shown."""
        return str(maybe_sanitize_url(self.broker_url))

    @property
    def on_sqlite(self) -> bool:
        """Whether the broker is a SQLite file."""
        return self.broker_url.startswith("sqla+sqlite:")

    def calls(self) -> list[dict[str, Any]]:
        """The connections that the mail server has had."""
        return _lines(self.mail / "calls.jsonl")

    def mailbox(self) -> list[dict[str, Any]]:
        """The letters that the mail server has accepted."""
        return _lines(self.mail / "mailbox.jsonl")

    def set_mail_mode(self, mode: str) -> str:
        """Let the mail server work (`ok`) or not (`time out`); returns the command that does the same."""
        (self.mail / "mode").write_text(mode + "\n")
        word = mode if mode.isalnum() else f'"{mode}"'
        return f"echo {word} > {self.mail / 'mode'}"

    def reach_broker(self) -> None:
        """Find out at once whether the broker answers.

        Raises:
            ConnectionError: it does not.
        """
        try:
            with Connection(self.broker_url, connect_timeout=_CONNECT_WITHIN) as connection:
                connection.ensure_connection(max_retries=1, timeout=_CONNECT_WITHIN)
        except Exception as error:  # kombu, its transports and their drivers raise anything
            raise ConnectionError(f"the broker {self.broker} cannot be reached: {error}") from error
        self._reached = True

    def remove_queues(self) -> None:
        """Leave the broker as it was found: take the demo's queues off it."""
        if self.on_sqlite or not self._reached:
            return
        exchange = Exchange(self.queue, type="direct")
        letters = f"{self.queue}.dead_letter"
        queues = [Queue(self.queue, exchange, routing_key=self.queue), Queue(letters), Queue(f"{letters}.recovered")]
        queues.append(declared_figures_queue(letters))
        queues.append(Queue(self.reports, Exchange(self.reports, type="direct"), routing_key=self.reports))
        with (
            Connection(self.broker_url, connect_timeout=_CONNECT_WITHIN) as connection,
            connection.channel() as channel,
        ):
            for queue in queues:
                bound = queue.bind(channel)
                # kombu takes the bindings off Redis only when it has declared them in this process
                bound.declare()
                bound.delete()
            for used in (exchange, Exchange(self.reports, type="direct")):
                used.bind(channel).delete()

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _interferes(name: str) -> bool:
    # Everything is on this machine, so no proxy; and the settings of another application are not meant for the shop.
    upper = name.upper()
    return upper.endswith("_PROXY") or upper.startswith(("GUARDRAILS_", "SHOP_", "CELERY_")) or upper == "SENTRY_DSN"


def _prepare_sqlite(path: Path) -> None:
    # With the write-ahead log, which stays set in the file, who reads does not wait for who writes.
    with closing(connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON lines file that may be growing."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]
