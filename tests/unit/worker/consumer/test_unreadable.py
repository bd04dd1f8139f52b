"""The letter of a message that never became a task: its identity, and that nothing in a message breaks it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from hypothesis import given
from hypothesis import strategies as st
from kombu import Message

from celery_guardrails import GuardedTask, Guardrails, Policy
from celery_guardrails.letters.codec import decode, encode
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.replay import replay
from celery_guardrails.policy.decision import Reason
from celery_guardrails.redaction import MASK
from celery_guardrails.transport.body import as_published
from celery_guardrails.worker.consumer import unreadable
from celery_guardrails.worker.consumer.unreadable import UNNAMED, dead_letter_raw, letter_of, try_to_publish

NewApp = Callable[..., Celery]
M = repr(MASK)


def message(body: Any = b"[[1], {}, {}]", tag: Any = "tag", **changes: Any) -> Message:
    fields: dict[str, Any] = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"task": "shop.gone", "id": "t1"},
        "properties": {"delivery_tag": tag} if isinstance(tag, str) else {},
        "delivery_info": {"exchange": "", "routing_key": "shop"},
    }
    return Message(body=body, delivery_tag=tag, **{**fields, **changes})


def letter(app: Celery, made: Message, reason: Reason = Reason.UNKNOWN_TASK, queues: tuple[str, ...] = ()) -> Letter:
    return letter_of(Guardrails.of(app), made, reason, ValueError("why"), "w1", queues)


def test_it_holds_the_whole_message_and_where_it_came_from(new_app: NewApp) -> None:
    headers = {"task": "shop.gone", "id": "t1", "root_id": "r", "group": "g", "x": [1]}
    found = letter(new_app(), message(headers=headers, properties={"priority": 3, "application_headers": headers}))
    assert (found.task, found.task_id, found.root_id, found.group_id) == ("shop.gone", "t1", "r", "g")
    assert (found.queue, found.routing_key, found.priority, found.worker) == ("shop", "shop", 3, "w1")
    assert (found.message.body, found.message.headers) == (b"[[1], {}, {}]", headers)
    assert found.message.properties == {"priority": 3}
    assert (found.preview.args, found.preview.kwargs) == ("(1 not shown)", "{}")


def test_a_redelivered_message_gives_the_same_letter(new_app: NewApp) -> None:
    app = new_app()
    again = {"task": "shop.gone", "id": "t1", "redelivered": True, "x-delivery-count": 2}
    assert letter(app, message()).id == letter(app, message(headers=again)).id
    assert letter(app, message(headers={})).id == letter(app, message(headers={})).id
    # RabbitMQ gives each delivery a number; our header names the publish, so does a publisher's message id
    ours = {**again, "guardrails": {"v": 1, "published_at": 1.0, "work": "abc"}}
    assert letter(app, message(headers=ours, tag=1)).id == letter(app, message(headers=ours, tag=2)).id
    theirs = {"properties": {"message_id": "m1"}}
    assert letter(app, message(tag=1, **theirs)).id == letter(app, message(headers=again, tag=2, **theirs)).id


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"[[2], {}, {}]"},
        {"headers": {"task": "shop.gone", "id": "t2"}},
        {"headers": {"task": "shop.gone", "id": "t1", "retries": 1}},
        {"delivery_info": {"exchange": "", "routing_key": "other"}},
        {"tag": "another"},
        {"headers": {"task": "shop.gone", "id": "t1", "guardrails": {"v": 1, "work": "abc"}}},
    ],
)
def test_two_messages_never_share_a_letter(new_app: NewApp, other: dict[str, Any]) -> None:
    app = new_app()
    assert letter(app, message()).id != letter(app, message(**other)).id


def test_messages_without_an_id_are_told_apart_by_their_delivery(new_app: NewApp) -> None:
    app = new_app()
    assert letter(app, message(headers={})).id != letter(app, message(headers={}, tag="another")).id
    # over AMQP a delivery tag is a number that the next connection uses again
    assert letter(app, message(headers={}, tag=1)).id != letter(app, message(headers={}, tag=1)).id
    assert letter(app, message(tag=1)).id != letter(app, message(tag=1)).id


def test_one_with_a_correlation_id_is_known_by_it(new_app: NewApp) -> None:
    found = letter(new_app(), message(headers={}, tag=1, properties={"correlation_id": "c1"}))
    assert (found.task, found.task_id) == (UNNAMED, "c1")


def test_protocol_1_names_its_task_in_the_body(new_app: NewApp) -> None:
    body = b'{"task": "shop.gone", "id": "p1", "args": [7], "kwargs": {"password": "x"}, "taskset": "g1"}'
    found = letter(new_app(), message(body, headers={}))
    assert (found.task, found.task_id, found.group_id) == ("shop.gone", "p1", "g1")
    assert (found.preview.args, found.preview.kwargs) == ("(1 not shown)", "(password: not shown)")


def test_the_policy_says_whose_task_it_is(new_app: NewApp) -> None:
    app = new_app()

    @app.task(base=GuardedTask, name="shop.mail", shared=False, policy=Policy(owner="growth", severity="critical"))
    def mail() -> None: ...

    found = letter(app, message(b"{", headers={"task": "shop.mail", "id": 5}), Reason.UNDECODABLE)
    assert (found.owner, found.severity, found.task_id) == ("growth", "critical", "5")
    assert found.preview.args == "(1 bytes that were not read)"


SECRET = "hunter2xyz"


def with_mail(app: Celery) -> Celery:
    @app.task(base=GuardedTask, name="shop.mail", shared=False, policy=Policy(redact=("maiden",)))
    def mail(user: Any, password: str, maiden: str, note: Any = None) -> None: ...

    @app.task(name="shop.plain", shared=False)
    def plain(user: Any, password: str) -> None: ...

    return app


@pytest.mark.parametrize(
    ("task", "payload", "args", "kwargs"),
    [
        ("shop.mail", [["ada", SECRET, SECRET], {"note": 7, "maiden": SECRET}, {}], f"('ada', {M}, {M})", None),
        ("shop.mail", [["ada"], {"password": SECRET, "note": {"maiden": SECRET}}, {}], "('ada',)", None),
        ("shop.plain", [["ada", SECRET], {}, {}], f"('ada', {M})", "{}"),
        ("shop.gone", [["ada", SECRET], {"hm": SECRET, "x": 1}, {}], "(2 not shown)", "(hm, x: not shown)"),
        ("shop.gone", [[], {}, {}], "()", "{}"),
        ("shop.gone", [["ada"], SECRET, {}], "(1 not shown)", "(a str in place of keyword arguments)"),
        ("shop.mail", [["ada", SECRET], SECRET, {}], f"('ada', {M})", "(a str in place of keyword arguments)"),
        ("shop.mail", [SECRET, {"password": SECRET}, {}], "(a str in place of arguments)", None),
        ("shop.mail", [[SECRET]], "(a list of 1 in place of arguments)", ""),
        ("shop.mail", SECRET, "(a str in place of arguments)", ""),
        ("shop.mail", {"a": SECRET}, "(a dict in place of arguments)", ""),
        ("celery.map", [["shop.mail", [SECRET]], {}, {}], None, None),
        ("celery.starmap", [["shop.mail", [["ada", SECRET]]], {}, {}], f"celery.starmap, 1 item: [('ada', {M})]", None),
        ("celery.starmap", [["shop.gone", [["ada", SECRET]]], {}, {}], "(2 not shown)", "{}"),
    ],
)  # fmt: skip
def test_arguments_are_shown_by_their_parameters_names_or_not_at_all(
    new_app: NewApp, task: str, payload: Any, args: str | None, kwargs: str | None
) -> None:
    body = json.dumps(payload).encode()
    headers = {"task": task, "id": "t1", "argsrepr": f"({SECRET!r},)", "kwargsrepr": f"{{'hm': {SECRET!r}}}"}
    if task == "celery.map":
        payload[0][1] = [{"password": SECRET}]
        body = json.dumps(payload).encode()
    own = {name: text for name, text in headers.items() if not name.endswith("repr") or task == "shop.gone"}
    app = with_mail(new_app())
    found = letter(app, message(body, headers=own), Reason.UNDECODABLE)
    assert SECRET not in repr(found.model_copy(update={"message": None}))
    assert args in (None, found.preview.args)
    assert kwargs in (None, found.preview.kwargs)
    assert found.message.body == body


def test_what_a_caller_says_of_the_arguments_of_an_unknown_task_is_shown(new_app: NewApp) -> None:
    ours = {"task": "shop.gone", "id": "t1", "argsrepr": f"('ada', 'Bearer {SECRET}')", "kwargsrepr": SECRET,
            "guardrails": {"v": 1, "work": "w", "described": ["args"]}}  # fmt: skip
    found = letter(new_app(), message(headers=ours))
    assert (found.preview.args, found.preview.kwargs) == (f"('ada', 'Bearer {MASK}')", "{}")


@pytest.mark.parametrize(
    "exc", [ValueError(f"expected a key\n  in line 1: {{password: {SECRET}"), InvalidTaskError(f"password={SECRET}")]
)
def test_an_error_of_reading_quotes_nothing_of_the_message(new_app: NewApp, exc: Exception) -> None:
    found = letter_of(Guardrails.of(new_app()), message(b"{"), Reason.UNDECODABLE, exc, "w1", ())
    assert SECRET not in repr(found)
    history = {"n": 1, "ended_at": 1.0, "error": "E", "message": f"password={SECRET}"}
    headers = {"task": "shop.gone", "id": "t1", "guardrails": {"v": 1, "history": [history]}}
    assert letter(new_app(), message(headers=headers)).attempts[0].message == f"password={MASK}"


def test_the_only_queue_that_is_consumed_is_the_one(new_app: NewApp) -> None:
    app = new_app()
    lost = message(delivery_info={"exchange": 5, "routing_key": None})
    assert letter(app, lost, queues=("shop",)).queue == "shop"
    assert letter(app, lost, queues=("shop", "mail")).queue == ""
    assert letter(app, message(), queues=("shop", "mail")).queue == "shop"


def test_what_nobody_could_decompress_is_replayed_compressed(new_app: NewApp) -> None:
    headers = {"task": "shop.gone", "id": "t1", "compression": "klingon"}
    found = decode(encode(letter(new_app(), message(b"zzz", headers=headers), Reason.UNDECODABLE)))
    assert found.message.compressed
    assert replay(found, 1, found.id, "t0ken", found.died_at).headers["compression"] == "klingon"


@given(
    st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.floats() | st.text() | st.integers(), st.lists)),
    st.one_of(st.binary(), st.text(), st.none()),
)
def test_whatever_is_in_a_message_makes_a_letter(headers: dict[str, Any], body: Any) -> None:
    app = Celery("any", broker="memory://", set_as_current=False)
    odd = {"\ud800": "\ud800", "task": "\ud800\0", "id": headers, **headers}
    found = letter(app, message(body, headers=odd, properties=headers, content_type=5), Reason.UNDECODABLE)
    assert decode(encode(found)).id == found.id


def test_a_description_that_fails_leaves_the_message_whole(new_app: NewApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "read_header", lambda headers: 1 / 0)
    found = letter(new_app(), message())
    assert (found.task, found.message.body) == (UNNAMED, b"[[1], {}, {}]")
    assert uuid.UUID(found.id)


def test_an_item_that_is_no_message_is_kept_whole_and_cannot_be_requeued(
    new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guardrails.of(new_app())
    sent: list[Letter] = []

    def taken(guard: Guardrails, found: Letter) -> bool:
        sent.append(found)
        return True

    monkeypatch.setattr(unreadable, "try_to_publish", taken)
    for tag in ("a", "a", "b", "half \ud800"):
        assert dead_letter_raw(guard, b"\xff\0", "shop", tag)
    assert (sent[0].message.body, sent[0].queue, sent[0].reason) == (b"\xff\0", "", Reason.UNDECODABLE)
    assert sent[0].id == sent[1].id != sent[2].id
    assert not dead_letter_raw(guard, None, "shop", "a")  # type: ignore[arg-type]


def test_a_letter_that_nobody_takes_is_said_not_to_be_kept(new_app: NewApp, tmp_path: Any) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    app = new_app({"dead_letter": {"spool_dir": str(blocked), "publish_timeout": 0.1}})
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    assert not try_to_publish(Guardrails.of(app), letter(app, message()))


@pytest.mark.parametrize(
    ("body", "encoding", "published"),
    [
        (b"\xff", "utf-8", b"\xff"),
        ("ä", "latin-1", b"\xe4"),
        ("ä", "klingon", "ä".encode()),
        ("ä", None, "ä".encode()),
        ("\ud800", "utf-8", b"\xed\xa0\x80"),
        (memoryview(b"x"), "utf-8", b"x"),
        (None, "utf-8", b""),
    ],
)
def test_a_body_is_taken_back_to_its_bytes(body: Any, encoding: Any, published: bytes) -> None:
    assert as_published(body, encoding) == published
