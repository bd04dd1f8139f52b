"""`python -m tests.chaos`: the long form of the chaos suite; `make chaos` runs it on every broker.

Owns the command line and the life of the servers. Exit code 1 when the books do not balance.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.chaos.brokers import BROKERS
from tests.chaos.report import Result, rendered
from tests.chaos.run import run

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run what is asked for and print the reports; returns the exit code."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, _interrupted)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    names = list(BROKERS) if options.broker == "all" else [options.broker]
    _say(f"chaos on {', '.join(names)}: {options.tasks} tasks, {options.faults} faults, seed {seed}")
    results = [_on(name, options, seed) for name in names]
    for result in results:
        sys.stdout.write(f"{result.broker}: {'passed' if result.passed else 'FAILED'}, seed {result.seed}\n")
    return 0 if all(result.passed for result in results) else 1


def _on(name: str, options: argparse.Namespace, seed: int) -> Result:
    kind, on = BROKERS[name]
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-"))
    server = kind()
    try:
        server.start()
        result = run(
            on(server), folder, tasks=options.tasks, faults=options.faults, seed=seed, gap=options.gap,
            say=lambda line: _say(f"{name}: {line}"),
        )  # fmt: skip
    finally:
        server.close()
    sys.stdout.write(rendered(result))
    if result.passed and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        sys.stdout.write(f"  logs, ledger and archive are kept in {folder}\n")
    sys.stdout.flush()
    return result


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break everything, lose nothing.")
    parser.add_argument("--broker", choices=[*BROKERS, "all"], default="all")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is printed")
    parser.add_argument("--gap", type=float, default=2.4, help="seconds between two faults, on average")
    parser.add_argument("--keep", action="store_true", help="keep logs, ledger and archive of a run that passed")
    return parser.parse_args(argv)


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
