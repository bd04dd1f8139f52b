"""A private RabbitMQ node for the tests, with an epmd of its own.

Owns what RabbitMQ needs beyond any server: the node's environment, epmd, the pid file, and virtual hosts by the dozen.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import amqp

from tests.port import reserve_port
from tests.reaper import reaper
from tests.servers import Server, find_program
from tests.waiting import wait_until

__all__ = ["RabbitMQServer"]

# Debian's /usr/sbin/rabbitmq-server goes through su, into a session of its own and another user's rights. The script
# behind it runs as whoever calls it, so it comes first; the one on PATH works too.
_SCRIPTS = ("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin", "/opt/rabbitmq/sbin")
_ON_DEBIAN = ("/usr/sbin", "/usr/local/sbin")
_EPMD = ("/usr/lib/erlang/erts-*/bin", "/usr/local/lib/erlang/erts-*/bin")
_VHOSTS_AT_ONCE = 10
_VHOSTS_KEPT = 10
"""Virtual hosts that were given out last, and may be in use; with each that is there the node starts more slowly."""

_CONFIGURATION = """\
listeners.tcp.default = 127.0.0.1:{port}
distribution.listener.interface = 127.0.0.1
log.console = true
log.console.level = info
log.file = false
disk_free_limit.absolute = 1MB
"""


# What a delay level could not hand on at once, because the next queue was not there, it tries again after this time;
# by itself after three minutes.
_IMPATIENT = "-rabbit dead_letter_worker_publisher_confirm_timeout 5000"


class RabbitMQServer(Server):
    """A private RabbitMQ node. `fresh_url` gives a virtual host that nobody has used."""

    name = "rabbitmq"
    start_bound = 120.0

    def __init__(self) -> None:
        self._program = find_program("rabbitmq-server", folders=_SCRIPTS + _ON_DEBIAN, install="rabbitmq-server")
        self._control = find_program("rabbitmqctl", folders=_SCRIPTS + _ON_DEBIAN, install="rabbitmq-server")
        self._epmd_program = find_program("epmd", folders=_EPMD, install="rabbitmq-server")
        super().__init__()
        self._distribution_port, self._epmd_port, self._control_port = reserve_port(), reserve_port(), reserve_port()
        self._one_control = threading.Lock()
        self._pid_file = self.directory / "rabbitmq.pid"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._vhosts: list[str] = []
        self._given: list[str] = []
        self._vhosts_made = 0
        self._lay_out()

    def _lay_out(self) -> None:
        (self.directory / "rabbitmq.conf").write_text(_CONFIGURATION.format(port=self.port))
        (self.directory / "enabled_plugins").write_text("[].\n")
        # where only the script that goes through su is there, the node runs as this user
        if os.getuid() == 0 and Path(self._program).parent.name == "sbin":
            try:
                user = pwd.getpwnam("rabbitmq")
            except KeyError:
                return
            for path in (self.directory, *self.directory.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)

    @property
    def url(self) -> str:
        """The default virtual host, which no test gets from `fresh_url`."""
        return f"amqp://guest:guest@{self.host}:{self.port}//"

    def fresh_url(self) -> str:
        """A virtual host that nobody has used; it is deleted some time after ten more were asked for.

        They are made by the dozen: one call of rabbitmqctl takes seconds.
        """
        if not self._vhosts:
            self._make_vhosts()
        self._given.append(self._vhosts.pop(0))
        return f"amqp://guest:guest@{self.host}:{self.port}/{self._given[-1]}"

    def _make_vhosts(self) -> None:
        names = [f"test{self._vhosts_made + number}" for number in range(_VHOSTS_AT_ONCE)]
        over, self._given = self._given[:-_VHOSTS_KEPT], self._given[-_VHOSTS_KEPT:]
        self.control(
            "eval",
            '[begin rabbit_vhost:add(Name, <<"guest">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"guest">>) end || Name <- {_erlang(names)}], '
            f'[rabbit_vhost:delete(Name, <<"guest">>) || Name <- {_erlang(over)}].',
        )
        self._vhosts += names
        self._vhosts_made += len(names)

    @contextmanager
    def admin(self, vhost: str) -> Iterator[amqp.Channel]:
        """A channel with all rights on a virtual host."""
        with amqp.Connection(f"{self.host}:{self.port}", virtual_host=vhost) as connection:
            yield connection.channel()

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node and return what it printed. It opens a port, so one runs at a time.

        Raises:
            AssertionError: it failed; the message has its output.
        """
        with self._one_control:
            done = subprocess.run(
                [self._control, *arguments], env=self._environment(), capture_output=True, text=True, timeout=60
            )
        assert done.returncode == 0, f"rabbitmqctl {arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        folder = self.directory
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(folder),  # the cookie is made there
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_NODENAME": f"guardrails{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._control_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._control_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {_IMPATIENT}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(self._pid_file),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
        }

    def _command(self) -> list[str]:
        return [self._program]

    def _prepare(self) -> None:
        """Start an epmd of our own, in the foreground: the one that Erlang starts by itself would outlive the node."""
        self._pid_file.unlink(missing_ok=True)
        if self._epmd is not None and self._epmd.poll() is None:
            return
        self._epmd = subprocess.Popen(
            [self._epmd_program, "-port", str(self._epmd_port), "-address", self.host],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        reaper().watch(self._epmd.pid)
        asked = [self._epmd_program, "-port", str(self._epmd_port), "-names"]
        wait_until(lambda: subprocess.run(asked, capture_output=True).returncode == 0, 20, "epmd answers")

    def _pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _answers(self) -> bool:
        if self._pid() is None:
            return False
        connection = amqp.Connection(f"{self.host}:{self.port}", connect_timeout=3, read_timeout=10)
        try:
            connection.connect()
        except (OSError, amqp.AMQPError):
            connection.collect()
            return False
        connection.close()
        return True

    def close(self) -> None:
        """Stop the node, then its epmd."""
        super().close()
        if self._epmd is not None:
            self._epmd.send_signal(signal.SIGTERM)
            self._epmd.wait(10)
            reaper().forget(self._epmd.pid)
            self._epmd = None


def _erlang(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'<<"{name}">>' for name in names) + "]"
