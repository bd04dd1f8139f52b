"""What guardrails cannot do for a task as declared: named by a worker, `check` and `doctor`, and no silent success."""

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness

NAMED = ("shop.mail is an `async def`", "shop.batch has its own Strategy (Batch.Strategy)")


def test_an_async_def_is_named_and_dead_lettered(harness: Harness, broker: Broker, result_backend: str) -> None:
    declared = Guarded(harness, broker.url, result_backend, {}, module="declared")
    worker = declared.worker()
    declared.tasks.mail.delay("mail")
    letter = declared.letter()
    assert letter.reason.value == "permanent_error"
    assert letter.failure.message.startswith("shop.mail is an `async def`")
    assert "succeeded" not in letter.explanation
    assert declared.runs("mail") == []
    for words in NAMED:
        assert words in worker.log()
    for command in ("check", "doctor"):
        said = harness.run("tests.apps.declared", "guardrails", command, env={"COLUMNS": "400"})
        for words in NAMED:
            assert words in said.stdout + said.stderr
