"""Looks for every seam in each release of Celery that setup.cfg allows, and in the newest that the index offers.

`python house/releases.py [FOLDER]` installs the newest patch of each minor release (`>=5.5,<5.8`: 5.5, 5.6, 5.7)
and its family into FOLDER (default `.venv-seams`), looks there for what `celery_guardrails/seams.py` lists, and runs a
worker with two tasks. It exits 1 where a seam is missing, or where the worker does not do its work or warns.

Then it does the same with the newest of all, pre-releases included and beyond the bounds of setup.cfg. What is missing
there is shown in a block at the very end, and does not fail the run: nobody gets that release through our bounds, and
what others publish must not stop a release of ours. The block is the sign to begin.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FAMILY", "Release", "Seen", "block", "releases"]

ROOT = Path(__file__).resolve().parent.parent
FAMILY = ("celery", "kombu", "billiard", "amqp")
"""The packages that have seams."""

_LOOK = """
import json, celery, kombu, billiard, amqp
from celery_guardrails.seam import by_guard
from celery_guardrails.seams import missing
found = missing()
print(json.dumps({
    "versions": {package.__name__: package.__version__ for package in (celery, kombu, billiard, amqp)},
    "where": celery.__file__,
    "missing": [text for _, text in by_guard(found)],
}))
"""
_NOTHING = json.dumps({"seam": "nothing", "renamed": False}) + "\n"


@dataclass(frozen=True)
class Release:
    """What to install: under which name, and which requirements."""

    name: str
    requirements: tuple[str, ...]
    supported: bool = True


@dataclass(frozen=True)
class Seen:
    """What a release looks like: its versions, and what is wrong with it, a line for each; none: nothing."""

    release: Release
    versions: dict[str, str]
    wrong: tuple[str, ...] = ()


def releases(bounds: dict[str, str]) -> list[Release]:
    """Each minor release that the bounds allow, and the newest of all.

    Args:
        bounds: the specifiers of the family in setup.cfg, such as `{"celery": ">=5.5.0,<5.8"}`.
    """
    low, high = (tuple(map(int, found)) for found in re.findall(r"[<>]=?(\d+)\.(\d+)", bounds["celery"]))
    others = tuple(f"{name}{said}" for name, said in bounds.items() if name != "celery")
    supported = [
        Release(f"{low[0]}.{minor}", (f"celery>={low[0]}.{minor}.0,<{low[0]}.{minor + 1}", *others))
        for minor in range(low[1], high[1])
    ]
    # a lower bound that names a pre-release asks for pre-releases, of these packages only
    newest = tuple(f"{name}>={re.findall(r'>=([0-9.]+)', said)[0]}a0" for name, said in bounds.items())
    return [*supported, Release("newest", newest, supported=False)]


def bounds_in(setup: Path) -> dict[str, str]:
    """What setup.cfg says of the family."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(setup)
    lines = parser["options"]["install_requires"].split()
    return {name: line[len(name) :] for name in FAMILY for line in lines if re.match(rf"{name}[<>=]", line)}


def look(release: Release, folder: Path) -> Seen:
    """Install a release, look for the seams in it, and run a worker on it."""
    target = folder / release.name
    asked = target / "asked.txt"
    if not asked.exists() or asked.read_text() != repr(release):
        command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(target)]
        done = subprocess.run([*command, *release.requirements, "redis"], capture_output=True, text=True)
        if done.returncode:
            return Seen(release, {}, (f"it cannot be installed: {done.stderr.strip()[-1000:]}",))
        asked.write_text(repr(release))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(target), str(ROOT)))}
    looked = _run(("-c", _LOOK), environment)
    if looked.returncode:
        return Seen(release, {}, (f"it cannot be looked at: {looked.stderr[-2000:]}",))
    found = json.loads(looked.stdout)
    if not Path(found["where"]).is_relative_to(target):
        return Seen(release, found["versions"], (f"this is the Celery in {found['where']}",))
    return Seen(release, found["versions"], (*found["missing"], *_tried(environment)))


def _tried(environment: dict[str, str]) -> list[str]:
    """What goes wrong in a worker that runs a task that succeeds and one that fails."""
    done = _run(("-m", "tests.seam.worker"), environment, _NOTHING)
    if done.returncode or not done.stdout:
        return [f"a worker cannot be tried: {done.stderr[-2000:]}"]
    outcome = json.loads(done.stdout)
    wrong = [text for text in outcome["warnings"] if "is dead-lettered" not in text]
    if outcome["error"] or sorted(outcome["ran"]) != ["bad", "good"] or outcome["letters"] != 1:
        wrong.append(f"a worker did not do its work: {outcome}")
    return wrong


def _run(arguments: Sequence[str], environment: dict[str, str], given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=600,
    )


def block(seen: Seen) -> str:
    """What to show of a release that is not supported and that lacks something."""
    versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
    lines = ["=" * 100, f"A RELEASE THAT IS NOT SUPPORTED YET LACKS SEAMS: {versions}", *seen.wrong]
    return "\n".join([*lines, "Mend seams.py and what uses them before the bounds in setup.cfg let it in.", "=" * 100])


def main(arguments: Sequence[str]) -> int:
    """Look at all of them; returns the exit code."""
    folder = Path(arguments[0] if arguments else ROOT / ".venv-seams").resolve()
    all_seen = [look(release, folder) for release in releases(bounds_in(ROOT / "setup.cfg"))]
    known = {seen.versions.get("celery") for seen in all_seen if seen.release.supported}
    for seen in all_seen:
        versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
        note = "no pre-release is newer" if not seen.release.supported and seen.versions.get("celery") in known else ""
        print(
            " | ".join(filter(None, (f"{seen.release.name:<8}", versions, note, "; ".join(seen.wrong) or "all there")))
        )
    for seen in all_seen:
        if seen.wrong and not seen.release.supported:
            print(block(seen))
    return 1 if any(seen.wrong for seen in all_seen if seen.release.supported) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
