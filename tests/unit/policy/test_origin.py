from __future__ import annotations

import inspect
import linecache

import pytest

from celery_guardrails.errors import ConfigurationError
from celery_guardrails.policy import origin

HEADER = """
from celery_guardrails.policy import Policy, Exponential
def task(*args, **options):
    return lambda function: function
"""


def named(source, module="shop.tasks", visible=True):
    """The task that the fault names when this module is imported."""
    text = HEADER + source
    filename = f"<origin {abs(hash(text))}>"
    if visible:
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    with pytest.raises(ConfigurationError) as caught:
        exec(compile(text, filename, "exec"), {"__name__": module})
    linecache.cache.pop(filename, None)
    return caught.value.faults[0].task


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("@task(name='billing.charge', policy=Policy(jiter=1))\ndef charge(): ...", "billing.charge"),
        ("@task(policy=Policy(jiter=1))\ndef charge(): ...", "shop.tasks.charge"),
        ("@task(\n  name='x',\n  policy=Policy(\n    jiter=1,\n  ),\n)\nasync def charge(): ...", "x"),
        ("@task(name=f'{1}', policy=Policy(jiter=1))\ndef charge(): ...", "shop.tasks.charge"),
        ("@task(name='other')\n@task(policy=Policy(jiter=1))\ndef charge(): ...", "shop.tasks.charge"),
        ("class PaymentTask:\n  policy = Policy(jiter=1)", "shop.tasks.PaymentTask"),
        ("class PaymentTask:\n  name = 'pay'\n  policy = Policy(jiter=1)", "pay"),
        ("class PaymentTask:\n  name = other = 3\n  policy = Policy(jiter=1)", "shop.tasks.PaymentTask"),
        ("class A:\n  class B:\n    policy = Policy(jiter=1)", "shop.tasks.A.B"),
        ("try:\n  @task(policy=Policy(jiter=1))\n  def charge(): ...\nfinally: pass", "shop.tasks.charge"),
        ("def make():\n  @task(policy=Policy(jiter=1))\n  def inner(): ...\nmake()", "shop.tasks.make.<locals>.inner"),
        ("@task(policy=Policy(backoff=Exponential('soon')))\ndef charge(): ...", "shop.tasks.charge"),
    ],
)  # fmt: skip
def test_the_task_is_named_by_its_source(source, task):
    assert named(source) == task


def test_elsewhere_the_file_and_line_are_named():
    assert named("policy = Policy(jiter=1)").endswith(">:5")
    assert named("def f():\n  return Policy(jiter=1)\nf()").endswith(">:6")
    assert named("policy = Policy(jiter=1)", visible=False).endswith(">:5")


def test_modules_of_ours_are_passed_over():
    assert named("policy = Policy(jiter=1)", module="celery_guardrails.worker").endswith(":" + str(caller_line()))


def test_where_every_caller_is_ours_there_is_no_name(monkeypatch):
    everything = tuple({str(info.frame.f_globals["__name__"]) for info in inspect.stack()})
    monkeypatch.setattr(origin, "_INTERNAL", everything)
    assert origin.task_name() is None


def caller_line():
    """The line in this file from which `named` runs the module: the nearest frame that is not ours."""
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.lstrip().startswith("exec("))


def test_a_loader_that_fails_leaves_the_fault_as_it_is():
    def source():
        raise KeyError("a loader's own error")

    filename = "<loaded>"
    linecache.cache[filename] = (source,)
    with pytest.raises(ConfigurationError) as caught:
        exec(compile(HEADER + "Policy(jiter=1)", filename, "exec"), {"__name__": "shop"})
    linecache.cache.pop(filename, None)
    assert caught.value.faults[0].task == "<loaded>:5"
    assert "jiter" in str(caught.value)


def test_unreadable_source_falls_back_to_the_line():
    filename = "<broken>"
    linecache.cache[filename] = (1, None, ["def ("], filename)
    with pytest.raises(ConfigurationError) as caught:
        exec(compile(HEADER + "Policy(jiter=1)", filename, "exec"), {"__name__": "shop"})
    del linecache.cache[filename]
    assert caught.value.faults[0].task == "<broken>:5"
