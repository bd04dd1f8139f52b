"""What keeps a group from the channel at this instant: a silence that covers it, or a storm of which it is a part.

Pure. Owns `ticks`, which looks at all groups together, where the engine looks at one. It must not know who made a
silence, nor how a digest is posted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from celery_guardrails.alerts.condition import OWN_HEALTH
from celery_guardrails.alerts.engine import LIVE, opens
from celery_guardrails.alerts.event import EngineEvent, MembersChanged, Tick, digest_key
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.store.silence import Silence

__all__ = ["digest_events", "members_of", "silence_of", "ticks"]

_LARGEST = 10


def ticks(
    groups: Sequence[AlertGroup],
    now: datetime,
    rules_of: Callable[[AlertGroup], Rules],
    silences: Sequence[Silence] = (),
    *,
    flush: bool = False,
) -> dict[str, Tick]:
    """The tick of each group, by its key.

    Args:
        groups: all groups that are pending or that people know of, digests included.
        now: this instant.
        rules_of: a group's rules.
        silences: those that last now.
        flush: do not wait for `group_wait` or `edit_interval`.
    """
    plain = {group.key: _silenced(group, silences, flush) for group in groups}
    by_environment: dict[str, list[AlertGroup]] = defaultdict(list)
    for group in groups:
        by_environment[group.environment].append(group)
    for environment, known in by_environment.items():
        loud = [group for group in known if _is_loud(plain[group.key], rules_of(group))]
        for group in _diverted(environment, loud, now, rules_of, flush):
            plain[group.key] = Tick(flush, digested=True)
    return plain


def digest_events(groups: Iterable[AlertGroup], environment: str, tick: Tick) -> list[EngineEvent]:
    """What happens to the digest of an environment at a tick, after the groups that it stands for."""
    members = members_of(group for group in groups if group.environment == environment)
    return [tick] if members is None else [members, tick]


def members_of(groups: Iterable[AlertGroup]) -> MembersChanged | None:
    """What the digest of these groups, all of one environment, shows; `None` if it stands for none of them."""
    inside = [group for group in groups if group.digested and group.state in LIVE]
    if not inside:
        return None
    largest = sorted(inside, key=lambda group: (-group.total, group.task))[:_LARGEST]
    total = sum(group.total for group in inside)
    return MembersChanged(len(inside), total, tuple((group.task, group.total) for group in largest))


def silence_of(group: AlertGroup, silences: Iterable[Silence]) -> Silence | None:
    """The silence that covers the whole group the longest; `None`: none does."""
    whole = (one for one in silences if one.fingerprint in (None, group.fingerprint) and _covers(one, group))
    return max(whole, key=lambda one: one.until, default=None)


def _silenced(group: AlertGroup, silences: Sequence[Silence], flush: bool) -> Tick:
    whole = silence_of(group, silences)
    if whole is not None:
        return Tick(flush, silenced_until=whole.until)
    hidden = {one.fingerprint for one in silences if one.fingerprint is not None and _covers(one, group)}
    return Tick(flush, inhibited=bool(hidden) and not group.holds and _news(group) <= hidden)


def _covers(one: Silence, group: AlertGroup) -> bool:
    """Whether the silence is about the group's environment, task and queue."""
    if one.environment != group.environment or (one.queue is not None and one.queue != group.queue):
        return False
    return fnmatchcase(group.task, one.task)


def _news(group: AlertGroup) -> set[str | None]:
    """The fingerprints of which there are more than at the group's last message in the channel."""
    known: Mapping[str, int] = group.spoken.errors if group.spoken is not None else {}
    return {fingerprint for fingerprint, error in group.errors.items() if error.count > known.get(fingerprint, 0)}


def _is_loud(tick: Tick, rules: Rules) -> bool:
    return tick.silenced_until is None and not tick.inhibited and not rules.muted


def _diverted(
    environment: str, loud: Sequence[AlertGroup], now: datetime, rules_of: Callable[[AlertGroup], Rules], flush: bool
) -> list[AlertGroup]:
    """The groups that would open now, where too many do: the digest stands for them."""
    own = digest_key(environment)
    opening = [
        group
        for group in loud
        if group.members is None
        and group.task != OWN_HEALTH
        and group.spoke_at is None
        and opens(group, now, rules_of(group), flush=flush)
    ]
    if not opening:
        return []
    rules = rules_of(opening[0])
    digest = next((group for group in loud if group.key == own), None)
    if digest is not None and digest.state in (GroupState.PENDING, *LIVE) and _is_fresh(digest.seen_at, now, rules):
        return opening
    fresh = [group for group in loud if group.members is None and _is_fresh(group.opened_at, now, rules)]
    return opening if len(opening) + len(fresh) > rules.storm_groups else []


def _is_fresh(at: datetime | None, now: datetime, rules: Rules) -> bool:
    return at is not None and timedelta(0) <= now - at < rules.storm_within
