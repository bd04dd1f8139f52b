"""The private servers: they carry messages, several at once do not collide, and nothing of them is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from queue import Empty

import psycopg
import pytest
from amqp.exceptions import ConnectionForced, NotAllowed
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_guardrails.store.engine import SchemaState, open_store
from tests.conftest import run_server
from tests.harness import ROOT
from tests.port import is_reserved, reserve_port
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisCluster, RedisServer, Server, ServerMissing, find_program, is_alive
from tests.servers_postgres import PostgreSQLServer
from tests.shared_server import RunClient, RunServers, SharedServer
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
    request.getfixturevalue(f"own_{request.param.name}")
    server = request.param()
    yield server
    server.close()


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_private_server_runs_however_the_test_before_has_left_it(kind, request):
    request.getfixturevalue(f"kept_{kind}").stop()
    server = request.getfixturevalue(f"own_{kind}")
    assert server.is_running
    assert server._answers()


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
    first = request.getfixturevalue(f"own_{another.name}")
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


def test_brokers_to_try_a_change_on_run_until_ctrl_c(shared_redis):
    command = [sys.executable, "-m", "tests.brokers", "redis"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as brokers:
        name, export, assignment = brokers.stdout.readline().split()
        variable, _, url = assignment.partition("=")
        assert (name, export, variable) == ("redis", "export", "BROKER_URL")
        assert exchange(url, {"n": 6}) == {"n": 6}
        assert brokers.stdout.readline() == "Ctrl-C ends them.\n"
        brokers.send_signal(signal.SIGINT)
        assert brokers.wait(30) == 0
    with pytest.raises(OperationalError):
        exchange(url, {"n": 7})


def test_a_broker_that_does_not_exist_is_refused(harness):
    done = harness.run_python("-m", "tests.brokers", "kafka")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no broker kafka: choose among redis, rabbitmq" in done.stderr


@pytest.mark.own_servers
def test_rabbitmq_closes_the_connections_of_all_its_virtual_hosts(own_rabbitmq):
    with Connection(own_rabbitmq.fresh_url()) as one, Connection(own_rabbitmq.fresh_url()) as two:
        for connection in (one, two):
            connection.connect()
        own_rabbitmq.close_all_connections()
        for connection in (one, two):
            with pytest.raises(ConnectionForced, match="by the test"):
                connection.drain_events(timeout=30)
    own_rabbitmq.close_all_connections()  # with nobody connected


def test_what_other_tests_use_is_not_for_one_test_to_stop(shared_redis):
    for what in ("stop", "kill", "pause", "close", "close_all_connections", "directory"):
        with pytest.raises(AssertionError, match="mark the test with own_servers"):
            getattr(shared_redis, what)


def test_the_processes_of_a_run_share_a_server_and_no_database():
    run = RunServers()
    client = RunClient(run.listen())
    try:
        here, there = SharedServer(run.ask, "redis"), SharedServer(client.ask, "redis")
        assert here.port == there.port
        urls = [server.fresh_url() for server in (here, there, here, there)]
        assert len(set(urls)) == 4
        assert exchange(urls[1], {"n": 6}) == {"n": 6}
        run._servers["redis"].kill()
        there.start()  # whoever wants it next has it come back
        assert exchange(urls[3], {"n": 7}) == {"n": 7}
    finally:
        run.close()
    assert not run._servers["redis"].is_running
    with pytest.raises(AssertionError, match="the run is over"):
        there.fresh_url()
    client.close()


def test_shared_servers_go_with_a_run_that_is_killed():
    code = (
        "from tests.shared_server import RunServers; import sys\n"
        "run = RunServers(); run.listen(); run.ask('redis', 'address'); server = run._servers['redis']\n"
        "print(server.pid, server.directory, run._folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        pid, *directories = child.stdout.readline().split()
        assert is_alive(int(pid))
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(int(pid)), 30, "the server is gone")
    subprocess.run(["rm", "-r", "--", *directories], check=True)


def test_a_virtual_host_that_is_given_back_is_deleted(own_rabbitmq):
    url = own_rabbitmq.fresh_url()
    own_rabbitmq.release(url)
    for _ in range(11):  # they are made ten at once, and deleted with that
        other = own_rabbitmq.fresh_url()
    assert exchange(other, {"n": 8}) == {"n": 8}
    with pytest.raises(NotAllowed), Connection(url) as connection:
        connection.connect()


def test_a_database_that_is_given_back_is_dropped_and_a_migrated_one_has_tables(shared_postgresql):
    empty, migrated = shared_postgresql.fresh_url(), shared_postgresql.migrated_url()
    for url, state in ((empty, SchemaState.EMPTY), (migrated, SchemaState.CURRENT)):
        store = open_store(url)
        assert store.check() is state
        store.close()
        shared_postgresql.release(url)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)


def test_ports_are_never_handed_out_twice():
    ports = [reserve_port() for _ in range(20)]
    assert len(set(ports)) == 20


def test_ports_that_a_server_opens_by_itself_are_reserved_with_its_first():
    port = reserve_port(1, 10_000)
    assert all(map(is_reserved, (port, port + 1, port + 10_000)))
    code = f"from tests.port import _locked; print(bool(_locked({port + 10_000})))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout == "False\n"


@pytest.mark.parametrize("kind", [*KINDS, PostgreSQLServer, RedisCluster], ids=lambda kind: kind.__name__)
def test_every_port_that_a_server_opens_is_reserved(kind):
    for server in run_server(kind):
        opened = open_ports({server.pid, *([server._epmd.pid] if kind is RabbitMQServer else [])})
        assert server.port in opened
        assert [port for port in opened if not is_reserved(port)] == []


def test_the_port_that_rabbitmqctl_opens_is_reserved(own_rabbitmq):
    waits = own_rabbitmq._environment()
    with subprocess.Popen([own_rabbitmq._control, "eval", "timer:sleep(180000)."], env=waits, text=True) as control:
        try:
            mine = {own_rabbitmq.pid, own_rabbitmq._epmd.pid}
            wait_until(lambda: open_ports(group_of(control.pid) - mine), 150, "rabbitmqctl opens its port")
            assert [port for port in open_ports(group_of(control.pid) - mine) if not is_reserved(port)] == []
        finally:
            for pid in group_of(control.pid):
                os.kill(pid, signal.SIGKILL)


def open_ports(pids):
    """The ports on which these processes take TCP connections."""
    sockets = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # listens
                sockets[f"socket:[{fields[9]}]"] = int(fields[1].rsplit(":", 1)[1], 16)
    found = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found.add(sockets.get(os.readlink(descriptor)))
    return found - {None}


def group_of(pid):
    """A process and all that it started."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children.setdefault(int(stat.read_text().rsplit(") ", 1)[1].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, ())
    return set(found)
