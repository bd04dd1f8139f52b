"""How xdist deals the tests out: in which order, and which of them stay in one process.

A file's tests share what the file sets up, so they stay together. Two kinds do not: the tests of a file that waits long
and shares nothing go singly, so that it is not the last to end; and the files that stop a RabbitMQ of their own go one
after the other in a few lanes, so that not each process starts one. What takes longest comes first.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LANES", "SINGLY", "rank", "scheduler", "scope"]

_WORKER = "tests/integration/worker/"
_TRANSPORT = "tests/integration/transport/"
_GUARDIAN = "tests/integration/guardian/"

LANES: tuple[tuple[str, ...], ...] = (
    (
        "tests/chaos/test_chaos_short.py::test_nothing_is_lost_on_rabbitmq",
    ),
    (
        _WORKER + "test_unanswered.py",
        _GUARDIAN + "test_archive_away.py",
        _WORKER + "test_journal.py::test_a_letter_that_nobody_took_stays_in_the_journal_until_it_is_taken",
    ),
    (
        _WORKER + "test_early_waiting.py",
        _WORKER + "test_journal_kills.py",
        _GUARDIAN + "test_guardian.py::test_the_guardian_outlives_its_broker",
    ),
    (
        _TRANSPORT + "test_waiting_rabbitmq.py",
        "tests/integration/test_servers.py",
    ),
)  # fmt: skip
"""Files, or functions, each tuple in one process."""

SINGLY = (
    "tests/acceptance/test_demo.py",
    "tests/chaos/test_chaos_short.py",
    "tests/chaos/test_effect_short.py",
    "tests/integration/test_overdue_way.py",
    _WORKER + "test_known_end.py",
    _WORKER + "test_spooling.py",
    _WORKER + "test_journal.py",
    _WORKER + "test_due.py",
    _WORKER + "test_once.py",
    _WORKER + "test_limited_user.py",
    "tests/integration/test_whole_way.py",
    "tests/integration/redis/test_lease.py",
    "tests/integration/redis/test_take.py",
    "tests/integration/redis/test_outage.py",
    "tests/integration/redis/test_refusal.py",
    "tests/integration/cli/test_first_run.py",
    "tests/integration/cli/test_self_test.py",
    _WORKER + "test_shared_id_kinds.py",
    _WORKER + "test_cold_shutdown.py",
    _WORKER + "test_lost_work.py",
    _WORKER + "test_plain_loss.py",
    _WORKER + "test_remade_queue.py",
)
"""Files whose tests go one by one; none of them has a fixture that its tests share."""

_LANE_OF = {place: f"lane {number}" for number, lane in enumerate(LANES) for place in lane}
_LAST = ("tests/contract/", "tests/typing/", "tests/unit/")


def scope(nodeid: str) -> str:
    """What stays in one process with a test: the name that all of them have in common."""
    function = nodeid.partition("[")[0]
    path = function.partition("::")[0]
    lane = _LANE_OF.get(function) or _LANE_OF.get(path)
    return lane or (nodeid if path in SINGLY else path)


def rank(nodeid: str) -> int:
    """The place of a test among the others: the lower, the sooner."""
    if scope(nodeid) in _LANE_OF.values():
        return 0
    path = nodeid.partition("::")[0]
    if path in SINGLY:
        return 1 + SINGLY.index(path)
    return len(SINGLY) + (2 if path.startswith(_LAST) else 1)


def scheduler(config: Any, log: Any) -> Any:
    """xdist's scheduler that goes by `scope`."""
    from xdist.scheduler import LoadFileScheduling  # only here: it need not be installed to run one test

    class Spreading(LoadFileScheduling):  # type: ignore[misc]
        """`--dist loadfile`, but for the long files and the lanes."""

        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    return Spreading(config, log)
