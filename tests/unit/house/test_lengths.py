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
    assert list(lengths.faults_in("long.py", "x = 1\n" * 351)) == ["long.py:351: 351 lines, at most 350"]


@pytest.mark.parametrize("head", ["def f():", "async def f():"])
def test_a_function_one_line_too_long_is_named(head):
    assert list(lengths.faults_in("a.py", function(41, head))) == ["a.py:1: f has 41 lines, at most 40"]


def test_methods_and_inner_functions_count():
    source = "class A:\n" + "\n".join(f"    {line}" for line in function(41).splitlines())
    assert list(lengths.faults_in("a.py", source)) == ["a.py:2: f has 41 lines, at most 40"]


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
    assert capsys.readouterr().out.endswith("inner/long.py:1: f has 50 lines, at most 40\n")
    assert lengths.main([str(tmp_path / "short.py")]) == 0


@pytest.mark.parametrize("arguments", [[], ["no/such/folder"]])
def test_main_refuses_what_it_cannot_check(arguments, capsys):
    assert lengths.main(arguments) == 2
    assert capsys.readouterr().out
