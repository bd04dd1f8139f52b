"""`make brokers`: a Redis and a RabbitMQ to try a change on by hand, on free ports, gone with Ctrl-C.

`python -m tests.brokers redis` starts only that one. It prints the line that makes the example's shop and `tests/apps`
use each. A server that is not installed is named with the command that installs it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer, Server, ServerMissing

__all__ = ["main"]

KINDS: dict[str, type[Server]] = {"redis": RedisServer, "rabbitmq": RabbitMQServer}


def main(arguments: Sequence[str]) -> int:
    """Run them until Ctrl-C or SIGTERM; returns 1 when none of them is installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help=f"default: {' and '.join(KINDS)}")
    names = parser.parse_args(arguments).name or list(KINDS)
    if unknown := set(names) - set(KINDS):
        parser.error(f"there is no broker {', '.join(sorted(unknown))}: choose among {', '.join(KINDS)}")
    ends = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ends.set())
    servers: list[Server] = []
    try:
        for name in names:
            try:
                server = KINDS[name]()
            except ServerMissing as missing:
                _say(str(missing))
                continue
            servers.append(server)
            server.start()
            _say(f"{name:<9} export BROKER_URL={server.url}")
        if servers:
            _say("Ctrl-C ends them.")
            ends.wait()
    finally:
        for server in servers:
            server.close()
    return 0 if servers else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
