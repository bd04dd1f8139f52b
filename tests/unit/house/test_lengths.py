"""The length check of the house."""

from __future__ import annotations

import importlib.util

import pytest

from tests.harness import ROOT

_spec = importlib.util.spec_from_file_location("lengths", ROOT / "house" / "lengths.py")
lengths = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lengths)


def function(length: int, head: str = "def f():") -> str:
    return "\n".join([head, *["    pass"] * (length - 1)]) + "\n"


def test_a_file_that_is_not_python_is_an_error():
    with pytest.raises(SyntaxError):
        list(lengths.faults_in("broken.py", "def"))


def test_a_file_one_line_too_long_is_named():
    assert list(lengths.faults_in("long.py", "x = 1\n" * 351)) == ["long.py:351: 351 lines of code, at most 350"]


@pytest.mark.parametrize("head", ["def f():", "async def f():"])
def test_a_function_one_line_too_long_is_named(head):
    assert list(lengths.faults_in("a.py", function(41, head))) == ["a.py:1: f has 41 lines of code, at most 40"]


def test_methods_and_inner_functions_count():
    source = "class A:\n" + "\n".join(f"    {line}" for line in function(41).splitlines())
    assert list(lengths.faults_in("a.py", source)) == ["a.py:2: f has 41 lines of code, at most 40"]


def test_decorators_do_not_count():
    assert not list(lengths.faults_in("a.py", "@cache\n@retry\n" + function(40)))


def test_the_limits_themselves_are_allowed():
    assert not list(lengths.faults_in("a.py", function(40) + "x = 1\n" * 310))


def test_main_checks_folders_and_files(tmp_path, capsys):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "long.py").write_text(function(50))
    (tmp_path / "inner" / "notes.txt").write_text("x\n" * 400)
    (tmp_path / "short.py").write_text("x = 1\n")
    assert lengths.main([str(tmp_path / "inner"), str(tmp_path / "short.py")]) == 1
    assert capsys.readouterr().out.endswith("inner/long.py:1: f has 50 lines of code, at most 40\n")
    assert lengths.main([str(tmp_path / "short.py")]) == 0


@pytest.mark.parametrize("arguments", [[], ["no/such/folder"]])
def test_main_refuses_what_it_cannot_check(arguments, capsys):
    assert lengths.main(arguments) == 2
    assert capsys.readouterr().out


ASIDE = '"""A module.\n\nIn three lines."""\n\n# a comment\n\nNAME = 1\n"""What it is."""\n\n\n'


def test_words_and_blank_lines_do_not_count():
    assert lengths.code_lines(ASIDE) == {7}
    body = '    """Do it.\n\n    In two steps.\n    """\n\n    # why\n' + "    step()\n" * 39
    assert not list(lengths.faults_in("a.py", "def f():\n" + body))
    assert list(lengths.faults_in("a.py", "def f():\n" + body + "    step()\n")) == [
        "a.py:1: f has 41 lines of code, at most 40"
    ]
    assert not list(lengths.faults_in("a.py", ASIDE * 40 + "x = 1\n" * 310))


def test_a_string_that_is_used_counts_with_all_its_lines():
    assert lengths.code_lines('SCRIPT = """\n-- a comment of another language\n\nreturn 1\n"""\n') == {1, 2, 3, 4, 5}
    assert lengths.code_lines('TEXT = f"""\n{1}\n\n"""  # set\n') == {1, 2, 3, 4}
    assert lengths.code_lines("f(\n    1,\n\n    # two\n    2,\n)\n") == {1, 2, 5, 6}


REASON = "# on its own: each check of the doctor is a file\n"
SHORT = "celery_guardrails/clock.py"
NO_REASON = (
    "celery_guardrails/clock.py:1: 39 lines of code, and 1 other module uses them: put them where they are used, or "
    "say why they are a file (# on its own: ...)"
)


def test_a_short_module_that_one_other_uses_wants_a_reason():
    assert list(lengths.faults_in(SHORT, "x = 1\n" * 39, users=1)) == [NO_REASON]
    assert list(lengths.faults_in(SHORT, "x = 1\n" * 39, users=0)) == [NO_REASON.replace("1 other", "no other")]
    assert not list(lengths.faults_in(SHORT, REASON + "x = 1\n" * 39, users=1))
    assert not list(lengths.faults_in(SHORT, "x = 1\n" * 39, users=2))
    assert not list(lengths.faults_in(SHORT, "x = 1\n" * 40, users=0))


@pytest.mark.parametrize("words", ["# on its own:", "# on its own: because", "# on its own: short file", "# short"])
def test_a_reason_is_more_than_a_word_or_two(words):
    assert list(lengths.faults_in(SHORT, words + "\n" + "x = 1\n" * 39, users=1)) == [NO_REASON]


def test_a_reason_that_is_needed_no_more_is_a_fault():
    grown = "x = 1\n" * 40 + REASON
    assert list(lengths.faults_in(SHORT, grown)) == [f"{SHORT}:41: 40 lines of code need no reason any more"]


@pytest.mark.parametrize(
    "name", ["celery_guardrails/letters/__init__.py", "celery_guardrails/store/migrations/versions/v1.py", "tests/a.py"]
)
def test_front_doors_migrations_and_tests_need_no_reason(name):
    assert not list(lengths.faults_in(name, "x = 1\n", users=0))


def test_main_counts_who_imports_a_module(tmp_path, capsys):
    package = tmp_path / "celery_guardrails"
    (package / "room").mkdir(parents=True)
    long = "x = 1\n" * 40
    (package / "shared.py").write_text("x = 1\n")
    (package / "room" / "lone.py").write_text("x = 1\n")
    (package / "one.py").write_text(
        "from celery_guardrails.shared import x\nfrom celery_guardrails.room import lone\n" + long
    )
    (package / "two.py").write_text("import celery_guardrails.shared\n" + long)
    assert lengths.main([str(package)]) == 1
    (fault,) = capsys.readouterr().out.splitlines()
    assert "room/lone.py:1: 1 lines of code, and 1 other module uses them" in fault
