"""The harness: real workers come up, run tasks in their children, and end with everything they started."""

from __future__ import annotations

import json
import os
import signal

import pytest
from celery import Celery

from tests.fork_server import fork_server, suits, with_root
from tests.harness import ROOT
from tests.servers import is_alive
from tests.waiting import wait_until

APP = "tests.apps.plain"
pytestmark = pytest.mark.servers


@pytest.fixture
def plain(broker, result_backend, harness):
    """The harness, told of the brokers, and a client of the same application."""
    harness.environment |= {"BROKER_URL": broker.url, "RESULT_BACKEND": result_backend}
    client = Celery("plain", broker=broker.url, backend=result_backend)
    yield harness, client
    client.close()


def test_wait_until_says_what_it_waited_for():
    with pytest.raises(AssertionError, match=r"not within 0 s: pigs fly \(last value: False\)"):
        wait_until(lambda: False, 0, "pigs fly")


def test_a_worker_that_cannot_start_shows_its_log(harness):
    with pytest.raises(AssertionError, match=r"(?s)ended \(\d\) before .*no_such_app"):
        harness.worker("tests.apps.no_such_app")


def test_a_command_gives_its_code_and_output(harness):
    done = harness.run_python("-c", "import sys; print('out'); sys.exit('one line')")
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "one line\n")


@pytest.mark.parametrize("anew", [False, True])
def test_a_forked_command_is_as_one_that_was_started(harness, monkeypatch, anew):
    """Its arguments, folder, variables, output, exit code and place among the processes."""
    (harness.folder / "own_app.py").write_text(
        "import json, os, sys, click, celery\n"
        "app = celery.Celery(broker='memory://')\n"
        "seen = {'path': sys.path[0], 'folder': os.getcwd(), 'variable': os.environ.get('OWN'), 'argv': sys.argv[1:],\n"
        "        'program': os.path.relpath(sys.argv[0], os.path.dirname(celery.__file__)), 'leads': os.getpid() ==\n"
        "        os.getpgrp() == os.getsid(0), 'input': os.read(0, 1).decode(), 'gone': os.environ.get('GONE'),\n"
        "        'main': sys.modules['__main__'].__spec__.name}\n"
        "print(json.dumps(seen))\n"
    )
    harness.run("own_app", "report")  # from here on the fork server runs
    monkeypatch.setenv("GONE", "")
    harness.anew = anew
    wrong = harness.run("own_app", "no-such-command")
    assert (wrong.returncode, "No such command" in wrong.stderr) == (2, True)
    done = harness.run("own_app", "report", env={"OWN": "own"})
    assert done.returncode == 0
    process = harness.start("own_app", "report", env={"OWN": "own"})
    assert process.wait() == 0
    expected = {
        "path": str(harness.folder), "folder": str(harness.folder), "variable": "own", "program": "__main__.py",
        "leads": True, "input": "", "gone": "", "main": "celery.__main__", "argv": ["-A", "own_app", "report"],
    }  # fmt: skip
    assert json.loads(process.log().splitlines()[0]) == expected
    assert json.loads(done.stdout.splitlines()[0]) == {**expected, "leads": not anew}


def test_a_question_that_was_interrupted_is_not_answered_to_the_next(harness):
    """A test's timeout may strike anywhere, also while a process is started."""
    harness.environment["BROKER_URL"] = "memory://"
    process = harness.start(APP, "report")
    fork_server()._wire._write([0, {"do": "poll", "pid": process.pid}])  # and nobody reads what it says
    assert process.wait() == 0
    other = harness.start(APP, "report")
    assert other.pid != process.pid
    assert other.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["worker", "-P", "gevent"], {}),
        (["guardrails", "check"], {}),
        (["report"], {"PYTHONHASHSEED": "1"}),
        (["report"], {"LC_ALL": "C"}),
    ],
)
def test_what_python_reads_when_it_starts_is_not_forked(arguments, changed):
    environment = with_root(os.environ)
    assert suits(["report"], environment, environment)
    assert not suits(arguments, {**environment, **changed}, environment)


def test_a_prefork_worker_runs_tasks_in_its_children_and_stops(plain):
    harness, client = plain
    worker = harness.worker(APP, pool="prefork")
    child = client.send_task("plain.pid").get(timeout=30)
    assert child != worker.pid
    assert worker.stop() == 0
    wait_until(lambda: not is_alive(child), 30, "the child is gone")


def test_close_ends_what_a_killed_worker_leaves(plain):
    harness, client = plain
    worker = harness.worker(APP)
    child = client.send_task("plain.pid").get(timeout=30)
    worker.signal(signal.SIGSTOP)
    os.kill(child, signal.SIGSTOP)  # a child that does not see that its parent is gone
    worker.kill()  # the kernel may end the stopped child of a dead leader by itself (SIGHUP to an orphaned group)
    harness.close()
    wait_until(lambda: not is_alive(child), 30, "the child is gone")


def test_lines_that_run_only_in_a_prefork_child_are_recorded(redis_broker, result_backend, harness):
    """The coverage figure counts what real workers do, although billiard ends its children by os._exit."""
    (harness.folder / "drive.py").write_text(
        "import os, sys; from pathlib import Path; from celery import Celery; from tests.harness import Harness\n"
        "harness = Harness(Path.cwd()); worker = harness.worker('tests.apps.plain')\n"
        "client = Celery(broker=os.environ['BROKER_URL'], backend=os.environ['RESULT_BACKEND'])\n"
        "client.send_task('plain.pid').get(timeout=30)\n"
        "code = worker.stop(); harness.close(); sys.exit(code)\n"
    )
    # a measurement of its own, not a part of the one that may run this test
    outer = {name: "" for name in os.environ if name.startswith("COVERAGE_")}
    harness.environment |= outer | {"COVERAGE_FILE": str(harness.folder / "coverage")}
    harness.environment |= {"BROKER_URL": redis_broker.url, "RESULT_BACKEND": result_backend}
    rcfile = f"--rcfile={ROOT / 'setup.cfg'}"
    for arguments in (["run", rcfile, "drive.py"], ["combine", rcfile], ["json", rcfile, "--fail-under=0"]):
        done = harness.run_python("-m", "coverage", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    files = json.loads((harness.folder / "coverage.json").read_text())["files"]
    (clock,) = (found for path, found in files.items() if path.endswith("celery_guardrails/clock.py"))
    assert clock["functions"]["parse_duration"]["executed_lines"]
