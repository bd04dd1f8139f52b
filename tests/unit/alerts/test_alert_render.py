"""How an alert reads, and that it holds Slack's limits whatever is in it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.alerts.event import AlertEvent, LettersChanged
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Notice
from celery_guardrails.alerts.render import Style, headline, render, render_reply
from celery_guardrails.store.record import Before
from celery_guardrails.testing.slack_limits import faults_of
from celery_guardrails.testing.slack_show import shown
from celery_guardrails.text import code, count_of, cut, escape, one_line, since, when

T0 = datetime(2026, 3, 1, 14, 2, 5, tzinfo=timezone.utc)
EVENT = AlertEvent(
    ref_id="d1",
    environment="production",
    task="shop.tasks.OnboardingEmail",
    at=T0,
    error="smtplib.SMTPServerDisconnected",
    message="Connection unexpectedly closed: <timed out> & gone",
    fingerprint="v1:a",
    reason="attempts_exhausted",
    category="connection",
    letter_id="l1",
    owner="growth",
    runbook="https://runbooks.example/onboarding?a=1&b=2",
    queue="mail",
    version="7",
    affected={"user_id": "42"},
    correlation={"order_id": "A-17"},
)


def counted(*events: AlertEvent) -> AlertGroup:
    group = AlertGroup.idle(events[0])
    for event in events:
        group = group.add(event, T0)
    return replace(group, state=GroupState.OPEN)


TWELVE = counted(*(replace(EVENT, letter_id=f"l{n}") for n in range(1, 13)))


WHOLE = f"""\
OnboardingEmail: 12 dead letters (production)
Since 14:02 UTC, 12 messages of shop.tasks.OnboardingEmail used up all attempts. They will not run again by \
themselves.
  Environment: production
  Severity: error
  First failure: 2026-03-01 14:02:05 UTC
  Last failure: 2026-03-01 14:02:05 UTC
  Affected: user_id: 42
  Owner: growth
  Queue: mail
  Release: 7
Top errors:
  12 x smtplib.SMTPServerDisconnected: Connection unexpectedly closed: <timed out> & gone
Next step:
  Runbook: https://runbooks.example/onboarding?a=1&b=2
  celery -A shop guardrails dlq show l12
  celery -A shop guardrails dlq list 'task:shop.tasks.OnboardingEmail state:dead'
  celery -A shop guardrails dlq requeue 'task:shop.tasks.OnboardingEmail state:dead' --reason "..."
Letters (3 of 12): l10 order_id=A-17; l11 order_id=A-17; l12 order_id=A-17
Console: http://c/alerts/{TWELVE.alert_id}
Alert {TWELVE.alert_id} · period 1 · updated 2026-03-01 14:07:05 UTC"""


def test_the_whole_message():
    rendered = render(TWELVE, T0 + timedelta(minutes=5), Style(app="shop", console_url="http://c"))
    assert rendered.plain == WHOLE
    assert [block["type"] for block in rendered.blocks] == [
        "header",
        "section",
        "section",
        "section",
        "section",
        "section",
        "actions",
        "context",
    ]
    assert rendered.blocks[0]["text"]["text"] == "OnboardingEmail: 12 dead letters (production)"
    assert "&lt;timed out&gt; &amp; gone" in rendered.blocks[3]["text"]["text"]
    steps = rendered.blocks[4]["text"]["text"].splitlines()
    assert steps[0] == "*Next step*"
    assert steps[1].startswith("Runbook: ")
    assert steps[2] == "`celery -A shop guardrails dlq show l12`"
    assert rendered.blocks[5]["text"]["text"].startswith("*Letters (3 of 12)*\n`l10 order_id=A-17`\n")
    assert rendered.text.startswith("OnboardingEmail: 12 dead letters (production): Since 14:02 UTC, 12 messages")
    assert "Connection unexpectedly closed: <timed out> & gone" in shown("#alerts", rendered.text, rendered.blocks)
    assert "[Open in console] http://c/alerts/" in shown("#alerts", rendered.text, rendered.blocks)
    assert "14:02 UTC" in shown("#alerts", rendered.text, ())


def test_what_is_not_known_is_left_out():
    bare = counted(replace(EVENT, owner=None, runbook=None, queue="", version=None, affected={}, correlation={}))
    plain = render(bare, T0).plain
    for word in ("Owner", "Runbook", "Queue", "Release", "Affected", "http", "Letters of"):
        assert word not in plain
    assert plain.startswith("OnboardingEmail: 1 dead letter (production)\n")


def test_several_reasons_and_errors_are_listed_most_first():
    events = [replace(EVENT, fingerprint=f"v1:{n}", error=f"E{n}", reason="permanent_error") for n in range(7)]
    plain = render(counted(*[EVENT] * 3, *events), T0).plain
    assert "died: 7 failed with an error that is not retried, 3 used up all attempts" in plain
    assert "  3 x smtplib" in plain
    assert "and 3 dead letters with other errors" in plain
    house = render(counted(replace(EVENT, reason="own")), T0).plain
    assert "1 message of shop.tasks.OnboardingEmail own." in house


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        (None, "The letters in the archive still need a decision"),
        (LettersChanged(dead=1, recovered=2), "1 dead letter still needs a decision"),
        (LettersChanged(dead=9), "9 dead letters still need a decision"),
    ],
)
def test_resolved_says_what_still_needs_a_decision(letters, words):
    group = replace(TWELVE, state=GroupState.RESOLVED, letters=letters)
    rendered = render(group, T0)
    assert words in rendered.plain
    assert headline(group) == "OnboardingEmail: 12 dead letters (production), no new ones"
    facts = {} if letters is None else {"dead": letters.dead}
    assert words in render_reply(group, Notice.RESOLVED, facts).plain


def test_replies_say_what_changed():
    facts = {"total": 31, "base": 12}
    assert "It got worse: 31 dead letters now, 12 at the last" in render_reply(TWELVE, Notice.WORSE_TOTAL, facts).text
    assert "It fails again: 31 dead letters now" in render_reply(TWELVE, Notice.REOPENED, facts).text
    assert "31 dead letters now." in render_reply(TWELVE, Notice.GROWTH, facts, remarks=("Possible duplicate",)).text


def test_affected_names_five_and_counts_the_rest():
    few = counted(*(replace(EVENT, affected={"user": f"u{n}"}) for n in range(8)))
    assert "user: u0, u1, u2, u3, u4 and 3 more" in render(few, T0).plain
    many = counted(*(replace(EVENT, affected={"user": f"u{n}"}) for n in range(30)))
    assert "and 15+ more" in render(many, T0).plain


def test_the_commands_find_these_letters_and_no_others():
    narrow = replace(counted(EVENT), fingerprint="v1:a")
    assert "'task:shop.tasks.OnboardingEmail fingerprint:v1:a state:dead'" in render(narrow, T0).plain
    odd = counted(replace(EVENT, task='two words"*\\'))
    assert r"""list 'task:"two words\u0022\u002a\u005c" state:dead'""" in render(odd, T0).plain


def test_the_digest_changes_with_the_text_and_not_with_the_time():
    now = render(TWELVE, T0).digest
    assert render(TWELVE, T0 + timedelta(hours=1)).digest == now
    assert render(TWELVE.add(EVENT, T0), T0).digest != now


TEXT = st.text(max_size=4000) | st.sampled_from(
    ["<!channel>", "@here " * 900, "&<>" * 2000, "```", "\n\r\x00", "𝒳" * 3000]
)
EVENTS = st.builds(
    lambda task, env, error, message, fp, owner, runbook, affected, reason: replace(
        EVENT,
        task=task,
        environment=env,
        error=error,
        message=message,
        fingerprint=fp,
        owner=owner,
        runbook=runbook,
        affected=affected,
        correlation=affected,
        reason=reason,
        queue=message,
        version=error,
    ),
    *[TEXT] * 7,
    st.dictionaries(TEXT, TEXT, max_size=3),
    TEXT,
)


# hypothesis may want to show an example, and eight events full of long texts are longer than it likes
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(st.lists(EVENTS, min_size=1, max_size=8), st.sampled_from(GroupState), st.booleans())
def test_the_limits_hold_whatever_is_in_it(events, state, many):
    group = replace(
        counted(*events), state=state, total=10**9 if many else len(events), letters=LettersChanged(3, 2, 1)
    )
    rendered = render(group, T0, Style(app="a", console_url="http://c"), ("remark " * 200,))
    assert faults_of(rendered.blocks) == []
    assert len(headline(group)) <= 150
    assert 1 <= len(rendered.text) <= 300
    assert len(rendered.blocks[2]["fields"]) <= 10
    texts = [rendered.text, *_texts(rendered.blocks)]
    assert sum(map(len, texts)) <= 9_000
    for text in texts:
        assert "<" not in text
        assert "\x00" not in text
        assert "@channel" not in text
        assert "@here" not in text
    json.dumps(rendered.blocks)
    reply = render_reply(group, Notice.WORSE_TOTAL, {"total": 1})
    assert faults_of(reply.blocks) == []
    assert len(reply.text) <= 300


def _texts(value):
    if isinstance(value, dict):
        if value.get("type") == "mrkdwn":
            yield value["text"]
        else:
            for inner in value.values():
                yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


@given(st.text(), st.integers(1, 60))
def test_escaping_keeps_its_limit_and_cuts_no_entity(text, limit):
    escaped = escape(text, limit)
    assert len(escaped) <= limit
    assert "<" not in escaped
    assert ">" not in escaped
    rest = escaped.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
    assert "&" not in rest


def test_words():
    assert escape("<!channel> & @everyone") == "&lt;!\u2060channel&gt; &amp; @\u2060everyone"
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("abcd", 0) == ""
    assert code("a`b") == "`a'b`"
    assert code("") == "` `"
    assert one_line("a\n\tb  c\x1b") == "a b c"
    assert count_of(1, "dead letter") == "1 dead letter"
    assert count_of(1204, "dead letter") == "1,204 dead letters"
    assert when(None) == "unknown"
    assert since(T0, T0) == "14:02 UTC"
    assert since(T0 - timedelta(days=1), T0) == "2026-02-28 14:02:05 UTC"


def test_one_message_is_told_in_the_singular():
    plain = render(counted(EVENT), T0, Style()).plain
    assert "1 message of" in plain
    assert "It will not run again by itself." in plain


@pytest.mark.parametrize("state", [GroupState.OPEN, GroupState.QUIET, GroupState.RESOLVED])
@pytest.mark.parametrize(
    ("letters", "story", "ending"),
    [
        (LettersChanged(recovered=12), "All have recovered.", ", all recovered"),
        (LettersChanged(recovered=10, discarded=2), "No letter needs a decision any more.", ", all decided"),
        (LettersChanged(requeued=3, recovered=9), "No letter needs a decision now: 3 run again.", ""),
        (LettersChanged(requeued=1, recovered=11), "No letter needs a decision now: 1 runs again.", ""),
    ],
)
def test_what_needs_no_decision_is_not_offered_again(state, letters, story, ending):
    rendered = render(replace(TWELVE, state=state, letters=letters), T0, Style(app="shop"))
    assert story in rendered.plain
    assert rendered.plain.splitlines()[0].startswith(f"OnboardingEmail: 12 dead letters (production){ending}")
    for shown_text in (rendered.plain, json.dumps(rendered.blocks)):
        assert "requeue '" not in shown_text
        assert "guardrails dlq requeue" not in shown_text
        assert "will not run again" not in shown_text
        for nothing_to_do in ("Next step", "guardrails dlq", "Letters (", "Runbook", "l12"):
            assert nothing_to_do not in shown_text
    assert "needs a decision now" in render_reply(TWELVE, Notice.RESOLVED, {"dead": 0}).plain


def test_what_may_have_run_is_looked_at_first():
    doubtful = replace(EVENT, reason="worker_lost", may_have_run=True, letter_id="l9")
    cancelled = replace(doubtful, reason="cancelled")
    for group, which in (
        (counted(doubtful), "It may have done its work, or part of it"),
        (counted(doubtful, doubtful), "They may have done their work, or part of it"),
        (counted(cancelled), "It may have run already"),
        (counted(doubtful, cancelled), "They may have run already"),
    ):
        plain = render(group, T0, Style(app="shop")).plain
        assert f"{which}: look at each before it is put back." in plain
        assert "dlq requeue" not in plain
        assert "  celery -A shop guardrails dlq show l9" in plain
    mixed = render(counted(EVENT, doubtful, EVENT), T0, Style(app="shop")).plain
    assert "1 of them may have run already" in mixed
    assert "dlq list 'task:shop.tasks.OnboardingEmail state:dead may_have_run:yes'" in mixed
    assert "dlq requeue" in mixed  # a query leaves them out
    over = replace(counted(doubtful), letters=LettersChanged(recovered=1))
    assert "may have run" not in render(over, T0).plain


def test_a_lost_worker_is_not_blamed_on_the_task_unless_it_lost_several():
    lost = replace(EVENT, reason="worker_lost", crashes=1)
    one = render(counted(lost), T0).plain
    assert "1 message of shop.tasks.OnboardingEmail was running when its worker was killed." in one
    assert "more than once" not in one
    killer = replace(lost, crashes=3)
    assert "OnboardingEmail was running more than once when its worker died." in render(counted(killer), T0).plain
    killers = render(counted(killer, killer), T0).plain
    assert "2 messages of shop.tasks.OnboardingEmail were running more than once when their worker died." in killers
    both = render(counted(lost, killer, lost), T0).plain
    words = "died: 2 were running when their worker was killed, 1 was running more than once when its worker died."
    assert words in both


def test_an_unknown_error_is_called_unknown():
    event = replace(EVENT, reason="permanent_error", category="unknown", unknown=True)
    plain = render(counted(event), T0).plain
    assert "failed with an error of unknown kind, which is not retried." in plain
    assert "permanent" not in plain
    both = render(counted(event, replace(event, unknown=False, category="bug"), event), T0).plain
    assert "2 failed with an error of unknown kind, which is not retried, 1 failed with an error that is not" in both


def test_a_letter_that_died_again_is_one_letter():
    first = replace(EVENT, letter_id="l1", fingerprint="v1:a", error="E1")
    stood = Before(T0, "v1:a", "attempts_exhausted", may_have_run=False)
    again = replace(first, at=T0 + timedelta(hours=1), fingerprint="v1:b", error="E2", reason="expired", before=stood)
    group = counted(first, replace(EVENT, letter_id="l2"), again)
    plain = render(group, T0, Style(app="shop")).plain
    assert plain.splitlines()[0] == "OnboardingEmail: 2 dead letters (production)"
    assert "1 expired before running, 1 used up all attempts" in plain
    assert "  1 x E2" in plain
    assert "1 requeue ended as a dead letter again." in plain
    assert sum(error.count for error in group.errors.values()) == sum(group.reasons.values()) == 2
    elsewhere = counted(first, replace(again, before=replace(stood, died_at=T0 - timedelta(days=1))))
    assert elsewhere.total == 2, "it was counted in a period before this one"


def test_who_requeued_what_and_why_is_one_line_however_long_the_reason():
    facts = {"by": "ada", "why": "it\nis <!here> mended" + " x" * 1000, "letters": 1}
    reply = render_reply(TWELVE, Notice.REQUEUED, facts)
    assert "ada requeued 1 letter: it is" in reply.plain
    assert "<!here>" not in reply.text
    assert len(reply.plain) < 500
