"""Every name of Celery, kombu, billiard and py-amqp that guardrails uses, though no documentation promises it.

A seam is such a name: what it is for, which guard needs it, and since which version it exists. A guard is one
protection that can be off by itself. The next release of Celery may rename a seam without a notice. So a worker looks
for all seams when it starts (milliseconds), turns off the guards that lack one, logs one warning about them, and runs
as plain Celery there. Without a vital guard, the worker does not start.

How to add a seam: add its name here, under the guard that needs it, in words for people who read the warning. For a new
guard, ask `holds(GUARD)` before you use any of its seams, and do what Celery does where the guard does not hold.
`tests/unit/house/test_seams.py` finds names that are not listed, and `tests/seam/` runs a worker without each of them;
`make test-seams` looks for all of them in every release of Celery that setup.cfg allows.

Owns the list, and which guards hold. How a seam is looked for is in `seam.py`. It must not know what a guard does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache

from celery_guardrails.seam import Guard, Missing, Seam, is_later, problem_of, seams_of

__all__ = ["GUARDS", "SEAMS", "holds", "missing"]


# fmt: off
WHOLE = Guard("all of guardrails", "No task could be guarded.", vital=True)
ENDS = Guard("the ends of tasks that only the main process sees",
    "A task that a dead process, a time limit or a shutdown ended could be lost without a letter.", vital=True)
LINES = Guard("messages that wait in RabbitMQ, and tasks' queues",
    "Retries and letters would have no way to wait.", vital=True)
SHUTDOWN = Guard("tasks that a cold shutdown ends", "A task that a cold shutdown ends makes no dead letter.")
EXPIRY = Guard("tasks past their `expires`", "A task past its `expires` makes no dead letter.")
TRACER = Guard("failures outside the task's body",
    "A task whose result cannot be stored, or that fails before its body begins, makes no dead letter.")
CARRIERS = Guard("`map`, `starmap` and `chunks` of guarded tasks", "They run as Celery's own tasks, without a policy.")
BY_NAME = Guard("tasks put under guard by name",
    "The setting `guard` works only for tasks of an application that is finalized.")
DECLARED = Guard("what Celery's own options say of a guarded task",
    "`task_acks_late` and `autoretry_for` are not part of its policy.")
ON_COMMIT = Guard("`delay_on_commit` of guarded tasks in Django", "Guarded tasks have no `delay_on_commit`.")
INTAKE = Guard("messages that never become a task",
    "An unknown task or an unreadable message makes no dead letter, and some of them end the worker.")
CLASSES = Guard("the worker's consumer and its pool",
    "As in plain Celery: messages that never become a task, messages on Redis, and a lost connection.")
OUTLIVING = Guard("tasks that outlive a lost connection",
    "Such a task runs a second time when its message is delivered again.")
PREFORK = Guard("work that Celery's prefork pool forgets",
    "After a lost connection or a warm shutdown, work that was acknowledged early and had not begun can be lost.")
AT_MOST_ONCE = Guard("tasks acknowledged early, before they begin",
    "A task with `acks=early` can run twice if its worker dies just when it begins.")
AMQP_ACK = Guard("RabbitMQ's answer to an early acknowledgement",
    "A task with `acks=early` can run twice if RabbitMQ dies just when it begins.")
AMQP_READ = Guard("messages whose AMQP properties cannot be read", "Such a message breaks the worker's connection.")
REDIS_TAKE = Guard("messages between Redis and the worker",
    "A message can be lost when a worker on Redis dies just as it takes it.")
REDIS_WAIT = Guard("retries that wait in Redis",
    "Retries wait in workers' memory, and come late or twice after a worker's death.")
REDIS_REACH = Guard("publishing to a named exchange on Redis", "A message for an exchange without a queue is lost.")
REDIS_SPEED = Guard("the speed of publishing on Redis", "Publishing a retry on Redis takes twice as long.")
SUCCESS = Guard("work that succeeded before its worker died", "Such work runs again, although its result is stored.")
SOFT_LIMIT = Guard("what follows a failure, against a soft time limit",
    "A soft time limit can end a task while its letter is sent.")
EXITS = Guard("tasks whose process is told to end", "`sys.exit()` in a task and the end of its process look the same.")
COPIES = Guard("the speed of a failing task", "A process of the pool takes longer over a task that fails.")
REPORTS = Guard("secrets in `celery report` and `inspect conf`",
    "Both show the tokens of the dict `guardrails` in clear.")
COMMANDS = Guard("the commands of guardrails", "There is no `celery guardrails` and no `celery guardian`.")
QUEUES = Guard("the queue of a message from a named exchange", "Its letter may name no queue.")


_REQUEST = "celery.worker.request:Request"
_CONSUMER = "celery.worker.consumer.consumer:Consumer"
_POOL = "celery.concurrency.asynpool:AsynPool"
_JOB = "billiard.pool:ApplyResult"
_CHANNEL = "kombu.transport.redis:Channel"
_QOS = "kombu.transport.virtual.base:QoS"

SEAMS: tuple[Seam, ...] = (
    # --- what a task is
    *seams_of("celery.app.task:Context", WHOLE, {
        "_protected": "whether the body runs already",
        "called_directly": "whether it is a plain call of the task",
        "is_eager": "whether the task runs in the process that sent it",
    }),
    *seams_of("celery.app.task:Task", WHOLE, {
        "request_stack": "the request that runs",
        "bind(app)": "what a class says itself, before Celery's defaults are filled in",
        "on_bound(app)": "installing guardrails in the application",
        "signature_from_request(request, args, kwargs, queue)": "the message of a retry",
        "Request": "the worker's request of a guarded task",
    }),
    *seams_of("celery.local:Proxy", WHOLE, {"_get_current_object()": "the application behind `current_app`"}),
    *seams_of("celery.app.base:Celery", BY_NAME, {"_tasks": "tasks of an application that is not finalized"}),
    *seams_of("celery.app.registry:TaskRegistry", BY_NAME, {"register(task)": "tasks as they are registered"}),
    *seams_of("celery.app.base:Celery", ON_COMMIT, {"_fixups": "whether Django is in play"}),
    *seams_of("celery.app.annotations", DECLARED, {"resolve_all(anno, task)": "what `task_annotations` say of a task"}),
    *seams_of("celery.app.utils:Settings", DECLARED, {
        "_to_keys(key)": "the names that a setting may have",
        "_keys": "the names that a setting may have, before Celery 5.7",
    }),
    *seams_of("celery.app.autoretry:add_autoretry_behaviour", DECLARED, {"_orig_run": "a body that is wrapped"}),
    *seams_of("celery.app.utils:Settings", REPORTS, {"table(with_defaults, censored)": "what settings are shown"}),
    # --- how the process that runs a task reports its end
    *seams_of("celery.app.trace", TRACER, {
        "build_tracer(name, task, loader, hostname, *, app, Info)": "a tracer for each guarded task",
        "report_internal_error(task, exc)": "what Celery logs of a tracer that fails",
        "trace_ok_t": "what a tracer returns",
        "get_task_name(request, default)": "the name in the log of a retry",
        "info": "the log of a retry",
        "logger": "the log of a failure",
        "LOG_RETRY": "the text of the log of a retry",
        "_localized": "the worker's name in a process of the pool",
    }),
    *seams_of("celery.app.trace:TraceInfo", TRACER, {
        "handle_retry(task, req, store_errors)": "storing a retry",
        "handle_failure(task, req, store_errors, call_errbacks)": "storing a failure",
    }),
    *seams_of("celery.app.task:Task", TRACER, {"__trace__": "the tracer of a task"}),
    *seams_of("celery._state", CARRIERS, {"_task_stack": "the task that runs, in eager mode"}),
    *seams_of("celery.worker.strategy", CARRIERS, {"default(task, app, consumer)": "from a message to a request"}),
    *seams_of("celery.app.task:Task", CARRIERS, {"Strategy": "guardrails' way from a message to a request"}),
    *seams_of("billiard.common", EXITS, {"_should_have_exited": "whether the process was told to end"}),
    *seams_of("billiard.pool", SOFT_LIMIT, {
        "SIG_SOFT_TIMEOUT": "the signal of a soft time limit",
        "soft_timeout_sighandler": "whether that signal may come",
    }),
    *seams_of("billiard.einfo:ExceptionInfo", WHOLE, {
        "__init__(exc_info, internal)": "an exception on its way to the main process",
        "exception": "an exception on its way to the main process",
        "traceback": "the text of an exception",
    }),
    *seams_of("billiard.einfo:Traceback", COPIES, {
        "Frame": "a frame of a failure", "Frame.Code": "the code of a frame",
    }),
    *seams_of("billiard.einfo", WHOLE, {"ExceptionWithTraceback": "an exception that was pickled"}),
    *seams_of("celery.utils.serialization", WHOLE, {
        "get_pickleable_exception(exc)": "an exception that can be pickled",
        "raise_with_context(exc)": "the cause of a failure",
    }),
    *seams_of("celery.utils.time", WHOLE, {
        "maybe_iso8601(dt)": "times in a message", "maybe_make_aware(dt, tz)": "times in a message",
        "timezone": "times in a message",
    }),
    *seams_of("celery.utils.saferepr", WHOLE, {"saferepr(o, maxlen)": "arguments as Celery shows them"}),
    *seams_of("celery.utils.imports", WHOLE, {"symbol_by_name(name)": "a request class that is named by its path"}),
    *seams_of("celery.backends.base", WHOLE, {"DisabledBackend": "whether results are kept"}),
    # --- the worker's request
    *seams_of(_REQUEST, ENDS, {
        "_app": "the application", "_task": "the task", "_context": "the request as the task sees it",
        "_message": "the message", "_request_dict": "what the process that runs the task gets",
        "_delivery_info": "where the message came from", "_on_ack": "acknowledging the message",
        "_on_reject": "giving the message back",
        "_connection_errors": "a connection that is lost just then",
        "_already_revoked": "whether the task was revoked",
        "_already_cancelled": "whether a shutdown has ended the task",
        "on_failure(exc_info, send_failed_event, return_ok)": "a failure that the pool reports",
        "on_timeout(soft, timeout)": "a time limit that has passed", "on_retry(exc_info)": "a retry that is published",
        "acknowledge()": "the end of a message", "reject(requeue)": "a message that goes back",
        "execute_using_pool(pool)": "a message that came before",
        "on_accepted(pid, time_accepted)": "a task that begins",
    }),
    *seams_of(_REQUEST, EXPIRY, {
        "maybe_expire()": "whether the task was revoked before",
        "_announce_revoked(reason, terminated, signum, expired)": "a task that is not to run",
    }),
    *seams_of(_REQUEST, SHUTDOWN, {
        "_announce_cancelled": "a task that a shutdown ends",
        "cancel(pool)": "ending a task in the pool `solo`",
    }),
    *seams_of(_REQUEST, OUTLIVING, {"_apply_result": "whether the pool has the task"}),
    *seams_of(_REQUEST, ENDS, {"on_success(failed__retval__runtime)": "the end of a journal's entry"}),
    *seams_of("celery.worker.state", ENDS, {
        "task_ready(request)": "a request that is over", "task_reserved(request)": "a request that is not over",
        "active_requests": "what runs", "reserved_requests": "what the worker holds", "revoked": "what was revoked",
        "should_stop": "a warm shutdown", "should_terminate": "a cold shutdown", "maybe_shutdown()": "ending a wait",
    }),
    *seams_of("celery.backends.base:Backend", SUCCESS, {"_get_task_meta_for(task_id)": "whether a task has succeeded"}),
    # --- the worker's consumer
    *seams_of("celery.worker.worker:WorkController", CLASSES, {
        "consumer_cls": "a consumer class with our methods", "pool_cls": "a pool class with our methods",
    }),
    *seams_of(_CONSUMER, INTAKE, {
        "on_unknown_message(body, message)": "a message that names no task",
        "on_unknown_task(body, message, exc)": "a task that nobody knows",
        "on_invalid_task(body, message, exc)": "a message that cannot be read",
        "on_decode_error(message, exc)": "a body that cannot be read",
        "create_task_handler": "what is called for each message",
        "on_task_request": "whether a message was handed to the pool",
        "call_soon(p)": "trying again in the consumer's own thread",
    }),
    *seams_of("kombu.common:QoS", INTAKE, {
        "increment_eventually": "room for messages that wait for their letter",
        "decrement_eventually": "the end of that room",
    }),
    *seams_of(_CONSUMER, OUTLIVING, {
        "on_close()": "what the pool has and the connection has lost",
        "_restore_prefetch_count_after_connection_restart": "the prefetch count, in the consumer's own thread",
    }),
    *seams_of(_CONSUMER, LINES, {"add_task_queue(queue)": "a queue that is added at run time"}),
    *seams_of("kombu.transport.virtual.base:Channel", LINES, {"_size(queue)": "how long a queue is"}),
    *seams_of("kombu.entity:Queue", LINES, {"can_cache_declaration": "a queue that is declared each time"}),
    *seams_of(_CONSUMER, REDIS_TAKE, {
        "connection_for_read(heartbeat)": "a connection that takes by script",
        "ensure_connected(conn)": "a connection that takes by script",
    }),
    # --- the worker's pool
    *seams_of("celery.concurrency.base:BasePool", (PREFORK, AT_MOST_ONCE), {"_pool": "billiard's pool"}),
    *seams_of("celery.concurrency.prefork:TaskPool", PREFORK, {"Pool": "billiard's pool with our methods"}),
    *seams_of("billiard.pool", PREFORK, {"TERMINATE": "whether the pool ends"}),
    *seams_of("billiard.pool", ENDS, {"Pool": "whether tasks run in other processes"}),
    *seams_of(_POOL, PREFORK, {
        "flush()": "what the pool forgets",
        "on_job_process_down(job, pid_gone)": "a process that has died",
        "process_flush_queues(proc)": "the last answers of a dead process",
        "_track_child_process(proc, hub)": "processes that died while the connection was lost",
        "outbound_buffer": "what is still to be written", "_cache": "what the pool has",
        "_busy_workers": "which processes have work", "_state": "whether the pool ends",
    }),
    *seams_of(_JOB, PREFORK, {
        "_accepted": "whether a job has begun", "_callback": "the request of a job",
        "_write_to": "the process that has a job",
        "discard": "how Celery drops a job", "ready": "whether a job is over",
    }),
    *seams_of("billiard.process:BaseProcess", PREFORK, {"_is_alive": "whether a process lives"}),
    *seams_of(f"{_POOL}._track_child_process", PREFORK, {"_sentinel_poll": "whether a process has just died"}),
    *seams_of("billiard.pool", AT_MOST_ONCE, {"TASK": "the form of a job on its way to its process"}),
    *seams_of(_POOL, AT_MOST_ONCE, {
        "outbound_buffer": "whether work waits before it is written", "_active_writers": "who writes to a process",
    }),
    *seams_of(_JOB, AT_MOST_ONCE, {"_job": "the number of a job"}),
    *seams_of(f"{_POOL}._create_write_handlers", AT_MOST_ONCE, {"_payload": "what is written to a process"}),
    *seams_of("celery.concurrency.asynpool:_get_job_writer", AT_MOST_ONCE, {"_writer": "who writes to a process"}),
    *seams_of("celery.concurrency.thread", ENDS, {"TaskPool": "whether the pool is one of threads"}),
    *seams_of("celery.concurrency.solo", ENDS, {"TaskPool": "whether the pool is `solo`"}),
    # --- commands
    *seams_of("celery.bin.worker", COMMANDS, {"worker": "the option `--guardian`"}),
    *seams_of("celery.__main__", COMMANDS, {"main()": "the worker of the self-test"}),
    *seams_of("billiard.context", COMMANDS, {"Process": "the process of `--guardian`"}),
    # --- RabbitMQ
    *seams_of("kombu.transport.native_delayed_delivery", LINES, {
        "MAX_NUMBER_OF_BITS_TO_USE": "how many delay levels there are",
        "calculate_routing_key(countdown, routing_key)": "the key of a message that waits",
        "level_name(level)": "the name of a level",
        "declare_native_delayed_delivery_exchanges_and_queues(connection, queue_type)": "declaring the levels",
    }),
    *seams_of("kombu.transport.pyamqp:Channel", LINES, {"prepare_queue_arguments": "a queue's arguments, as declared"}),
    *seams_of("celery.utils.quorum_queues", LINES, {
        "detect_quorum_queues(app, driver_type)": "what Celery itself delays",
    }),
    *seams_of("amqp.spec:Channel", AMQP_ACK, {
        "Flow": "a question that RabbitMQ answers", "FlowOk": "RabbitMQ's answer",
        "Close": "a channel that ends instead",
    }),
    *seams_of("amqp.spec:Connection", AMQP_ACK, {"Close": "a connection that ends instead"}),
    *seams_of("amqp.channel:Channel", AMQP_ACK, {"channel_id": "whose answer it is"}),
    *seams_of("amqp.abstract_channel:AbstractChannel", AMQP_ACK, {"send_method(sig, format, args)": "asking RabbitMQ"}),
    *seams_of("amqp.transport:_AbstractTransport", AMQP_ACK, {
        "read_frame": "reading up to the answer", "having_timeout(timeout)": "waiting for the answer",
    }),
    *seams_of("kombu.transport.pyamqp:Transport", AMQP_ACK, {
        "on_readable(connection, loop)": "messages that came before the answer",
    }),
    *seams_of("amqp.serialization", AMQP_READ, {"PROPERTY_CLASSES": "reading what cannot be read"}),
    *seams_of("amqp.spec:Basic", AMQP_READ, {"CLASS_ID": "the properties of a message"}),
    *seams_of("kombu.messaging:Consumer", QUEUES, {"_active_tags": "the queue of a consumer"}),
    # --- Redis
    *seams_of("kombu.transport.virtual.base:Channel", (REDIS_TAKE, REDIS_WAIT, REDIS_REACH), {
        "_lookup(exchange, routing_key)": "the queues that get a message",
    }),
    *seams_of(_CHANNEL, (REDIS_TAKE, REDIS_WAIT), {"_q_for_pri(queue, pri)": "the list of a priority"}),
    *seams_of("kombu.transport.virtual.base:Channel", (REDIS_TAKE, REDIS_WAIT), {
        "_get_message_priority(message, reverse)": "a message's priority",
    }),
    *seams_of("kombu.transport.virtual.base:Channel", REDIS_WAIT, {
        "_inplace_augment_message(message, exchange, routing_key)": "a message as kombu would push it",
        "prepare_message(body, priority, content_type, content_encoding, headers, properties)":
            "a message as kombu would push it",
    }),
    *seams_of(_CHANNEL, REDIS_SPEED, {
        "_create_client()": "one client for all commands", "conn_or_acquire(client)": "one client for all commands",
        "pool": "the connection that the client keeps",
    }),
    *seams_of(_CHANNEL, REDIS_TAKE, {
        "_brpop_start(timeout)": "asking for messages", "_brpop_read": "reading the answer",
        "_on_connection_disconnect(connection)": "an answer that nobody reads",
        "_basic_cancel(consumer_tag)": "a consumer that ends", "_delete(queue)": "a queue that ends with its channel",
        "_queue_bind(exchange, routing_key, pattern, queue)": "a binding that Redis refuses for now",
        "_in_poll": "which connection waits", "_closing": "whether the channel ends",
        "_fanout_queues": "queues of another kind", "_queue_cycle": "whose turn it is",
        "_qos": "messages that the worker holds", "Message": "messages with a tag of their own",
        "QoS": "messages that are not acknowledged",
        "basic_consume(queue, no_ack)": "a consumer that never acknowledges",
        "close()": "giving back what does not run",
    }),
    *seams_of(_CHANNEL, REDIS_TAKE, {
        "maybe_refresh_binding_expiry()": "bindings that expire", "_flush_brpop_reauth": "a token that is renewed",
        "_brpop_sent_at": "how long an answer took",
    }, since="5.7"),
    *seams_of("kombu.transport.virtual.base:Transport", REDIS_TAKE, {
        "_callbacks": "who consumes a queue", "_deliver(message, queue)": "handing a message on",
    }),
    *seams_of("kombu.message:Message", REDIS_TAKE, {
        "ack_log_error(logger, errors, multiple)": "an acknowledgement that Redis refuses for now",
        "reject_log_error(logger, errors, requeue)": "a rejection that Redis refuses for now",
    }),
    *seams_of("kombu.connection:Connection", REDIS_TAKE, {"get_transport_cls()": "a transport with our channel"}),
    *seams_of("kombu.transport.redis:QoS", REDIS_TAKE, {
        "append(message, delivery_tag)": "a message that was taken", "ack(delivery_tag)": "a message that is done",
        "reject(delivery_tag, requeue)": "a message that goes back",
        "restore_by_tag(tag, client, leftmost)": "a message that goes back",
        "restore_unacked(client)": "all messages that go back",
        "restore_visible": "leaving that to the keeper",
    }),
    *seams_of(_QOS, REDIS_TAKE, {
        "restore_unacked_once(stderr)": "giving messages back once",
        "can_consume_max_estimate()": "how many messages to take", "_flush": "messages that are done",
        "_delivered": "messages that the worker holds", "_dirty": "messages that are acknowledged",
        "_quick_ack": "forgetting a message", "_quick_append": "counting a message",
        "_on_collect": "what kombu itself gives back at the end",
    }),
)
# fmt: on
"""All seams. A name that several guards need stands here once with all of them, or once for each guard."""

GUARDS: tuple[Guard, ...] = tuple(dict.fromkeys(guard for seam in SEAMS for guard in seam.guards))
"""The protections that need seams, in the order of the list."""


@cache
def holds(guard: Guard) -> bool:
    """Whether this process has every seam of a guard; looked up once.

    Code that uses a seam asks before, and does what Celery does where the guard does not hold.
    """
    return not missing([guard])


def missing(guards: Iterable[Guard] = GUARDS, *, loaded: bool = False) -> list[Missing]:
    """The seams that this release of Celery and its family does not have; a millisecond or two.

    Args:
        guards: which guards' seams to look for.
        loaded: look only into modules that this process has loaded. It does not use the others (Redis' transport in a
            worker on RabbitMQ).
    """
    wanted = set(guards)
    found = []
    for seam in SEAMS:
        module = seam.name.partition(":")[0]
        if wanted.isdisjoint(seam.guards) or (loaded and module not in sys.modules) or is_later(seam):
            continue
        if problem := problem_of(seam):
            found.append(Missing(seam, problem))
    return found
