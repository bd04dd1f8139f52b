"""What guardrails is to one Celery application: its settings, its tasks' policies, its connections.

Owns installation, validation and putting tasks under guard by name. Settings are read when they are first needed,
because Celery loads its configuration lazily.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery, Task, current_app
from celery.signals import worker_process_init
from kombu.utils.imports import symbol_by_name

from celery_guardrails.app.adopter import adopter
from celery_guardrails.app.config_report import hide_settings
from celery_guardrails.app.in_force import effective_policy, is_guarded, subject_of, task_faults
from celery_guardrails.app.own_option import cover, uncover, undo_autoretry
from celery_guardrails.app.registry import guard_registered, registered
from celery_guardrails.errors import ConfigurationError, Fault
from celery_guardrails.figures.counters import Counters
from celery_guardrails.idempotency.ledger import Ledger
from celery_guardrails.idempotency.memory import MemoryLedger
from celery_guardrails.idempotency.opening import open_ledger
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy import Effective, Policy
from celery_guardrails.redaction import Redactor, hide_also
from celery_guardrails.settings import Settings, load_settings
from celery_guardrails.transport.address import address_faults
from celery_guardrails.transport.compression import bound_unpacking
from celery_guardrails.transport.dead_letter import DeadLetterSender
from celery_guardrails.transport.dispatch import Dispatch
from celery_guardrails.transport.journal.abandoned import Journals
from celery_guardrails.transport.journal.journal import Journal, Slot
from celery_guardrails.transport.publisher import Publisher
from celery_guardrails.transport.spool import Spool
from celery_guardrails.transport.started import StartedMarks
from celery_guardrails.transport.waiting.build import waiting_for
from celery_guardrails.transport.waiting.protocol import Waiting

__all__ = ["BUILT_IN", "Guardrails", "is_plain"]

logger = logging.getLogger("celery_guardrails.worker")

BUILT_IN = re.compile(r"celery\.")
"""Celery's own tasks. Guardrails leaves them alone: `celery.chord_unlock` retries for ever by design, for example."""

_CAPTURED = 1000
_INSTALLED = "_celery_guardrails"  # on the application itself, so both are freed together
_lock = threading.RLock()

# They are in packages above this one, so they are named as text: Celery imports them when a worker starts.
_STEPS = {
    "worker": ("GuardStep", "SeamStep", "Housekeeping"),
    "consumer": ("TraceStep", "PoolStep", "Postponing", "Turns", "BindingStep", "Intake", "RedisStep"),
}
_CHILD = "celery_guardrails.worker.child.tracer:prepare_child"

hide_settings()  # at import: an application may show its settings before its first task is bound


class Guardrails:
    """Guardrails on one application.

    The first `GuardedTask` that is bound installs it; `Guardrails(app)` does so explicitly.

    Args:
        app: the application.
        guard: name patterns (`billing.*`) of tasks to put under guard without touching their code, beside those
            of the setting `guard`.

    Attributes:
        captured: in eager mode, the dead letters of this process: the last 1,000.
        counters: how the attempts of this worker have ended; its main process takes them every 10 seconds.
    """

    def __init__(self, app: Celery, guard: Iterable[str] = ()) -> None:
        self.app = app
        self.captured: deque[Letter] = deque(maxlen=_CAPTURED)
        self.counters = Counters()
        # letters that neither broker nor spool took, each with its entry in the journal and its queue
        self.unkept: deque[tuple[Slot, Letter, str | None]] = deque()
        # two steps of the consumer: one keeps messages that must not begin, one has early work wait for a free thread
        self.postponing: Any = None
        self.turns: Any = None
        self._guard = tuple(guard)
        self._settings: Settings | None = None
        self._policies: dict[str, Effective] = {}
        # by the names of the outer and the inner task: what runs a `map`, `starmap` or `chunks` (`task/carrier.py`)
        self.carriers: dict[tuple[str, str], Task] = {}
        self._publisher: Publisher | None = None
        self._ledger: Ledger | None = None
        self._eager_ledger = MemoryLedger()
        with _lock:
            earlier = vars(app).get(_INSTALLED)
            if earlier is not None:
                self._guard = tuple(dict.fromkeys((*earlier._guard, *self._guard)))
                self.captured, self._publisher = earlier.captured, earlier._publisher
                self.counters = earlier.counters
            setattr(app, _INSTALLED, self)
        for blueprint, steps in _STEPS.items():
            app.steps[blueprint].update(f"celery_guardrails.worker:{step}" for step in steps)
        worker_process_init.connect(_prepare_process)
        app.on_after_finalize.connect(self._on_finalize, weak=False)
        guard_registered(app, self._guard)
        if app.finalized:
            self._on_finalize()

    @classmethod
    def of(cls, app: Celery) -> Guardrails:
        """The application's guardrails, installed when it has none yet."""
        app = app._get_current_object() if hasattr(app, "_get_current_object") else app
        with _lock:
            installed: Guardrails | None = vars(app).get(_INSTALLED)
            return installed or cls(app)

    @property
    def settings(self) -> Settings:
        """The application's settings, read once.

        Raises:
            ConfigurationError: they are wrong; it lists every fault.
        """
        if self._settings is None:
            self._settings = load_settings(self.app.conf.get("guardrails"), os.environ)
            hide_also(self._settings.redact, self._settings.redact_patterns)
        return self._settings

    def redactor(self, policy: Policy | None = None) -> Redactor:
        """What hides secrets from people, by the settings and, if given, by the policy."""
        return Redactor((*self.settings.redact, *(policy.redact if policy else ())), self.settings.redact_patterns)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The name patterns of tasks to put under guard, from the code and from the settings."""
        return tuple(dict.fromkeys((*self._guard, *self.settings.guard)))

    @property
    def publisher(self) -> Publisher:
        """Confirmed publishing on connections of our own."""
        if self._publisher is None:
            self._publisher = Publisher(self.app, self.settings.dead_letter.publish_timeout)
        return self._publisher

    @cached_property
    def waiting(self) -> Waiting:
        """Where messages wait until they are due, outside the workers."""
        return waiting_for(self.app, self.publisher)

    @cached_property
    def spool(self) -> Spool:
        """Keeps letters and retries that the broker does not take."""
        chosen = self.settings.dead_letter
        return Spool(Path(chosen.spool_dir), chosen.spool_limit, self.app.main or "")

    @cached_property
    def journal(self) -> Journal:
        """Keeps the messages that this worker acknowledges early."""
        chosen = self.settings.dead_letter
        return Journal(Path(chosen.spool_dir), chosen.spool_limit, self.app.main or "")

    @cached_property
    def journals(self) -> Journals:
        """The journals of all workers that share this one's spool."""
        return Journals(Path(self.settings.dead_letter.spool_dir), self.app.main or "")

    def ledger(self, *, eager: bool = False) -> Ledger:
        """What knows which work is done and which is being done; of eager runs, one in memory.

        Raises:
            LedgerError: its URL is of no ledger, or a library is missing.
        """
        if eager:
            return self._eager_ledger
        with _lock:
            if self._ledger is None:
                self._ledger = open_ledger(self.settings.idempotency.url or self.settings.store.url)
        return self._ledger

    @cached_property
    def started(self) -> StartedMarks:
        """Marks in the broker for messages that are suspected of killing their worker, while they run."""
        return StartedMarks(self.app, self.publisher)

    @cached_property
    def dispatch(self) -> Dispatch:
        """Publishes what a failed attempt sends: to the broker, else into the spool."""
        return Dispatch(self.publisher, self.waiting, self.dead_letters, self.spool)

    @cached_property
    def dead_letters(self) -> DeadLetterSender:
        """Publishes to the dead-letter queue."""
        chosen = self.settings.dead_letter
        return DeadLetterSender(self.publisher, chosen.queue, chosen.queue_arguments)

    def policy_of(self, task: Task) -> Effective:
        """The task's policy in force, and where each field came from.

        Raises:
            ConfigurationError: the layers contradict each other.
        """
        task = subject_of(task)
        found = self._policies.get(task.name)
        if found is None:
            found = self._policies[task.name] = effective_policy(task, self.settings)
        return found

    def guarded_tasks(self) -> list[Task]:
        """The application's tasks under guard, by name."""
        self.sweep()
        return [task for name, task in sorted(self.app.tasks.items()) if is_guarded(task) and not BUILT_IN.match(name)]

    def policies(self) -> dict[str, Policy]:
        """The policy in force of each task under guard, by the task's name.

        Raises:
            ConfigurationError: the layers contradict each other.
        """
        return {task.name: self.policy_of(task).policy for task in self.guarded_tasks()}

    def sweep(self) -> None:
        """Put the tasks whose names match a pattern under guard: those registered by now."""
        adopter().sweep(self.app, self.patterns)

    def faults(self) -> list[Fault]:
        """Every fault of the settings and of the tasks' policies."""
        try:
            settings = self.settings
        except ConfigurationError as exc:
            return list(exc.faults)
        found = address_faults(self.app)
        if self.app.conf.task_protocol != 2:
            problem = "guarded tasks keep their history in message headers, which protocol 1 does not have"
            found.append(Fault("task_protocol", str(self.app.conf.task_protocol), problem, None, "write 2"))
        for task in self.guarded_tasks():
            found.extend(task_faults(task, settings))
        return found

    def prepare(self) -> None:
        """Make ready for a worker: tasks under guard, policies valid, acknowledgement as declared.

        Raises:
            ConfigurationError: something is wrong; it lists every fault.
        """
        if faults := self.faults():
            raise ConfigurationError(faults)
        self.declare_options()

    def declare_options(self) -> None:
        """Set each guarded task's Celery options to what its policy says, in this process.

        A child that is not forked does not get these options from the worker's main process. Without them it does not
        know that it may leave a message unacknowledged.
        """
        if self.settings.enabled:
            bound_unpacking(self.settings.dead_letter.max_decompressed)
            for task in self.guarded_tasks():
                self._take_charge(task)

    def take_charge(self, task: Task) -> None:
        """Set one guarded task's Celery options to what its policy says; never raises.

        Also for a task that runs eagerly: no worker starts, and perhaps nobody finalizes the application.
        """
        try:
            if self.settings.enabled and not BUILT_IN.match(task.name):
                self._take_charge(task)
        except ConfigurationError:
            return  # a worker reports the fault at start; here the options stay as they are
        except Exception:
            logger.warning("could not set the Celery options of %s to what its policy says", task.name, exc_info=True)

    def _take_charge(self, task: Task) -> None:
        if uncover(task):
            self._policies.pop(task.name, None)
        policy = self.policy_of(task).policy  # may raise: then the task keeps Celery's options, autoretry_for too
        undo_autoretry(task)
        retries = None if policy.max_attempts is None else policy.max_attempts - 1
        # max_crashes bounds the lost workers of a task: Celery's own options would run the task again without a bound
        if policy.idempotency is not None:
            task._guardrails_once = policy.idempotency
        cover(task, {"acks_late": policy.acks == "late", "max_retries": retries, "reject_on_worker_lost": False,
                     "retry_on_worker_lost": False})  # fmt: skip

    def _on_finalize(self, *_: Any, **__: Any) -> None:
        try:
            self.sweep()
        except ConfigurationError:
            return  # GuardStep reports it at start, and `guardrails check`, with every other fault
        for task in list(registered(self.app).values()):
            if is_guarded(task):
                self.take_charge(task)


def is_plain(task: Any) -> bool:
    """Whether this task behaves as without guardrails: the setting `enabled` is `False`, or it is Celery's own task."""
    return BUILT_IN.match(subject_of(task).name) is not None or not Guardrails.of(task.app).settings.enabled


def _prepare_process(sender: str | None = None, **_: Any) -> None:
    # One function for every application: to Celery's signals, the bound methods of two objects are the same receiver.
    guard: Guardrails | None = vars(current_app._get_current_object()).get(_INSTALLED)
    if guard is not None:
        symbol_by_name(_CHILD)(guard, sender)
