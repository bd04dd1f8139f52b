"""The ways in which a task's body can end that its worker, its child or its body does not see.

`ran` notes each run in the folder that `GUARDED_RUNS` names, a line a run.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery.exceptions import Reject

RUNS = Path(os.environ.get("GUARDED_RUNS", "."))


class Strange(BaseException):
    """No ordinary exception."""


def ran(key: str, **facts: Any) -> int:
    """Note a run of `key`, and return how many there were before it."""
    path = RUNS / key
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as log:
        log.write(json.dumps({"at": time.time(), "pid": os.getpid(), **facts}) + "\n")
    return before


def end(how: str, *rest: Any) -> Any:
    """End the body in that way."""
    ends = {
        "return": lambda: "done",
        "exit": lambda: sys.exit(3),
        "os_exit": lambda: os._exit(3),
        "strange": lambda: _throw(Strange("no ordinary exception")),
        "generator": lambda: _throw(GeneratorExit("left")),
        "interrupt": lambda: _throw(KeyboardInterrupt()),
        "memory": lambda: _throw(MemoryError("no room")),
        "kill_child": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "term_child": lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(30)),
        "kill_main": lambda: (os.kill(os.getppid(), signal.SIGKILL), os.kill(os.getpid(), signal.SIGKILL)),
        "reject": lambda: _throw(Reject("not for me", requeue=False)),
        "unserialisable": object,
        "unpicklable": lambda: _throw(_unpicklable()),
        "hang": lambda: time.sleep(60),
        "bug": lambda: _throw(KeyError("missing")),
    }
    return ends[how]()


def _throw(exc: BaseException) -> Any:
    raise exc


def _unpicklable() -> Exception:
    class Local(Exception):
        pass

    return Local("cannot be pickled")
