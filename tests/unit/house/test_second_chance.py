"""A failing run's second chance: who gets it, who does not, and what is printed at the very end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

SCRIPT = ROOT / "house" / "second_chance.py"
HELPERS = """
import os
from pathlib import Path
import pytest

def fails_first(name):
    mark = Path(name)
    if not mark.exists():
        mark.touch()
        raise ValueError(f"{name} is not there yet")

def runs(name):
    with Path("runs").open("a") as file:
        file.write(f"{name} in {os.environ.get('PYTEST_XDIST_WORKER', 'one process')}\\n")
"""


@pytest.fixture
def chance(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(tests: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_shop.py").write_text(HELPERS + tests)
        command = [sys.executable, str(SCRIPT), "-p", "no:cacheprovider", *arguments]
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        return subprocess.run(command, cwd=tmp_path, env=ours, capture_output=True, text=True, timeout=120)

    return run


def test_a_run_that_passes_is_left_alone(chance):
    done = chance("def test_fine(): runs('fine')")
    assert (done.returncode, "second chance" in done.stdout) == (0, False)
    assert "1 passed" in done.stdout


def test_what_passes_alone_is_named_at_the_very_end_with_both_outcomes(chance, tmp_path):
    flaky = "def test_flaky(): runs('flaky'); fails_first('mark')\ndef test_fine(): runs('fine')\n"
    done = chance(flaky, "-n", "2", "--dist", "loadfile", "test_shop.py")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-4:] == [
        "FLAKY",
        "  test_shop.py::test_flaky",
        "    in the run of all tests: failed: ValueError: mark is not there yet",
        "    alone: passed",
    ]
    ran = (tmp_path / "runs").read_text().splitlines()
    assert ran[-1] == "flaky in one process"
    assert sum(line.startswith("fine") for line in ran) == 1


def test_one_that_is_flaky_twice_is_to_be_mended_first(chance, tmp_path):
    flaky = "def test_flaky(): fails_first('mark')"
    chance(flaky)
    (tmp_path / "mark").unlink()
    assert "flaky here 2 times by now: mend it before anything else" in chance(flaky).stdout.splitlines()[-1]


def test_what_fails_twice_fails(chance):
    done = chance("def test_broken(): assert 1 == 2\ndef test_flaky(): fails_first('mark')")
    assert done.returncode == 1
    assert "FAILED TWICE" in done.stdout
    assert "FLAKY" not in done.stdout


def test_what_is_skipped_the_second_time_has_not_passed(chance):
    done = chance("def test_gone():\n  if Path('mark').exists(): pytest.skip('no server')\n  fails_first('mark')")
    assert (done.returncode, "alone: skipped" in done.stdout) == (1, True)


@pytest.mark.parametrize(("count", "code"), [(3, 0), (4, 1)])
def test_more_than_three_are_no_accident(chance, count, code):
    tests = f"@pytest.mark.parametrize('n', range({count}))\ndef test_flaky(n): runs('n'); fails_first(f'mark{{n}}')"
    done = chance(tests)
    assert done.returncode == code
    assert ("at most 3 get a second chance" in done.stdout) == bool(code)


@pytest.mark.parametrize("where", ["setup", "teardown"])
def test_an_error_of_a_fixture_gets_its_chance_too(chance, where):
    body = "fails_first('mark'); yield" if where == "setup" else "yield; fails_first('mark')"
    done = chance(f"@pytest.fixture\ndef server():\n  {body}\ndef test_it(server): pass")
    assert done.returncode == 0
    assert "error: ValueError: mark is not there yet" in done.stdout


def test_a_worker_of_pytest_that_dies_gives_its_test_a_chance(chance):
    dies = "def test_dies():\n  if not Path('mark').exists():\n    Path('mark').touch(); os._exit(7)"
    done = chance(dies + "\ndef test_fine(): pass", "-n", "1")
    assert done.returncode == 0
    assert "crashed while running 'test_shop.py::test_dies'" in done.stdout.split("FLAKY")[1]


def test_a_file_that_cannot_be_read_gets_none(chance):
    done = chance("import nothing_of_that_name")
    assert (done.returncode, "second chance, alone" in done.stdout) == (2, False)


def test_a_run_that_ends_by_itself_gets_none(chance):
    done = chance("def test_end(): os._exit(0)")
    assert (done.returncode, "second chance, alone" in done.stdout) == (3, False)


def test_no_test_at_all_keeps_the_exit_code_of_pytest(chance):
    assert chance("").returncode == 5


def test_options_and_their_values_hold_the_second_time_as_well(chance, tmp_path):
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--seed', type=int)\n")
    tests = "def test_seed(request):\n  fails_first('mark')\n  assert request.config.option.seed == 7"
    assert chance(tests, "--seed", "7", "-k", "seed", str(Path("test_shop.py"))).returncode == 0
