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
from urllib.parse import urlsplit

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
_ERLANG = ("/usr/lib/erlang/erts-*/bin", "/usr/local/lib/erlang/erts-*/bin")
_VHOSTS_AT_ONCE = 10
_VHOSTS_LEFT = 6
"""When so few virtual hosts are left, more are made before somebody waits for them."""

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
    makes_ahead = False
    """Whether virtual hosts are made before they are wanted: not while a test may have stopped the node."""

    def __init__(self) -> None:
        self._program = find_program("rabbitmq-server", folders=_SCRIPTS + _ON_DEBIAN, install="rabbitmq-server")
        self._control = find_program("rabbitmqctl", folders=_SCRIPTS + _ON_DEBIAN, install="rabbitmq-server")
        self._erl = find_program("erl", folders=_ERLANG, install="rabbitmq-server")
        self._epmd_program = find_program("epmd", folders=_ERLANG, install="rabbitmq-server")
        super().__init__()
        self._distribution_port, self._epmd_port, self._control_port = reserve_port(), reserve_port(), reserve_port()
        self._one_control = threading.Lock()
        self._pid_file = self.directory / "rabbitmq.pid"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._one_maker = threading.Lock()
        self._vhosts: list[str] = []
        self._released: list[str] = []
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
        """A virtual host that nobody has used.

        They are made by the dozen, and ahead: to reach the node takes a while.
        """
        while True:
            try:
                vhost = self._vhosts.pop(0)
            except IndexError:
                self._make_vhosts(least=1)
                continue
            if self.makes_ahead and len(self._vhosts) < _VHOSTS_LEFT:
                threading.Thread(target=self._make_vhosts, args=(_VHOSTS_LEFT,), daemon=True).start()
            return f"amqp://guest:guest@{self.host}:{self.port}/{vhost}"

    def release(self, url: str) -> None:
        """Delete a virtual host, when others are made: with each that is there the node starts more slowly."""
        self._released.append(urlsplit(url).path[1:])

    def _make_vhosts(self, least: int) -> None:
        with self._one_maker:
            if len(self._vhosts) >= least:
                return
            names = [f"test{self._vhosts_made + number}" for number in range(_VHOSTS_AT_ONCE)]
            over, self._released = self._released, []
            self.evaluate(
                '[begin Call(rabbit_vhost, add, [Name, <<"guest">>]), '
                "Call(rabbit_auth_backend_internal, set_permissions, "
                '[<<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"guest">>]) end '
                f"|| Name <- {_erlang(names)}], "
                f'[Call(rabbit_vhost, delete, [Name, <<"guest">>]) || Name <- {_erlang(over)}]'
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

    def evaluate(self, expression: str) -> None:
        """Have an Erlang of our own run this beside the node: a quarter of what rabbitmqctl takes.

        `Call(Module, Function, Arguments)` calls a function of the node.

        Raises:
            AssertionError: it failed; the message has its output.
        """
        environment = self._environment()
        cookie = (self.directory / ".erlang.cookie").read_text().strip()
        call = (
            f"Call = fun(M, F, A) -> case rpc:call('{environment['RABBITMQ_NODENAME']}', M, F, A) of "
            "{badrpc, Why} -> exit(Why); {error, Why} -> exit(Why); Answer -> Answer end end, "
        )
        ports = [word for edge in ("min", "max") for word in (f"inet_dist_listen_{edge}", str(self._control_port))]
        command = [
            *(self._erl, "-noinput", "-hidden", "-boot", "start_clean", "-setcookie", cookie),
            *("-sname", f"guardrails{self._control_port}@localhost", "-kernel", "inet_dist_use_interface"),
            *("{127,0,0,1}", *ports, "-eval", f"{call}{expression}, halt()."),
        ]
        with self._one_control:
            done = subprocess.run(
                command, env=environment, cwd=self.directory, capture_output=True, text=True, timeout=60
            )
        assert done.returncode == 0, f"{expression}: {done.stdout}{done.stderr}"

    def close_all_connections(self) -> None:
        """Close the connections of all clients, in all virtual hosts, as rabbitmqctl does with `--global`.

        Raises:
            AssertionError: it failed; the message has the output.
        """
        self.evaluate(
            '[try Call(rabbit_networking, close_connection, [Pid, "by the test"]) '
            "catch exit:{'EXIT', {_, {gen_server, call, _}}} -> closed_by_itself end "
            "|| Pid <- Call(rabbit_networking, connections, [])]"
        )

    def allow(self, user: str, vhost: str, configure: str, write: str, read: str, password: str = "") -> None:
        """Give a user rights on a virtual host; with a password the user is made first."""
        module = "rabbit_auth_backend_internal"
        made = f"Call({module}, add_user, {_erlang((user, password, 'guest'))}), " if password else ""
        rights = _erlang((user, vhost, configure, write, read, "guest"))
        self.evaluate(f"{made}Call({module}, set_permissions, {rights})")

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


def _erlang(texts: Iterable[str]) -> str:
    """A list of binaries, as Erlang writes it."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "[" + ", ".join(f'<<"{text}">>' for text in quoted) + "]"
