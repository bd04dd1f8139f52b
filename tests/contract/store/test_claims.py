"""Nobody's letter can be taken over: an end of requeued work is believed only with the claim of that requeue."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celery_guardrails.errors import InvalidTransition
from celery_guardrails.letters.header import Header, read_header, write_header
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.recovery import search as reading
from celery_guardrails.recovery import transition
from celery_guardrails.recovery.requeue import finish_requeues, requeue
from celery_guardrails.store import audit
from celery_guardrails.store import letter as letters
from celery_guardrails.store.claim import Doubt
from celery_guardrails.store.record import Archivable, Archived, LetterSummary, Outcome, State
from celery_guardrails.store.report import Reported
from tests.contract.store.conftest import NOW, Mortuary

LATER = NOW + timedelta(minutes=5)


class Outbound:
    def __init__(self) -> None:
        self.published: list[ReplayMessage] = []

    def publish(self, message: ReplayMessage) -> None:
        self.published.append(message)

    @property
    def header(self) -> Header:
        """What the latest message carries."""
        return read_header(self.published[-1].headers)


def put_back(mortuary: Mortuary, letter: Letter) -> Header:
    """Requeue it; the header of its message."""
    outbound = Outbound()
    requeue(mortuary.store, outbound, letter.id, "ann", "mended", NOW)
    return outbound.header


def report(mortuary: Mortuary, *reports: Recovery) -> list[Reported]:
    with mortuary.store.begin() as conn:
        return letters.recover(conn, reports, LATER)


def row(mortuary: Mortuary, letter_id: str) -> LetterSummary:
    return reading.get(mortuary.store, letter_id).summary


def trail(mortuary: Mortuary, letter_id: str) -> list[audit.AuditEntry]:
    """Its audit entries, the oldest first."""
    with mortuary.store.read() as conn:
        return audit.entries(conn, target=letter_id)[::-1]


def tokens(mortuary: Mortuary) -> list[str]:
    """What the archive holds of tokens in clear."""
    with mortuary.store.read() as conn:
        return list(conn.execute(text("SELECT token FROM guardrails_claim WHERE token IS NOT NULL")).scalars())


def test_each_requeue_has_a_token_of_its_own_of_which_the_archive_keeps_a_digest(mortuary: Mortuary) -> None:
    one, other = mortuary.archive_new(), mortuary.archive_new()
    first, second = put_back(mortuary, one), put_back(mortuary, other)
    assert first.claim_token
    assert second.claim_token
    assert first.claim_token != second.claim_token
    assert len(bytes.fromhex(first.claim_token)) * 8 >= 128
    assert tokens(mortuary) == []
    assert first.claim_token not in repr(first)


def test_a_recovery_with_the_claim_is_believed_and_leaves_an_audit_entry(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)
    right = Recovery(letter.id, 1, LATER, letter.task, header.claim_token)
    assert report(mortuary, right, right) == [Reported(recovered=True), Reported()]
    assert row(mortuary, letter.id).state is State.RECOVERED
    assert [(entry.action, entry.outcome) for entry in trail(mortuary, letter.id)] == [
        ("requeue", "done"), ("recover", "done"),
    ]  # fmt: skip
    entry = trail(mortuary, letter.id)[-1]
    assert (entry.actor, entry.reason) == ("guardian", "mended")
    assert entry.before == {"state": "requeued", "generation": 1}
    assert entry.after == {"state": "recovered", "generation": 1}


FORGED = [
    ({"claim_token": None}, Doubt.NO_TOKEN),
    ({"claim_token": "0" * 48}, Doubt.WRONG_TOKEN),
    ({"claim_token": "\ud800"}, Doubt.WRONG_TOKEN),
    ({"task": "billing.steal"}, Doubt.OTHER_TASK),
    ({"generation": 9}, Doubt.NEVER_CLAIMED),
    ({"generation": 0}, Doubt.NEVER_CLAIMED),
]


@pytest.mark.parametrize(("change", "doubt"), FORGED)
def test_a_recovery_without_the_claim_changes_nothing_and_is_told(
    mortuary: Mortuary, change: dict[str, object], doubt: Doubt
) -> None:
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)
    before = row(mortuary, letter.id)
    forged = replace(Recovery(letter.id, 1, LATER, letter.task, header.claim_token), **change)
    (found,) = report(mortuary, forged)
    assert not found.recovered
    assert found.set_aside is not None
    assert found.set_aside.doubt == str(doubt)
    assert row(mortuary, letter.id) == before
    entry = trail(mortuary, letter.id)[-1]
    assert (entry.actor, entry.action, entry.outcome) == ("guardian", "recover", "refused")
    assert str(doubt) in entry.reason


@pytest.mark.parametrize("state", ["dead", "requeued", "recovered", "discarded"])
@pytest.mark.parametrize(("change", "doubt"), FORGED)
def test_a_death_without_the_claim_is_a_letter_of_its_own(
    mortuary: Mortuary, change: dict[str, object], doubt: Doubt, state: str
) -> None:
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter) if state in ("requeued", "recovered") else Header(claim_token="0" * 48)
    if state == "recovered":
        report(mortuary, Recovery(letter.id, 1, LATER, letter.task, header.claim_token))
    if state == "discarded":
        transition.discard(mortuary.store, letter.id, "ann", "gone", NOW)
    before, payload = row(mortuary, letter.id), reading.get(mortuary.store, letter.id).letter
    forged = mortuary.letter(
        **{"dead_letter_id": letter.id, "generation": 1, "claim_token": header.claim_token, "task": letter.task}
        | {name: value for name, value in change.items() if value != "\ud800"}
        | ({"claim_token": "9" * 48} if change.get("claim_token") == "\ud800" else {})
    )
    (result,) = mortuary.archive(forged)
    assert result.outcome is Outcome.NEW
    assert result.id not in (letter.id, forged.id)
    assert result.set_aside is not None
    assert UUID(result.id)
    assert row(mortuary, letter.id) == before
    assert reading.get(mortuary.store, letter.id).letter == payload
    assert len(reading.deaths(mortuary.store, letter.id)) == 1
    own = row(mortuary, result.id)
    assert (own.state, own.generation, own.regressed, own.task) == (State.DEAD, 0, False, forged.task)
    found = reading.get(mortuary.store, result.id).letter
    assert (found.id, found.dead_letter_id, found.message.body) == (result.id, None, forged.message.body)
    for target, words in ((letter.id, f"kept as a letter of its own, {result.id}"), (result.id, f"of {letter.id}")):
        entry = trail(mortuary, target)[-1]
        assert (entry.action, entry.outcome) == ("die", "refused")
        assert words in entry.reason
    if state in ("requeued", "recovered"):
        assert result.set_aside.doubt == str(doubt)
    else:
        assert result.set_aside.doubt == str(Doubt.NEVER_CLAIMED)


def test_the_same_death_without_the_claim_is_archived_once_whoever_delivers_it(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    put_back(mortuary, letter)
    forged = mortuary.letter(dead_letter_id=letter.id, generation=1, task=letter.task)
    assert [result.outcome for result in mortuary.archive(forged, forged)] == [Outcome.NEW, Outcome.DUPLICATE]
    assert [result.outcome for result in mortuary.archive(forged)] == [Outcome.DUPLICATE]
    assert len(trail(mortuary, letter.id)) == 2
    assert reading.count(mortuary.store) == 2


def test_a_death_that_takes_the_place_of_the_right_one_does_not_keep_it_out(mortuary: Mortuary) -> None:
    """Whoever knows how ids are made can guess that of the next death."""
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)
    right = mortuary.letter(dead_letter_id=letter.id, generation=1, task=letter.task, claim_token=header.claim_token)
    first = mortuary.archive(right.model_copy(update={"claim_token": None}))
    assert first[0].set_aside is not None
    (result,) = mortuary.archive(right)
    assert (result.id, result.outcome, result.set_aside) == (letter.id, Outcome.REGRESSED, None)
    assert row(mortuary, letter.id).death_id == right.id


def test_a_further_death_with_the_claim_leaves_an_audit_entry(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)
    again = mortuary.letter(dead_letter_id=letter.id, generation=1, task=letter.task, claim_token=header.claim_token)
    mortuary.archive(again)
    entry = trail(mortuary, letter.id)[-1]
    assert (entry.action, entry.actor, entry.reason, entry.outcome) == ("die", "guardian", "attempts_exhausted", "done")
    assert entry.before == {"state": "requeued", "generation": 1}
    assert entry.after == {"state": "dead", "generation": 1}


def test_every_state_that_a_letter_has_is_in_its_trail(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    states = [row(mortuary, letter.id).state.value]

    def note() -> None:
        states.append(row(mortuary, letter.id).state.value)

    for act in (transition.discard, transition.restore):
        act(mortuary.store, letter.id, "ann", "because", NOW)
        note()
    header = put_back(mortuary, letter)
    note()
    mortuary.archive(
        mortuary.letter(dead_letter_id=letter.id, generation=1, task=letter.task, claim_token=header.claim_token)
    )
    note()
    claim = transition.claim_requeue(mortuary.store, letter.id, "ann", "again", NOW)
    note()
    assert transition.requeue_failed(mortuary.store, claim, "no route", NOW)
    note()
    header = put_back(mortuary, letter)
    note()
    report(mortuary, Recovery(letter.id, 2, LATER, letter.task, header.claim_token))
    note()
    said = [entry.after["state"] for entry in trail(mortuary, letter.id) if entry.after]
    assert said == states[1:]


def test_a_claim_that_was_given_back_is_believed_if_its_message_got_through(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    claim = transition.claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
    assert transition.requeue_failed(mortuary.store, claim, "unconfirmed", NOW)
    header = put_back(mortuary, letter)  # the same generation once more, with another token
    assert header.claim_token != claim.token
    assert report(mortuary, Recovery(letter.id, 1, LATER, letter.task, claim.token))[0].recovered
    assert tokens(mortuary) == []


def test_an_abandoned_claim_is_published_with_its_own_token(mortuary: Mortuary) -> None:
    letter, outbound = mortuary.archive_new(), Outbound()
    claim = transition.claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
    assert tokens(mortuary) == [claim.token]
    assert claim.token not in repr(claim)
    finish_requeues(mortuary.store, outbound, LATER)
    assert outbound.header.claim_token == claim.token
    assert tokens(mortuary) == []
    assert report(mortuary, Recovery(letter.id, 1, LATER, letter.task, claim.token))[0].recovered


def older(mortuary: Mortuary) -> None:
    """Make the claims what the migration makes of what was put back before there were tokens."""
    with mortuary.store.begin() as conn:
        conn.execute(text("UPDATE guardrails_claim SET digest = '', token = NULL"))


def test_work_that_was_put_back_before_there_were_tokens_is_believed_without(mortuary: Mortuary) -> None:
    one, other = mortuary.archive_new(), mortuary.archive_new()
    for letter in (one, other):
        put_back(mortuary, letter)
    older(mortuary)
    assert report(mortuary, Recovery(one.id, 1, LATER))[0].recovered
    (result,) = mortuary.archive(mortuary.letter(dead_letter_id=other.id, generation=1, task=other.task))
    assert (result.id, result.outcome) == (other.id, Outcome.REGRESSED)
    assert not report(mortuary, Recovery(other.id, 2, LATER))[0].recovered


def test_an_older_claim_that_was_abandoned_gets_a_token_and_the_copy_with_it_is_believed(mortuary: Mortuary) -> None:
    letters_ = mortuary.archive_new(), mortuary.archive_new()
    for letter in letters_:
        transition.claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
    older(mortuary)
    outbound = Outbound()
    finish_requeues(mortuary.store, outbound, LATER)
    token = {message.dead_letter_id: read_header(message.headers).claim_token for message in outbound.published}
    assert None not in token.values()
    one, other = letters_
    assert report(mortuary, Recovery(one.id, 1, LATER, one.task, token[one.id]))[0].recovered
    assert report(mortuary, Recovery(other.id, 1, LATER, other.task, token[other.id]))[0].recovered


def test_an_older_workers_letter_is_believed_by_the_header_of_its_message(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)
    again = mortuary.letter(dead_letter_id=letter.id, generation=1, task=letter.task)
    write_header(again.message.headers, header)
    (result,) = mortuary.archive(again)
    assert (result.id, result.outcome) == (letter.id, Outcome.REGRESSED)


def test_a_map_whose_body_nobody_could_read_is_still_the_same_work(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    for generation, name in ((1, "celery.starmap"), (2, "(undecodable)")):
        (result,) = mortuary.archive(mortuary.further(letter, generation, task=name))
        assert (result.id, result.outcome) == (letter.id, Outcome.REGRESSED)
    assert row(mortuary, letter.id).task == letter.task


@pytest.mark.parametrize(
    "identity",
    ["x; curl evil.example #", "", "4F1C1111-0000-4000-8000-000000000000", "\x1b[2J", "i" * 300, "../../etc"],
)
def test_an_id_that_is_none_is_replaced_by_one_that_follows_from_the_bytes(mortuary: Mortuary, identity: str) -> None:
    odd = Archivable.of(mortuary.letter(id=identity))

    def archive() -> Archived:
        with mortuary.store.begin() as conn:
            return letters.archive(conn, [odd], NOW)[0]

    first = archive()
    assert (first.outcome, str(UUID(first.id))) == (Outcome.NEW, first.id)
    assert archive().outcome is Outcome.DUPLICATE
    assert reading.get(mortuary.store, first.id).letter.id == first.id


def test_an_odd_id_that_an_older_version_archived_is_not_put_back(
    mortuary: Mortuary, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older_version:
        older_version.setattr("celery_guardrails.store.place.is_letter_id", lambda text: True)
        letter = mortuary.archive_new(id="x; curl evil #")
    with pytest.raises(InvalidTransition, match="discard it"):
        requeue(mortuary.store, Outbound(), letter.id, "ann", "mended", NOW)
    assert transition.discard(mortuary.store, letter.id, "ann", "odd", NOW).state is State.DISCARDED


def test_a_generation_without_a_letter_is_none(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new(generation=9)
    assert (row(mortuary, letter.id).generation, row(mortuary, letter.id).regressed) == (0, False)
    assert put_back(mortuary, letter).generation == 1


def test_whoever_reports_without_end_does_not_flood_the_trail(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    put_back(mortuary, letter)
    for _ in range(3):
        report(mortuary, *[Recovery(letter.id, 1, LATER, letter.task)] * 20)
    mortuary.archive(*(mortuary.letter(dead_letter_id=letter.id, generation=1) for _ in range(20)))
    outcomes = [entry.outcome for entry in trail(mortuary, letter.id)]
    assert outcomes.count("refused") == 6
    assert outcomes[0] == "done"


def test_a_report_of_a_letter_that_is_not_here_is_no_news(mortuary: Mortuary) -> None:
    assert report(mortuary, Recovery(str(uuid4()), 1, LATER, "x", "y")) == [Reported()]
    assert trail(mortuary, "") == []


def test_claims_go_with_their_letter(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    put_back(mortuary, letter)
    with mortuary.store.begin() as conn:
        conn.execute(text("DELETE FROM guardrails_dead_letter"))
        assert conn.execute(text("SELECT count(*) FROM guardrails_claim")).scalar() == 0
