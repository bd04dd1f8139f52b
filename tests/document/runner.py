"""Runs the Python blocks of pages, each project in a process of its own: `python -m tests.document.runner`.

Each line on stdin orders one run, as JSON: the `folder` to run in, the `steps` that come from `program.py`, and where
the `output` goes. The answer is a line with the exit code. What every page imports is imported once: a run is forked.
The first step that does not do what it says ends the run, with the error in the output and exit code 1.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["main", "run"]

_IMPORTED_ONCE = ("celery", "celery_guardrails.cli.check", "celery_guardrails.testing.slack", "django")
_BOUND = 120


class Wrong(Exception):
    """A block does not do what it says."""


def main() -> None:
    """Take orders until stdin ends."""
    for name in _IMPORTED_ONCE:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run_alone(order))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run_alone(order: Mapping[str, Any]) -> int:
    """One run, in the process that was forked for it; SIGALRM ends one that does not end."""
    signal.alarm(_BOUND)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
    code = run(order["steps"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def run(steps: list[dict[str, Any]]) -> int:
    """Run the steps; returns the exit code."""
    sys.path.insert(0, os.getcwd())
    sys.path[:] = [path for path in sys.path if path]
    names: dict[str, Any] = {"__name__": "page"}
    for step in _in_order(steps):
        try:
            _STEPS[step["do"]](step, names)
            _set_up_django()
        except Wrong as error:
            return _fail(f"{step['place']}: {error}")
        except BaseException:  # noqa: BLE001 # whatever a block raises is a fault of the page
            return _fail(f"{step['place']}: the block raises\n{traceback.format_exc()}")
    try:
        check_applications(names)
    except Exception:  # noqa: BLE001 # likewise
        return _fail(f"the applications of the page\n{traceback.format_exc()}")
    return 0


def _in_order(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps as they are; of a project that Django's commands make, its files are whole before one is imported.

    Django reads its settings once, and a page may say what to add to them after what uses them.
    """
    if all(step["do"] != "command" for step in steps):
        return steps
    files = {step["file"]: step for step in steps if step["do"] == "file"}
    made = [
        {**step, "do": "write" if step["do"] == "file" else "command"}
        for step in steps
        if step["do"] in ("file", "command")
    ]
    rest = [step for step in steps if step["do"] not in ("file", "command")]
    return [*made, *({**step, "do": "import"} for step in files.values()), *rest]


def _fail(problem: str) -> int:
    sys.stderr.write(f"{problem}\n")
    return 1


def make_file(step: Mapping[str, Any], names: dict[str, Any]) -> None:
    """Write a file of the project, import it, and make its names known."""
    write_file(step, names)
    import_file(step, names)


def write_file(step: Mapping[str, Any], names: dict[str, Any]) -> None:
    """Write a file of the project."""
    path = Path(step["file"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if step["append"] and not path.exists():
        raise Wrong(f"there is no {path} to which it could be added")
    path.write_text(path.read_text() + "\n" + step["text"] if step["append"] else step["text"], "utf-8")


def import_file(step: Mapping[str, Any], names: dict[str, Any]) -> None:
    """Import a file of the project, and make its names known."""
    path = Path(step["file"])
    if path.name in ("manage.py", "__main__.py"):
        return
    parts = [*path.parts[:-1], *([] if path.stem == "__init__" else [path.stem])]
    module = _imported(".".join(parts))
    names.update({name: value for name, value in vars(module).items() if not name.startswith("__")})


def _imported(name: str) -> ModuleType:
    importlib.invalidate_caches()
    top = name.partition(".")[0]
    elsewhere = [path for path in sys.path if path not in (os.getcwd(), os.environ["PYTHONPATH"])]
    if top in sys.stdlib_module_names or PathFinder.find_spec(top, elsewhere) is not None:
        raise Wrong(f"{top} is the name of another module, too")
    if name in sys.modules:
        return importlib.reload(sys.modules[name])
    return importlib.import_module(name)


def run_code(step: Mapping[str, Any], names: dict[str, Any]) -> None:
    """Execute a block among the names of the blocks above."""
    text = "\n" * (step["line"] - 1) + step["text"]
    code = compile(text, step["page"], "exec")
    raises = step["raises"]
    if not raises:
        exec(code, names)
        return
    try:
        exec(code, names)
    except BaseException as error:  # SystemExit may be what the page says, too
        if raises not in {each.__name__ for each in type(error).__mro__}:
            raise
        return
    raise Wrong(f"the block was to raise {raises}, and raised nothing")


def run_session(step: Mapping[str, Any], names: dict[str, Any]) -> None:
    """Execute the `>>>` lines and compare what they print."""
    test = doctest.DocTestParser().get_doctest(step["text"], names, step["place"], step["page"], step["line"] - 1)
    if not test.examples:
        raise Wrong("a session has lines that begin with >>>")
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    outcome = doctest.DocTestRunner(optionflags=flags).run(test, out=said.append, clear_globs=False)
    names.update(test.globs)
    if outcome.failed:
        raise Wrong("".join(said))


def run_command(step: Mapping[str, Any], names: dict[str, Any]) -> None:
    """Run what makes files of the project."""
    done = subprocess.run(step["words"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Wrong(f"{' '.join(step['words'])} ended with {done.returncode}: {done.stdout}{done.stderr}")


def _set_up_django() -> None:
    """As soon as a block has said where its settings are."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        import django
        from django.apps import apps

        if not apps.ready and not apps.loading:
            django.setup()


def check_applications(names: Mapping[str, Any]) -> None:
    """Settings and policies of each application that the page has made: as `guardrails check` does it."""
    from celery import Celery

    from celery_guardrails.cli.check import _faults
    from celery_guardrails.cli.project import Project

    modules = [module for module in list(sys.modules.values()) if _is_of_the_page(module)]
    holders = [names, *(vars(module) for module in modules)]
    for app in {id(each): each for holder in holders for each in holder.values() if isinstance(each, Celery)}.values():
        if found := [*_faults(Project(app, "page")), *_unknown_settings(app)]:
            raise Wrong("\n".join(map(str, found)))


def _is_of_the_page(module: ModuleType) -> bool:
    with contextlib.suppress(AttributeError, TypeError):
        return (module.__file__ or "").startswith(os.getcwd() + os.sep)
    return False


def _unknown_settings(app: Any) -> list[str]:
    """What the page sets of Celery's own settings and Celery does not know."""
    from celery.app.defaults import DEFAULTS, SETTING_KEYS

    known = {*DEFAULTS, *SETTING_KEYS, "guardrails", "deprecated_settings"}  # the last is a note of Celery's own
    app.conf.get("guardrails")  # it has read what is configured then
    given = {key for key in app.conf.changes if isinstance(key, str) and key.islower()}
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        from django.conf import settings

        given |= {key.removeprefix("CELERY_").lower() for key in dir(settings) if key.startswith("CELERY_")}
    return [f"Celery has no setting {key}" for key in sorted(given - known)]


_STEPS = {
    "file": make_file, "write": write_file, "import": import_file,
    "code": run_code, "session": run_session, "command": run_command,
}  # fmt: skip

if __name__ == "__main__":
    main()
