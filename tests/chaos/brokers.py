"""The brokers of the chaos suite: a server with what the suite asks of it beyond starting and stopping.

Owns how connections are cut and what still lies in a broker at the end. It reads whole databases and virtual hosts,
not the queues that it knows of, so that nothing can lie where nobody looks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import ClassVar

import redis

from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer
from tests.waiting import wait_until

__all__ = ["BROKERS", "ChaosBroker", "OnRabbitMQ", "OnRedis"]


class ChaosBroker:
    """A broker under attack.

    Attributes:
        name: as `--broker` has it.
        restarts: how many restarts in a hundred faults it is worth: RabbitMQ needs seconds for each.
    """

    name: ClassVar[str]
    restarts: ClassVar[int]

    def __init__(self, server: RedisServer | RabbitMQServer) -> None:
        self.server = server
        self.url = server.fresh_url()

    def variables(self) -> dict[str, str]:
        """What the application's environment needs."""
        raise NotImplementedError

    def cut_connections(self) -> int:
        """Close every client's connection; returns how many there were, if it is known, else -1."""
        raise NotImplementedError

    def messages(self) -> Mapping[str, int]:
        """How many messages lie where: ready, unacknowledged and waiting. Places that are empty are left out."""
        raise NotImplementedError


def _may_hold(name: str) -> bool:
    """Whether work may lie there: not in kombu's bindings, answers to remote control, marks of what runs, figures."""
    return not (name.startswith("_kombu.") or name.endswith((".pidbox", ".figures")) or ".started." in name)


class OnRedis(ChaosBroker):
    """Redis with an append-only file, a result backend on the same server, and a visibility timeout of 5 seconds."""

    name = "redis"
    restarts = 14
    visibility = 5

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self._backend = server.fresh_url()

    def variables(self) -> dict[str, str]:
        options = {"visibility_timeout": self.visibility}
        return {
            "CHAOS_BROKER": self.url,
            "CHAOS_BACKEND": self._backend,
            "CHAOS_TRANSPORT_OPTIONS": json.dumps(options),
        }

    def cut_connections(self) -> int:
        with self._client() as client:
            cut = [client.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")]
        return sum(cut)

    def messages(self) -> Mapping[str, int]:
        with self._client() as client:
            keys = [key for key in client.scan_iter(count=1000) if _may_hold(key.decode())]
            sizes = {key.decode(): _size(client, key) for key in keys}
        return {key: size for key, size in sizes.items() if size}

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=10)


def _size(client: redis.Redis, key: bytes) -> int:
    """How many messages a key may hold."""
    kind = client.type(key)
    sizes: dict[bytes, Callable[[], int]] = {
        b"list": lambda: client.llen(key),
        b"zset": lambda: client.zcard(key),
        b"hash": lambda: client.hlen(key),
        b"stream": lambda: client.xlen(key),
    }
    return sizes[kind]() if kind in sizes else 0


class OnRabbitMQ(ChaosBroker):
    """RabbitMQ with quorum or classic queues; publishes are confirmed, results are not kept."""

    restarts = 4
    queues: ClassVar[str]

    def variables(self) -> dict[str, str]:
        return {
            "CHAOS_BROKER": self.url,
            "CHAOS_QUEUES": self.queues,
            "CHAOS_TRANSPORT_OPTIONS": json.dumps({"confirm_publish": True}),
        }

    def cut_connections(self) -> int:
        assert isinstance(self.server, RabbitMQServer)
        self.server.close_all_connections()
        return -1

    def _control(self, *arguments: str) -> str:
        """Ask the node until it answers: one that has just come back may not know its queues yet."""
        server, said = self.server, list[str]()
        assert isinstance(server, RabbitMQServer)

        def answered() -> bool:
            try:
                said.append(server.control(*arguments))
            except (AssertionError, subprocess.TimeoutExpired) as exc:
                sys.stderr.write(f"{exc}\n")
            return bool(said)

        wait_until(answered, 120, f"an answer to {arguments}")
        return said[0]

    def messages(self) -> Mapping[str, int]:
        vhost = self.url.rpartition("/")[2]
        # `messages` is more than ready and unacknowledged: a level still has what it could not hand on yet
        columns = ("name", "messages")
        listed = self._control("-q", "list_queues", "-p", vhost, "--formatter", "json", *columns)
        queues = json.loads(listed[listed.index("[") :])
        sizes = {row["name"]: row["messages"] or 0 for row in queues}
        return {name: size for name, size in sizes.items() if size and _may_hold(name)}


class OnQuorum(OnRabbitMQ):
    """RabbitMQ with quorum queues."""

    name = "rabbitmq-quorum"
    queues = "quorum"


class OnClassic(OnRabbitMQ):
    """RabbitMQ with durable classic queues."""

    name = "rabbitmq-classic"
    queues = "classic"


BROKERS: Mapping[str, tuple[type[RedisServer] | type[RabbitMQServer], Callable[..., ChaosBroker]]] = {
    "redis": (RedisServer, OnRedis),
    "rabbitmq-quorum": (RabbitMQServer, OnQuorum),
    "rabbitmq-classic": (RabbitMQServer, OnClassic),
}
"""By name: the server, and the broker on it."""
