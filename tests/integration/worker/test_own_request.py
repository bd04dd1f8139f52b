"""Task classes with a request class of their own: no end outside a body is lost, and theirs still sees it."""

from collections import Counter
from typing import Any

import pytest

from tests.apps.requests import KINDS
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness

REASONS = {"slow": "time_limit", "killed": "worker_lost", "rejected": "rejected", "late": "expired"}


@pytest.fixture
def own(harness: Harness, broker: Broker, result_backend: str) -> Guarded:
    return Guarded(harness, broker.url, result_backend, {}, module="requests")


def seen_of(own: Guarded, task: str) -> Counter[str]:
    return Counter(entry["what"] for entry in own.runs("seen") if entry["task"] == task)


def test_each_way_to_have_a_request_class_of_ones_own_leaves_a_letter_of_each_end(own: Guarded) -> None:
    own.app.finalize()
    for kind in KINDS:
        for how in REASONS:
            options: dict[str, Any] = {"expires": -1} if how == "late" else {}
            own.app.tasks[f"{kind}.{how}"].apply_async(**options)
    own.worker()
    letters = own.letters(len(KINDS) * len(REASONS), bound=240)
    wanted = {f"{kind}.{how}": reason for kind in KINDS for how, reason in REASONS.items()}
    assert {letter.task: letter.reason.value for letter in letters} == wanted
    own.finish()
    for kind in KINDS:
        assert seen_of(own, f"{kind}.slow") == {"failure": 1, "timeout": 1}
        assert seen_of(own, f"{kind}.killed") == {"failure": 1}
        assert seen_of(own, f"{kind}.rejected") == {"failure": 1}
    own.rest()
    assert len(own.letters(0)) == len(letters)


def test_a_time_limit_that_is_retried_is_a_retry_to_their_request_class(own: Guarded) -> None:
    own.worker()
    own.app.tasks["own.patient"].delay("patient")
    own.wait_for_runs("patient", 2, bound=120)
    own.rest()
    assert seen_of(own, "own.patient")["retry"] == 1
    own.no_letters()
