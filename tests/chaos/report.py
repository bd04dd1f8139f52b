"""What a chaos run tells people: a table of faults survived by kind, the books, and what is wrong with them.

Owns the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.balance import Books
from tests.chaos.fault import FAULTS
from tests.chaos.storm import Struck

__all__ = ["Result", "rendered"]

_SHOWN = 60


@dataclass
class Result:
    """One run on one broker.

    Attributes:
        overdue: workers that did not end when they were asked, and were killed after 25 seconds.
        brokerless: workers that Celery ended at their start, because their broker went.
        accidents: processes that ended although nobody ended them.
        seconds: how long it all took, and how long the drain at the end.
    """

    broker: str
    seed: int
    books: Books
    struck: Sequence[Struck]
    seconds: float
    drained: float
    accidents: Sequence[str] = field(default_factory=list)
    overdue: int = 0
    brokerless: int = 0
    confirmed: int = 0
    runs: int = 0

    @property
    def passed(self) -> bool:
        """Whether the books balance and nothing ended by itself."""
        return self.books.balanced and not self.accidents


def rendered(result: Result) -> str:
    """The report."""
    counts = Counter(fault.fault for fault in result.struck)
    books = result.books
    verdict = "the books balance" if books.balanced else f"THE BOOKS DO NOT BALANCE: {len(books.findings)} findings"
    took = f"{result.seconds:.0f} s, of which {result.drained:.0f} s drain"
    lines = [
        "",
        f"{result.broker}, seed {result.seed}: {verdict} ({took})",
        "",
        f"  {'fault':38} survived",
        *(f"  {name:38} {counts[name]:8}" for name in FAULTS if counts[name]),
        f"  {'all':38} {len(result.struck):8}",
        "",
        f"  {'submitted and confirmed':38} {result.confirmed:8}",
        f"  {'executions of a body':38} {result.runs:8}",
        f"  {'shutdowns that had to be killed':38} {result.overdue:8}",
        f"  {'workers that found no broker':38} {result.brokerless:8}",
        *(f"  {'= ' + end:38} {count:8}" for end, count in sorted(books.ends.items())),
    ]
    lines += _counted("ran again because of", books.repeats)
    lines += _counted("more than one end", books.both)
    lines += [f"  {finding}" for finding in books.findings[:_SHOWN]]
    if len(books.findings) > _SHOWN:
        lines.append(f"  ... and {len(books.findings) - _SHOWN} more")
    lines += [f"  ended by itself: {accident}" for accident in result.accidents]
    return "\n".join(lines) + "\n"


def _counted(title: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    return ["", f"  {title}:", *(f"    {name:60} {count:4}" for name, count in counts.most_common()), ""]
