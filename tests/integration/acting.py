"""Acting as another user: a child process that gives up root for good, and what it answers."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["NOBODY", "as_user", "needs_root", "public_folder"]

NOBODY = pwd.getpwnam("nobody").pw_uid


def needs_root() -> None:
    """Skip where this user cannot act as another one."""
    if os.geteuid() != 0:
        pytest.skip("this user cannot act as another one")


@contextmanager
def public_folder() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own ones are private."""
    folder = Path(tempfile.mkdtemp(prefix="public"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_user(uid: int, act: Callable[[], Any], *, gid: int = NOBODY, groups: tuple[int, ...] = ()) -> Any:
    """What `act` returns, as JSON, in a process of that user.

    Raises:
        AssertionError: it failed there; the message has its traceback.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            answer = {"gives": act()}
        except BaseException:  # noqa: BLE001 told by the parent
            answer = {"failed": traceback.format_exc()}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = json.loads(pipe.read() or b"{}")
    os.waitpid(pid, 0)
    assert "gives" in answer, answer.get("failed", "it ended without an answer")
    return answer["gives"]
