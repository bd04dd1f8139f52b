"""The private servers: they carry messages, several at once do not collide, and nothing of them is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection

from tests.harness import ROOT
from tests.port import reserve_port
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer, Server, ServerMissing, find_program, is_alive
from tests.waiting import wait_until

pytestmark = pytest.mark.servers
KINDS = [RedisServer, RabbitMQServer]


def exchange(url: str, payload: dict[str, int]) -> dict[str, int]:
    with Connection(url) as connection, connection.SimpleQueue("letters") as queue:
        queue.put(payload)
        message = queue.get(timeout=10)
        message.ack()
        return message.payload


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def another(request):
    """A second server of its kind, beside the session's."""
    request.getfixturevalue(f"{request.param.name}_server")
    server = request.param()
    yield server
    server.close()


def test_a_missing_program_names_the_command_that_installs_it():
    with pytest.raises(ServerMissing, match="sudo apt-get install some-server"):
        find_program("no-such-server", install="some-server")


def test_a_server_that_ends_at_start_shows_its_log():
    class Broken(Server):
        name = "broken"

        def _command(self):
            return ["sh", "-c", "echo no room for data; exit 3"]

        def _answers(self):
            return False

    server = Broken()
    try:
        with pytest.raises(AssertionError, match=r"(?s)broken ended by itself.*no room for data"):
            server.start()
    finally:
        server.close()


def test_a_server_that_never_answers_is_ended():
    class Mute(Server):
        name = "mute"
        start_bound = 0.3

        def _command(self):
            return ["sleep", "600"]

        def _answers(self):
            self.seen = self.pid
            return False

    server = Mute()
    try:
        with pytest.raises(AssertionError, match="mute answers"):
            server.start()
        assert not is_alive(server.seen)
    finally:
        server.close()


def test_a_message_goes_through(broker):
    assert exchange(broker.url, {"n": 1}) == {"n": 1}


def test_each_test_has_a_broker_of_its_own(broker):
    other = broker.server.fresh_url()
    assert other != broker.url
    with Connection(broker.url) as connection, connection.SimpleQueue("letters") as queue:
        queue.put({"n": 2})
    with Connection(other) as connection, connection.SimpleQueue("letters") as queue, pytest.raises(Empty):
        queue.get(block=False)


def test_a_second_server_runs_beside_the_first_and_leaves_nothing(another, request):
    first = request.getfixturevalue(f"{another.name}_server")
    another.start()
    pids = {another.pid, getattr(another, "_epmd", None) and another._epmd.pid} - {None}
    assert exchange(another.fresh_url(), {"n": 3}) == {"n": 3}
    assert exchange(first.fresh_url(), {"n": 4}) == {"n": 4}
    directory = another.directory
    another.close()
    assert not any(map(is_alive, pids))
    assert not directory.exists()


def test_messages_outlive_stop_and_pause_freezes(another):
    another.start()
    url = another.fresh_url()
    with Connection(url) as connection, connection.SimpleQueue("letters") as queue:
        queue.put({"n": 5})
    another.stop()
    assert not another.is_running
    another.start()
    another.pause()
    another.start()  # ends the pause
    with Connection(url) as connection, connection.SimpleQueue("letters") as queue:
        assert queue.get(timeout=10).payload == {"n": 5}
    another.kill()
    assert not another.is_running


def test_servers_go_with_a_test_process_that_is_killed():
    code = (
        "from tests.servers import RedisServer; import sys\n"
        "server = RedisServer(); server.start(); print(server.pid, server.directory, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        pid, directory = child.stdout.readline().split()
        assert is_alive(int(pid))
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(int(pid)), 30, "the server is gone")
    subprocess.run(["rm", "-r", "--", str(Path(directory))], check=True)


def test_ports_are_never_handed_out_twice():
    ports = [reserve_port() for _ in range(20)]
    assert len(set(ports)) == 20
