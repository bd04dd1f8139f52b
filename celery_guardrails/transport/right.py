"""Rights of a RabbitMQ user: which right was missing when the broker refused access (403).

Owns how RabbitMQ words a refusal. A refused user is connected: the broker is not away, and a further try succeeds only
once an administrator has given the right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from amqp.exceptions import AccessRefused

__all__ = ["Missing", "Right", "is_without_right", "refusal", "refused_right"]

# `method_sig` of the refused method: declaring and deleting; binding, which needs the right to write to the queue and
# to read from the exchange; publishing.
_CONFIGURE = {(40, 10), (40, 20), (50, 10), (50, 40)}
_BIND = {(50, 20), (50, 50)}
_PUBLISH = (60, 40)
_SAID = re.compile(
    r"(?:(?P<kind>configure|write|read) )?access to (?P<what>queue|exchange) '(?P<name>.*)' in vhost '(?P<vhost>.*)' "
    r"refused for user '(?P<user>.*)'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Right:
    """A right that a user lacks.

    `kind` is `configure`, `write` or `read`, `resource` is `queue` or `exchange`; the default exchange is named
    `amq.default`, as in RabbitMQ's patterns.
    """

    kind: str
    resource: str
    name: str
    vhost: str
    user: str

    def __str__(self) -> str:
        return f"the user {self.user!r} has no right to {self.kind} the {self.resource} {self.name!r}"


class Missing(AccessRefused):  # type: ignore[misc]
    """A queue or an exchange does not exist, and this user may not declare it."""

    def __init__(self, refused: AccessRefused) -> None:
        super().__init__(refused.reply_text, refused.method_sig)


def refused_right(exc: BaseException | None) -> Right | None:
    """The right that was missing; `None` if neither this error nor its causes are a refusal that names a right."""
    refused = _refused(exc)
    return None if refused is None else _read(refused)


def is_without_right(exc: BaseException) -> bool:
    """Whether only a missing right made it fail, so that it succeeds once somebody has given the right."""
    refused = _refused(exc)
    return refused is not None and not isinstance(refused, Missing)


def refusal(exc: BaseException) -> str:
    """A broker's error in words: the missing right, if the error is a refusal that names a right."""
    refused = _refused(exc)
    right = None if refused is None else _read(refused)
    if right is None:
        return f"{type(exc).__name__}: {exc}"
    missing = f"the {right.resource} {right.name!r} does not exist, and " if isinstance(refused, Missing) else ""
    return f"RabbitMQ refuses access: {missing}{right}"


def _refused(exc: BaseException | None) -> AccessRefused | None:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        if isinstance(exc, AccessRefused):
            return exc
        exc = exc.__cause__
    return None


def _read(exc: AccessRefused) -> Right | None:
    said = _SAID.search(str(exc.reply_text or ""))
    if said is None:
        return None  # a login, or a topic
    kind = said["kind"] or _kind(exc.method_sig, said["what"])
    return Right(kind, said["what"], said["name"], said["vhost"], said["user"])


def _kind(method: tuple[int, int] | None, resource: str) -> str:
    """Which of the three rights was missing, worked out from the method: an older RabbitMQ does not say it."""
    if method in _CONFIGURE:
        return "configure"
    if method in _BIND:
        return "write" if resource == "queue" else "read"
    return "write" if method == _PUBLISH else "read"
