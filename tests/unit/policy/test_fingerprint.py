from __future__ import annotations

import json
import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.policy import fingerprint as module
from celery_guardrails.policy.fingerprint import fingerprint, fingerprint_of, normalised


def caught(source, name="shop.tasks", filename="/srv/shop/tasks.py", **names):
    """The exception that this source's `run()` raises, as if the module were an application's."""
    space = {"__name__": name, **names}
    exec(compile(textwrap.dedent(source), filename, "exec"), space)
    try:
        space["run"]()
    except BaseException as error:  # noqa: BLE001  the tests look at whatever it is
        return error.with_traceback(error.__traceback__.tb_next)


FAILS = "def run():\n    raise ValueError('order 1')\n"


def test_a_line_a_path_and_an_id_do_not_matter():
    first = caught(FAILS)
    moved = caught("\n\n\n" + FAILS.replace("order 1", "order 2"), filename="/opt/release-7/tasks.py")
    assert fingerprint(first) == fingerprint(moved)
    assert fingerprint(first).startswith("v1:")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (FAILS.replace("ValueError", "KeyError"), "shop.tasks"),
        (FAILS, "shop.other"),
        ("def inner():\n    raise ValueError('x')\ndef run():\n    inner()\n", "shop.tasks"),
        ("def run():\n  try:\n    1 / 0\n  except Exception as e:\n    raise ValueError('x') from e\n", "shop.tasks"),
        ("def run():\n  try:\n    1 / 0\n  except Exception:\n    raise ValueError('x')\n", "shop.tasks"),
    ],
)
def test_type_place_and_root_cause_do_matter(source, name):
    assert fingerprint(caught(source, name)) != fingerprint(caught(FAILS))


def test_a_suppressed_context_is_not_a_root_cause():
    source = "def run():\n  try:\n    1 / 0\n  except Exception:\n    raise ValueError('x') from None\n"
    assert fingerprint(caught(source)) == fingerprint(caught(FAILS))


def test_frames_of_libraries_are_passed_over():
    source = "def run():\n    json.loads('{')\n"
    in_library = caught(source, json=json)
    assert fingerprint(in_library) == fingerprint(caught("def run():\n    json.loads('[')\n", json=json))
    library = "/srv/.venv/lib/python3.11/site-packages/vendor.py"
    vendored = caught(FAILS, "vendor", library)
    assert fingerprint(vendored) == fingerprint(caught(FAILS, "vendor.moved", library))
    for framework in ("celery_guardrails.task.guarded", "celery.app.trace"):
        assert fingerprint(caught(FAILS, framework)) == fingerprint_of("ValueError", "order 1")
    assert module._is_own("<frozen importlib._bootstrap>") is False


def test_without_a_stack_the_message_decides():
    assert fingerprint(ValueError("order 4711 is late")) == fingerprint(ValueError("order 9 is late"))
    assert fingerprint(ValueError("order is late")) != fingerprint(ValueError("order is lost"))
    assert fingerprint(ValueError("x")) == fingerprint_of("ValueError", "x")


def test_a_cycle_of_causes_ends():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert fingerprint(first)
    raised = caught(FAILS)
    raised.__cause__ = raised
    assert fingerprint(raised)
    raised.__cause__, second.__cause__ = second, KeyError()
    second.__cause__.__cause__ = second
    assert fingerprint(raised)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_a_broken_message_has_a_fingerprint_too():
    assert fingerprint(Mute()) == fingerprint_of(f"{Mute.__module__}.Mute", "")
    assert fingerprint(ValueError("\udcff"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 4711 failed", "order 12 failed"),
        ("order_id AB12 failed", "order_id XY98 failed"),
        ("user 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "user 9b2504e0-4f89-11d3-9a0c-0305e82c3399"),
        ("blob da39a3ee5e6b4b0d3255bfef95601890afd80709", "blob aa39a3ee5e6b4b0d3255bfef95601890afd80700"),
        ("<Thing object at 0x7f00aa>", "<Thing object at 0x7f11bb>"),
        ("connect to 10.0.0.1:5432 failed", "connect to 192.168.1.77:5433 failed"),
        ("connect to fe80::1:2:3 failed", "connect to fe80::9:8:7 failed"),
        ("at 2026-11-22T12:00:00Z", "at 2025-01-01 01:02:03.4+01:00"),
        ("after 30 seconds", "after 5.2s"),
        ("GET https://a.example/1?x=y failed", "GET http://b.example/ failed"),
        ("unknown customer 'anna'", "unknown customer 'bo'"),
        ("mail to anna@example.org bounced", "mail to bo.b@mail.example.com bounced"),
    ],
)
def test_variable_parts_are_replaced(one, other):
    assert normalised(one) == normalised(other) != ""


def test_words_are_kept():
    assert normalised("Can't reach  the mail server, don't\nknow why") == "Can't reach the mail server, don't know why"


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_numbers_never_matter(one, other):
    assert fingerprint_of("E", f"order {one} is late") == fingerprint_of("E", f"order {other} is late")


@given(st.text())
def test_a_fingerprint_is_stable_and_short(text):
    assert fingerprint_of("E", text) == fingerprint_of("E", text)
    assert len(fingerprint_of("E", text)) == len("v1:") + 16


def test_the_scheme_does_not_drift():
    """The stored groups of older versions must go on matching: a change here needs a v2."""
    assert fingerprint_of("TimeoutError", "order 4711 is late") == "v1:2e3499100b9aef84"


class _Response:
    def __init__(self, status: int) -> None:
        self.status_code = status

    def __bool__(self) -> bool:
        return False  # as of requests, for a status that is an error


class _HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.response = _Response(status)


class _Aws(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("aws")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class _Urllib(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("urllib")
        self.code = status


class _Touchy(Exception):
    @property
    def response(self):
        raise RuntimeError("no")


def _called(kind, status, raised):
    def pay():
        try:
            raise kind(status)
        except kind as exc:
            raise ValueError("payment failed") from exc

    if not raised:
        return fingerprint(kind(status))
    try:
        pay()
    except ValueError as exc:
        return fingerprint(exc)


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize("kind", [_HttpError, _Aws, _Urllib])
def test_each_http_status_is_a_problem_of_its_own(kind, raised):
    assert len({_called(kind, status, raised) for status in (503, 429, 400)}) == 3
    assert _called(kind, 503, raised) == _called(kind, 503, raised)
    assert _called(kind, 7, raised) == _called(kind, 8, raised), "no status"


def test_a_response_that_cannot_be_looked_at_has_no_status():
    assert fingerprint(_Touchy("x")) == fingerprint(_Touchy("x"))


DURATION = re.compile(
    r"(?<![a-z])\d+(?:\.\d+)?\s?(?:ms|us|ns|s|sec|secs|seconds?|m|min|minutes?|h|hours?|d|days?)\b", re.I
)


@given(st.text("019.as mhdZ_-", max_size=40))
def test_durations_are_found_as_ever(text):
    pattern = next(pattern for pattern, _ in module._VARIABLE if "minutes" in pattern.pattern)
    assert pattern.sub("<time>", text) == DURATION.sub("<time>", text)


@pytest.mark.parametrize("piece", ["1", "a1", "1.", "a", "'", "a@", "a@a.", "0x", "ab:", "1-", "://", "a.b+c-", "1 "])
def test_a_pattern_takes_time_in_proportion_to_the_text(piece):
    text = piece * (100_000 // len(piece))  # by the square of its length each would take minutes
    for pattern, replacement in module._VARIABLE:
        pattern.sub(replacement, text)
