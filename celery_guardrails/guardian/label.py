"""Which tasks have labels of their own in metrics: a bounded number, so that no name can fill Prometheus's memory.

Owns the choice: the first tasks that are seen, for as long as this guardian runs, so that a series never changes its
name. Others are added up as `other`. It must not know which metrics there are.
"""
# on its own: it remembers from one scrape to the next, which no metric does

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from celery_guardrails.figures.summary import TaskFigures

__all__ = ["OTHER", "Labels"]

OTHER = "other"
Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)
Key = TypeVar("Key", bound=tuple[str, ...])


class Labels:
    """The tasks that have labels of their own.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._shown: set[str] = set()

    def of(self, task: str) -> str:
        """The label of a task."""
        if task not in self._shown:
            if len(self._shown) >= self._most:
                return OTHER
            self._shown.add(task)
        return task

    def key(self, labels: tuple[str, ...], place: int) -> tuple[str, ...]:
        """Labels with that of the task, which stands at this place."""
        return (*labels[:place], self.of(labels[place]), *labels[place + 1 :])

    def sums(self, family: Family, values: Mapping[Key, float], place: int) -> Family:
        """Add values to a metric, those of other tasks added up; the task stands at this place of the labels."""
        found: dict[tuple[str, ...], float] = {}
        for labels, value in values.items():
            key = self.key(labels, place)
            found[key] = found.get(key, 0) + value
        for key, value in found.items():
            family.add_metric(list(key), value)
        return family

    def merged(self, figures: Mapping[str, TaskFigures]) -> dict[str, TaskFigures]:
        """Figures by label, those of other tasks merged."""
        found: dict[str, TaskFigures] = {}
        for task, each in figures.items():
            found.setdefault(self.of(task), TaskFigures()).merge(each)
        return found
