"""Publishing what must not be there twice: a confirmation that got lost is an error, and no second publish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport import publisher as module
from celery_guardrails.transport.dead_letter import Replayer
from celery_guardrails.transport.dispatch import Dispatch
from celery_guardrails.transport.publisher import Envelope
from tests.integration.transport.conftest import GIVES_UP, Line
from tests.integration.transport.dock import DECLARED as QUEUE_OBJECT
from tests.integration.transport.dock import NOW, QUEUE, Dock

DECLARED = [QUEUE_OBJECT]
ONCE = Envelope(b"once", QUEUE, once=True)


@pytest.fixture
def frozen_after_the_question(line: Line, monkeypatch: pytest.MonkeyPatch) -> Line:
    """The broker answers to whether it is there, and then no more."""
    line.publisher.publish(Envelope(b"before", QUEUE), DECLARED)
    ask: Callable[..., None] = module._find_alive

    def freeze(*args: Any) -> None:
        ask(*args)
        line.publisher.seconds = GIVES_UP
        line.broker.server.pause()

    monkeypatch.setattr(module, "_find_alive", freeze)
    return line


@pytest.mark.own_lines
def test_a_confirmation_that_gets_lost_is_an_error(frozen_after_the_question: Line) -> None:
    line = frozen_after_the_question
    with pytest.raises(PublishError, match="may be there") as caught:
        line.publisher.publish(ONCE, DECLARED)
    assert caught.value.unsure
    assert not caught.value.refused
    line.broker.server.resume()
    assert line.bodies(QUEUE).count(b"once") <= 1


@pytest.mark.own_lines
def test_it_is_not_spooled_either(frozen_after_the_question: Line, dock: Dock) -> None:
    letters: Any = None  # none are sent here
    dispatch = Dispatch(dock.line.publisher, dock.waiting, letters, dock.spool)
    with pytest.raises(PublishError) as caught:
        dispatch.run(ONCE, DECLARED, 0.0, NOW, "attempt 2")
    assert caught.value.unsure
    assert list(dock.spool.entries()) == []


@pytest.mark.own_lines
def test_what_is_put_back_is_not_published_again_either(frozen_after_the_question: Line) -> None:
    line = frozen_after_the_question
    message = ReplayMessage("d1", "shop.mail", b"once", None, None, {}, QUEUE, "", QUEUE, once=True)
    with pytest.raises(PublishError, match="may be there") as caught:
        Replayer(line.app, line.publisher).publish(message)
    assert caught.value.unsure
    line.broker.server.resume()
    assert line.bodies(QUEUE).count(b"once") <= 1


@pytest.mark.own_lines
def test_a_broker_that_is_away_did_not_get_it(line: Line) -> None:
    line.publisher.publish(Envelope(b"before", QUEUE), DECLARED)
    line.publisher.seconds = GIVES_UP
    line.broker.server.pause()
    with pytest.raises(PublishError) as caught:
        line.publisher.publish(ONCE, DECLARED)
    assert not caught.value.unsure
    line.broker.server.resume()
    assert line.bodies(QUEUE) == [b"before"]


@pytest.mark.own_lines
def test_a_connection_from_before_a_restart_is_found_out_before(line: Line) -> None:
    line.publisher.publish(Envelope(b"before", QUEUE), DECLARED)
    line.broker.server.stop()
    line.broker.server.start()
    line.publisher.publish(ONCE, DECLARED)
    assert line.bodies(QUEUE) == [b"before", b"once"]
