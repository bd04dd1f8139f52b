"""The `guardrails` dict of the Celery configuration, validated once, with what the environment overrides.

Owns the keys and their defaults. It must not know Celery: whoever reads the configuration hands the dict in.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from celery_guardrails.destination import Destination, Means
from celery_guardrails.errors import ConfigurationError, Fault, nearest
from celery_guardrails.policy import faults
from celery_guardrails.policy.field import (
    DurationField,
    NamesField,
    OptionalDurationField,
    Severity,
    choice,
    problem,
)
from celery_guardrails.policy.policy import Policy
from celery_guardrails.policy.threshold import Section, Thresholds
from celery_guardrails.redaction.name import is_denied
from celery_guardrails.setting_field import (
    DatabaseUrl,
    DestinationField,
    GroupByField,
    LedgerUrl,
    Mention,
    PatternsField,
    ProxyUrl,
    SecretUrl,
    ServiceUrl,
    Token,
)

__all__ = [
    "ENVIRONMENT_VARIABLES",
    "AlertSettings",
    "DeadLetterSettings",
    "MetricsSettings",
    "RouteSettings",
    "Settings",
    "SlackSettings",
    "StoreSettings",
    "load_settings",
    "sections",
]

_SECRET_SECTIONS = frozenset({"idempotency", "slack", "store"})
_PUBLIC_KEYS = frozenset({"slack.base_url", "slack.channel", "slack.fallback_channel", "slack.timeout"})
_SECRET_KEYS = frozenset({"alerts.fallback", "alerts.heartbeat_url"})
_ROUTES = "alerts.routes"
_RETENTION: dict[str, timedelta | None] = {
    "dead": timedelta(days=90),
    "recovered": timedelta(days=14),
    "discarded": timedelta(days=30),
    "audit": timedelta(days=400),
}
_RetentionKey = Annotated[str, choice(*_RETENTION)]

ENVIRONMENT_VARIABLES: Mapping[str, str] = {
    "GUARDRAILS_ALERTS_CONSOLE_URL": "alerts.console_url",
    "GUARDRAILS_ALERTS_FALLBACK": "alerts.fallback",
    "GUARDRAILS_ALERTS_HEARTBEAT_URL": "alerts.heartbeat_url",
    "GUARDRAILS_DEAD_LETTER_SPOOL_DIR": "dead_letter.spool_dir",
    "GUARDRAILS_ENABLED": "enabled",
    "GUARDRAILS_ENVIRONMENT": "environment",
    "GUARDRAILS_SLACK_BASE_URL": "slack.base_url",
    "GUARDRAILS_SLACK_CHANNEL": "slack.channel",
    "GUARDRAILS_SLACK_TOKEN": "slack.token",
    "GUARDRAILS_SLACK_WEBHOOK_URL": "slack.webhook_url",
    "GUARDRAILS_STORE_URL": "store.url",
}
"""The environment variables that are read, and the key that each overrides."""


def _with_defaults(given: dict[str, timedelta | None]) -> dict[str, timedelta | None]:
    return {**_RETENTION, **given}


class DeadLetterSettings(Section):
    """Where dead letters wait for a guardian.

    Args:
        queue: the dead-letter queue. Default `celery.dead_letter`.
        queue_arguments: the broker's arguments with which the queue is declared. Default none.
        spool_dir: where a worker keeps letters and retries that the broker does not take, until the broker does. The
            path is relative to the working directory; the directory is made when it is needed, for its owner only.
            Workers and guardians of one machine may share it. It has to be on a disk that outlives the process: in a
            container, a volume. Default `guardrails.spool`.
        spool_limit: bytes that the spool may take; the journal of each worker may take as many again. Work that does
            not fit stays unacknowledged with the broker (`acks="late"`), or does not begin (`acks="early"`).
            Default 268,435,456 (256 MiB).
        journal: whether a worker keeps work that runs at most once (`acks="early"`) on disk, beside the spool, from
            before its acknowledgement until its end is settled, at one sync of the disk a task. With `False`, work
            that was acknowledged when its whole worker is killed is gone, and nobody learns of it. Default true.
        max_payload: bytes of arguments from which the preview is cut shorter; the payload itself is kept whole.
            Default 262,144 (256 KiB).
        max_decompressed: bytes that a compressed message may have once it is unpacked, in workers and guardians. A
            larger message is dead-lettered as `undecodable`, with its body as it came. Default 134,217,728 (128 MiB).
        publish_timeout: how long a worker waits for the broker's confirmation. Default 5 seconds.
    """

    queue: Annotated[str, Field(min_length=1)] = "celery.dead_letter"
    queue_arguments: dict[str, Any] = Field(default_factory=dict)
    spool_dir: Annotated[str, Field(min_length=1)] = "guardrails.spool"
    spool_limit: Annotated[int, Field(ge=1)] = 268_435_456
    journal: bool = True
    max_payload: Annotated[int, Field(ge=1)] = 262_144
    max_decompressed: Annotated[int, Field(ge=1)] = 134_217_728
    publish_timeout: DurationField = timedelta(seconds=5)


class StoreSettings(Section):
    """Where the archive is.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`. A SQLite file is relative to the working directory, and
            is for one machine with a disk that lasts; PostgreSQL is for several machines and needs the extra
            `postgres`. Default `sqlite:///guardrails.sqlite3`.
    """

    url: Annotated[DatabaseUrl, Field(min_length=1, repr=False)] = "sqlite:///guardrails.sqlite3"


class IdempotencySettings(Section):
    """Where the ledger of idempotent work is.

    Args:
        url: `redis://HOST:PORT/NUMBER`, or a database as in `store.url`; `memory://` for tests in one process. `None`:
            the archive's. A Redis that forgets, by FLUSHALL, eviction or a failover, lets work be done again.
            Default none.
    """

    url: Annotated[LedgerUrl | None, Field(repr=False)] = None


class SlackSettings(Section):
    """How Slack is reached; with neither `token` nor `webhook_url` alerts go to the log.

    Args:
        token: a bot token. A message is then updated in place. Needs `channel`. Default none.
        channel: the id or the name of the channel that the bot posts to. Default none.
        webhook_url: an incoming webhook, used when there is no token. A webhook cannot edit a message. Default none.
        base_url: the API's address; `None` is Slack's own. Default none.
        proxy: the HTTP proxy; `None` is what `HTTPS_PROXY` says, with `NO_PROXY` for exceptions. Default none.
        timeout: how long one request may take. Default 10 seconds.
        fallback_channel: where an alert goes when the channel is gone. Default none.
    """

    token: Token = None
    channel: str | None = None
    webhook_url: SecretUrl = None
    base_url: ServiceUrl = None
    proxy: Annotated[ProxyUrl, Field(repr=False)] = None
    timeout: DurationField = timedelta(seconds=10)
    fallback_channel: str | None = None

    @model_validator(mode="after")
    def _addressed(self) -> SlackSettings:
        if self.token is not None and not self.channel:
            raise problem(self.channel, "is needed with a token", 'write "channel": "#alerts"', "channel")
        return self


class RouteSettings(Section):
    """Where the alerts of some tasks go. All keys that are given have to match.

    Args:
        task: a pattern of task names, such as `billing.*`. Default any task.
        owner: the owner that the task's policy names. Default any owner, or none.
        severity: `info`, `warning`, `error` or `critical`. Default any severity.
        to: a channel of Slack (`#payments` or its id), `slack` (the channel of `slack.channel`), `log`, `sentry`, an
            apprise URL, or the dotted path of a class of your own.
    """

    task: Annotated[str, Field(min_length=1)] | None = None
    owner: Annotated[str, Field(min_length=1)] | None = None
    severity: Annotated[Severity, choice("info", "warning", "error", "critical")] | None = None
    to: DestinationField


class StormSettings(Section):
    """When many alerts at once become one message, the digest.

    Args:
        groups: more alerts than this that open in one environment. Default 10.
        within: within this time. Default 5 minutes.
    """

    groups: Annotated[int, Field(ge=1)] = 10
    within: DurationField = timedelta(minutes=5)


class EscalationSettings(Section):
    """Who else is asked when nobody acknowledges an alert.

    Args:
        after: time since the alert opened.
        mention: whom to mention in the alert's channel, as Slack writes it: `<@U012AB3CD>` for a person,
            `<!subteam^S012AB3CD>` for a group of people, `<!here>`.
        channel: another channel, which gets a message of its own. Write either `mention` or `channel`.
    """

    after: DurationField
    mention: Mention | None = None
    channel: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _addressed(self) -> EscalationSettings:
        if (self.mention is None) == (self.channel is None):
            raise problem(None, "needs either a mention or a channel", 'write "mention": "<@U012AB3CD>"', "mention")
        return self


class AlertSettings(Section):
    """When people hear of dead letters.

    Args:
        group_by: `("task",)` is one message for each task, `("task", "error")` one for each error of a task.
            Default `("task",)`.
        group_wait: time from the first dead letter to the message. Default 30 seconds.
        group_wait_urgent: the same time where severity is critical, or there are 50 at once. Default 5 seconds.
        edit_interval: least time between two edits of a message. Default 1 minute.
        cooldown: least time between two messages about one problem, unless it gets worse. Default 30 minutes.
        reminder: time after which people are reminded of a problem that goes on, and that nobody has acknowledged.
            Default 4 hours.
        acknowledge_for: how long an acknowledgement lasts while the problem goes on. Default 4 hours.
        quiet: the problem is resolved when no task has failed for so long; a task whose retries may take longer needs
            so much longer, at most 24 hours. Default 15 minutes.
        reopen_within: a problem that comes back within this time goes on in the same message. Default 1 hour.
        storm: when many problems that begin at once become one message. Default more than 10 within 5 minutes.
        escalation: who else is asked when nobody acknowledges a problem, soonest first. The steps are repeated twice
            at most, while the problem goes on. Default none.
        thresholds: from where on a signal is a problem. Default 1 dead letter.
        console_url: where the message's button leads. Default none.
        log_always: whether alerts go to the log, too, when Slack is set. Default false.
        routes: where the alerts of some tasks go: a list of dicts with the keys `task`, `owner`, `severity` and `to`.
            The first that matches counts; an alert that none matches goes to Slack, or to the log. Default none.
        fallback: where an alert goes that its own sink does not take: what a route's `to` may be. Default the log.
        heartbeat_url: is fetched each minute while archive, broker and sinks are well, so that a monitoring service
            that hears nothing alarms you. A secret. Default none.
    """

    group_by: GroupByField = ("task",)
    group_wait: DurationField = timedelta(seconds=30)
    group_wait_urgent: DurationField = timedelta(seconds=5)
    edit_interval: DurationField = timedelta(seconds=60)
    cooldown: DurationField = timedelta(minutes=30)
    reminder: DurationField = timedelta(hours=4)
    acknowledge_for: DurationField = timedelta(hours=4)
    quiet: DurationField = timedelta(minutes=15)
    reopen_within: DurationField = timedelta(hours=1)
    storm: StormSettings = Field(default_factory=StormSettings)
    escalation: tuple[EscalationSettings, ...] = ()
    thresholds: Thresholds = Field(default_factory=Thresholds)
    console_url: str | None = None
    log_always: bool = False
    routes: tuple[RouteSettings, ...] = ()
    fallback: DestinationField = Destination(Means.LOG)
    heartbeat_url: SecretUrl = None


class MetricsSettings(Section):
    """Where a guardian serves `/metrics`, for Prometheus, and `/healthz`.

    Args:
        host: the address on which it listens; `0.0.0.0` is every address of the machine, which anyone who reaches it
            may then read. Default `127.0.0.1`.
        port: the port; `None`: nothing listens. Needs the extra `prometheus`. Default none.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None


class Settings(Section):
    """Everything that an application configures besides its tasks; each section is described by its own class.

    Args:
        environment: the name that alerts and dead letters carry. Default `production`.
        policy: a policy's fields for every guarded task; every other declaration is stronger. Default none.
        policies: a policy's fields by task name pattern, such as `{"billing.*": {...}}`. The most specific pattern
            wins, and is stronger than what the task itself declares. Default none.
        retention: how long the archive keeps what is `dead`: dead letters that nobody has put back or discarded,
            `recovered`: letters whose work has succeeded, `discarded`: letters that somebody has discarded, `audit`:
            the audit trail. A key left out keeps its default; `None` is for ever.
            Default 90 days, 14 days, 30 days, 400 days.
        redact: names of arguments and keys that are never shown in clear, for every task. Default none.
        redact_patterns: regular expressions; what one finds in an argument, a message or a traceback is not shown.
            Default none.
        guard: name patterns of plain, shared or third-party tasks to put under guard without touching their code.
            Default none.
        enabled: whether guarded tasks are guarded; with `False` they all run as plain tasks. Default true.
    """

    environment: Annotated[str, Field(min_length=1)] = "production"
    policy: Policy = Field(default_factory=Policy)
    policies: dict[str, Policy] = Field(default_factory=dict)
    dead_letter: DeadLetterSettings = Field(default_factory=DeadLetterSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    idempotency: IdempotencySettings = Field(default_factory=IdempotencySettings)
    slack: SlackSettings = Field(default_factory=SlackSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    retention: Annotated[dict[_RetentionKey, OptionalDurationField], AfterValidator(_with_defaults)] = Field(
        default_factory=lambda: dict(_RETENTION)
    )
    redact: NamesField = ()
    redact_patterns: PatternsField = ()
    guard: NamesField = ()
    enabled: bool = True


def load_settings(raw: Mapping[str, Any] | None, environ: Mapping[str, str]) -> Settings:
    """Read the `guardrails` dict; an environment variable that is set and not empty wins over its key.

    Args:
        raw: the dict as the application wrote it; `None` is an empty one.
        environ: the process's environment, of which `ENVIRONMENT_VARIABLES` are read.

    Raises:
        ConfigurationError: with every fault found; each names the dotted key, the value (never a secret's, an unknown
            key's or one of the environment), the problem and the nearest right spelling.
    """
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigurationError([Fault("guardrails", faults.HIDDEN, f"is a {type(raw).__name__}, not a dict")])
    data, overridden = _overlaid(raw or {}, environ)
    found = _read_policies(data)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        found += [_fault(entry, overridden) for entry in error.errors(include_url=False)]
    if found:
        raise ConfigurationError(found)
    return settings


def _overlaid(raw: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The dict with the environment's values laid over it, and which variable overrode which key."""
    data = {str(key): value for key, value in raw.items()}
    overridden: dict[str, str] = {}
    for variable, key in ENVIRONMENT_VARIABLES.items():
        value = environ.get(variable, "").strip()
        if not value:
            continue
        section, _, name = key.rpartition(".")
        if not section:
            data[name] = value
        elif isinstance(current := data.get(section, {}), BaseModel):
            data[section] = {**{set_: getattr(current, set_) for set_ in current.model_fields_set}, name: value}
        elif isinstance(current, Mapping):
            data[section] = {**current, name: value}
        overridden[key] = variable
    return data, overridden


def _read_policies(data: dict[str, Any]) -> list[Fault]:
    """Replace the dicts of `policy` and `policies` by policies, in place; what is wrong in them is left out."""
    found: list[Fault] = []
    if "policy" in data:
        data["policy"] = _read_policy("policy", data["policy"], found)
    patterns = data.get("policies", {})
    if isinstance(patterns, Mapping):
        data["policies"] = {
            str(pattern): _read_policy(f"policies.{pattern}", value, found) for pattern, value in patterns.items()
        }
    return found


def _read_policy(key: str, value: object, found: list[Fault]) -> Policy:
    if isinstance(value, Policy):
        return value
    if not isinstance(value, Mapping):
        found.append(Fault(key, faults.shown(value), "is neither a dict nor a Policy"))
        return Policy()
    with faults.collecting() as wrong:
        policy = Policy(**{str(name): entry for name, entry in value.items()})
    found += [replace(fault, task=None, setting=f"{key}.{fault.setting}") for fault in wrong]
    return policy


def _fault(entry: ErrorDetails, overridden: Mapping[str, str]) -> Fault:
    context = entry.get("ctx", {})
    path = [str(part) for part in entry["loc"] if part != "[key]"] + ([context["at"]] if context.get("at") else [])
    key = ".".join(path)
    text, hint = faults.shown_text(entry["msg"][:1].lower() + entry["msg"][1:]), context.get("hint") or None
    value = _shown(key, entry["input"])
    if key in overridden:
        # what is in the environment is a secret more often than not, and may be another variable's
        hint, value = f"set by {overridden[key]}", faults.HIDDEN
    if entry["type"] in faults.WORDS:
        text = faults.WORDS[entry["type"]].format(kind=type(entry["input"]).__name__, **context)
    if entry["type"] == "extra_forbidden" or (path[0] == "retention" and "[key]" in entry["loc"]):
        # whatever it is, a secret that was meant for another key is not shown under this one
        text, hint, value = "unknown key", _nearest_key(path), faults.HIDDEN
    elif entry["type"] == "guardrails" and (value != faults.HIDDEN or key.startswith(_ROUTES)):
        value = faults.HIDDEN if context["value"] == repr(faults.HIDDEN) else context["value"]
    return Fault(faults.shown_text(key), value, text, suggestion=hint)


def _nearest_key(path: list[str]) -> str:
    """What the unknown key was probably meant to be: in its own section, else anywhere."""
    section = ".".join(part for part in path[:-1] if not part.isdigit())
    keys = _keys()
    siblings = {key: key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == section}
    near = nearest(path[-1], siblings.values())
    if near is None:
        elsewhere = [key for key in keys if key.rpartition(".")[2] == path[-1]]
        near = elsewhere[0] if elsewhere else nearest(path[-1], keys)
    return f"did you mean {near}?" if near else f"keys are {', '.join(siblings.values())}"


def sections() -> dict[str, Mapping[str, Any]]:
    """The fields of each section, by its key."""
    # By its bases: on Python 3.10 `dict[str, int]` passes for a type, and issubclass then raises.
    return {
        name: cast("type[Section]", info.annotation).model_fields
        for name, info in Settings.model_fields.items()
        if Section in getattr(info.annotation, "__mro__", ())
    }


def _keys() -> list[str]:
    keys: list[str] = []
    for name in Settings.model_fields:
        keys.append(name)
        keys += [f"{name}.{each}" for each in _RETENTION] if name == "retention" else []
        keys += _keys_inside(name, sections().get(name, {}))
    return keys + [f"{_ROUTES}.{name}" for name in RouteSettings.model_fields]


def _keys_inside(section: str, fields: Mapping[str, Any]) -> list[str]:
    """The keys of a section, and of the sections inside it."""
    keys = []
    for name, info in fields.items():
        inner = info.annotation if Section in getattr(info.annotation, "__mro__", ()) else None
        keys += [f"{section}.{name}", *(_keys_inside(f"{section}.{name}", inner.model_fields) if inner else ())]
    return keys


def _shown(key: str, value: object) -> str:
    """The value of a known key as a fault shows it, without what is secret in it."""
    section, _, name = key.rpartition(".")
    hidden = (section or key) in _SECRET_SECTIONS and key not in _PUBLIC_KEYS
    # a route may hold a URL, which is a secret
    hidden = hidden or key in _SECRET_KEYS or key.startswith(_ROUTES)
    if hidden or is_denied(name):
        return faults.HIDDEN
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{faults.shown(inner)}: …" for inner in itertools.islice(value, 20)) + "}"
    return faults.shown(value)
