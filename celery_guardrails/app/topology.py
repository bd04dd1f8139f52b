"""What an application under guard needs of its broker: its dead-letter queues, and on RabbitMQ its whole topology."""

from __future__ import annotations

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.transport.dead_letter import recovered_queue
from celery_guardrails.transport.topology import Topology, topology_of

__all__ = ["dead_letter_queues", "needed_topology"]


def dead_letter_queues(guard: Guardrails) -> tuple[str, ...]:
    """Every queue that settings and policies send dead letters to, the application's own first.

    Raises:
        ConfigurationError: the settings or a policy are wrong.
    """
    settings = guard.settings
    policies = [settings.policy, *settings.policies.values()]
    policies += guard.policies().values()
    named = [policy.dead_letter_queue for policy in policies if policy.dead_letter_queue]
    return tuple(dict.fromkeys([settings.dead_letter.queue, *sorted(named)]))


def needed_topology(guard: Guardrails) -> Topology:
    """The exchanges, queues, bindings and rights that must exist on RabbitMQ.

    Raises:
        ConfigurationError: the settings or a policy are wrong.
    """
    queues, chosen = dead_letter_queues(guard), guard.settings.dead_letter
    letters = [*queues, *(recovered_queue(queue) for queue in queues)]
    return topology_of(guard.app, letters, chosen.queue_arguments, chosen.queue)
