"""The balance: from what was submitted, what ran, what is dead and what broke, to books that balance or do not.

Pure. Every submitted id ends as exactly one of: succeeded, dead, discarded; beside these there are only links of chains
that were not reached. Work that was declared at-most-once is no exception: what a killed worker had is dead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.chaos.archive import Archived
from tests.chaos.complete import KILLS, faults_of
from tests.chaos.ledger import Run, Sent, Told
from tests.chaos.storm import Struck
from tests.chaos.work import KINDS, Kind

__all__ = ["Books", "Finding", "balance"]

_BEFORE_ALL, _BEFORE_ONE = 30.0, 5.0
"""Seconds by which a fault may precede the first run that it explains: what was taken before is run from memory."""

_FORGETS = 2.0
"""Seconds before its end from which a broker may have forgotten that it took an acknowledgement.

A quorum queue's client keeps all but 32 of them in memory until the queue has applied those, and an orderly stop does
not wait for them."""
_ENDS_OF_A_BROKER = ("broker killed", "broker stopped")


@dataclass(frozen=True)
class Finding:
    """Something that must not be. `what` is one of: missing, invented, double, twice, repeated, wrong, left."""

    what: str
    id: str
    text: str

    def __str__(self) -> str:
        return f"{self.what:9} {self.id}  {self.text}"


@dataclass
class Books:
    """The books.

    Attributes:
        ends: how many ids ended how.
        repeats: attempts of at-least-once work that ran again, by the fault that explains it.
        both: ids that succeeded and are dead as well, by the fault that explains it.
        findings: what must not be.
    """

    ends: Counter[str] = field(default_factory=Counter)
    repeats: Counter[str] = field(default_factory=Counter)
    both: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether there is nothing that must not be."""
        return not self.findings


def balance(told: Told, letters: Iterable[Archived], struck: Iterable[Struck], left: Mapping[str, int]) -> Books:
    """Balance the books.

    Args:
        told: the ledger.
        letters: the archive.
        struck: the faults that were applied.
        left: what still lies in queues, waiting sets, the spool: how many by place.
    """
    bench = _Bench(told, list(letters), list(struck))
    for id in told.sent:
        bench.settle(id)
    bench.find_invented()
    for place, size in left.items():
        bench.books.findings.append(Finding("left", "", f"{size} in {place}"))
    return bench.books


class _Bench:
    """What the balance works on: everything by id."""

    def __init__(self, told: Told, letters: list[Archived], struck: list[Struck]) -> None:
        self.told, self.struck = told, struck
        self.books = Books()
        self.runs: dict[str, list[Run]] = defaultdict(list)
        for run in told.runs:
            self.runs[run.id].append(run)
        self.letters: dict[str, list[Archived]] = defaultdict(list)
        for letter in letters:
            self.letters[letter.task_id].append(letter)

    def settle(self, id: str) -> None:
        """Find out how one id ended."""
        sent, kind = self.told.sent[id], KINDS[self.told.sent[id].kind]
        certain, reachable = self._exists(sent)
        ends = self._ends(id, kind)
        if not reachable:
            if self.runs.get(id) or ends:
                self._find("invented", id, f"{kind.name}: the link before it did not succeed, and yet it is there")
            self.books.ends["not reached"] += 1
            return
        if not ends:
            self._no_end(sent, kind, certain)
        else:
            self.books.ends[self._one_end(id, kind, ends)] += 1
        self._check_runs(sent, kind)
        for letter in self.letters.get(id, ()):
            for fault in faults_of(letter, sent, kind, self.runs.get(id, []), self.struck):
                self._find("wrong", id, f"{kind.name}, letter {letter.id} ({letter.reason}): {fault}")

    def find_invented(self) -> None:
        """What nobody submitted must not be there."""
        for id in sorted({*self.runs, *self.letters} - self.told.sent.keys()):
            tasks = ", ".join(letter.task for letter in self.letters.get(id, ())) or "no letter"
            self._find("invented", id, f"{len(self.runs.get(id, []))} runs, {tasks}")

    def _exists(self, sent: Sent) -> tuple[bool, bool]:
        """Whether it is certain, and whether it is possible, that this was published."""
        if sent.after is None:
            return sent.sure, True
        succeeded = self._succeeded(sent.after)
        # a parent that succeeded and is dead as well may have died on the way to publishing its link
        return succeeded and not self.letters.get(sent.after), succeeded

    def _succeeded(self, id: str) -> bool:
        return any(run.ended_at is not None for run in self.runs.get(id, ()))

    def _ends(self, id: str, kind: Kind) -> set[str]:
        letters = self.letters.get(id, [])
        ends = {"discarded" if letter.state == "discarded" else "dead" for letter in letters}
        # an unstorable result is an end of its own: the body succeeded, and that is what the letter says
        if self._succeeded(id) and not any(letter.reason == "result_unstorable" for letter in letters):
            ends.add("succeeded")
        if kind.may_vanish and not ends and (id in self.told.gone or self.told.sent[id].revoked):
            ends.add("discarded")
        return ends

    def _no_end(self, sent: Sent, kind: Kind, certain: bool) -> None:
        runs = self.runs.get(sent.id, [])
        if not certain and not runs:
            self.books.ends["not confirmed, no end"] += 1
        else:
            self.books.ends["missing"] += 1
            shown = ", ".join(f"attempt {run.attempt} at {run.at:.1f} on {run.worker}" for run in runs) or "never ran"
            self._find("missing", sent.id, f"{kind.name}, submitted at {sent.at:.1f}: {shown}")

    def _killer(self, id: str) -> str | None:
        """The fault that killed a worker while it had work that it had acknowledged, or just after."""
        held = [(run.worker, run.at) for run in self.runs.get(id, ())] or self.told.took.get(id, [])
        for fault in self.struck:
            hit = any(fault.target == worker and fault.until >= at - 0.5 for worker, at in held)
            if fault.fault in KILLS and hit:
                return fault.fault
        return None

    def _one_end(self, id: str, kind: Kind, ends: set[str]) -> str:
        if "succeeded" in ends and not kind.good:
            unwatched = self._unwatched(id) if kind.limited else None
            if unwatched is None:
                self._find("wrong", id, f"{kind.name} cannot succeed, and did")
            else:
                self.books.repeats[f"(no time limit) {unwatched}"] += 1
        count = len(self.letters.get(id, [])) + ("succeeded" in ends)
        if count > 1:
            said = ", ".join(letter.reason for letter in self.letters[id])
            # a letter of work that a living worker still runs is wrong, whatever else broke
            of_journal = kind.once and "worker_lost" in said
            fault = self._killer(id) if of_journal else self._explanation(id, float("inf"))
            word = "succeeded and dead" if "succeeded" in ends else "dead twice"
            if fault is None:
                self._find("double", id, f"{kind.name} {word} ({said}), and no fault explains it")
            self.books.both[f"{word} ({said}): {fault}"] += 1
        return next(end for end in ("succeeded", "dead", "discarded") if end in ends)

    def _unwatched(self, id: str) -> str | None:
        """The fault for which nobody looked after the time limit of a run that came to its end."""
        for run in self.runs[id]:
            for fault in self.struck:
                hit = fault.target in (None, run.worker) and fault.repeats
                if run.ended_at is not None and hit and run.at - 5.0 <= fault.until and fault.at <= run.ended_at:
                    return fault.fault
        return None

    def _check_runs(self, sent: Sent, kind: Kind) -> None:
        by_attempt: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs.get(sent.id, ()):
            by_attempt[run.attempt].append(run)
        for attempt, runs in by_attempt.items():
            allowed = kind.crashes if kind.name == "oom" else 1
            ordered = sorted(runs, key=lambda run: run.at)
            for again in ordered[allowed:]:
                fault = self._explanation(sent.id, again.at)
                where = f"{kind.name}, attempt {attempt} ran {len(runs)} times"
                if kind.once and (end := self._forgotten(ordered)):
                    fault = f"(acknowledged and forgotten) {end}"
                elif kind.once:
                    self._find("twice", sent.id, f"{where}, declared at-most-once ({fault})")
                elif fault is None:
                    self._find("repeated", sent.id, f"{where}, and no fault explains it")
                self.books.repeats[fault or "nothing"] += 1

    def _forgotten(self, runs: list[Run]) -> str | None:
        """How the broker ended just after the first of two runs began, where another worker had the second."""
        first, *others = runs
        if len(others) != 1 or others[0].worker == first.worker:
            return None
        until = min(first.at + _FORGETS, others[0].at)
        ends = (fault for fault in self.struck if fault.fault in _ENDS_OF_A_BROKER and first.at <= fault.at <= until)
        return next((fault.fault for fault in ends), None)

    def _explanation(self, id: str, until: float) -> str | None:
        """The last fault before `until` that can have made this work run, or die, a second time."""
        runs = list(self.runs.get(id, ()))
        parent = self.told.sent[id].after
        while parent is not None:
            runs += self.runs.get(parent, [])
            parent = self.told.sent[parent].after
        first = min((run.at for run in runs), default=self.told.sent[id].at)
        workers = {run.worker for run in runs}
        found = [fault for fault in self.struck if fault.repeats and _explains(fault, first, until, workers)]
        return max(found, key=lambda fault: fault.at).fault if found else None

    def _find(self, what: str, id: str, text: str) -> None:
        self.books.findings.append(Finding(what, id, text))


def _explains(fault: Struck, first: float, until: float, workers: set[int]) -> bool:
    if fault.target is None:
        return fault.at <= until and fault.until >= first - _BEFORE_ALL
    return fault.target in workers and fault.at <= until and fault.until >= first - _BEFORE_ONE
