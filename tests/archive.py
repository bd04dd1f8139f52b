"""Archives with their tables, as copies of one that was migrated: only tests of migrations wait for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from celery_guardrails.store.engine import open_store

__all__ = ["migrated_file"]


def migrated_file(path: Path) -> str:
    """Put an empty archive at this path, for its owner alone as any; returns its URL."""
    path.touch(mode=0o600)
    path.write_bytes(_empty())
    return f"sqlite:///{path}"


@cache
def _empty() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "archive.sqlite3"
        open_store(f"sqlite:///{path}").ready().close()
        return path.read_bytes()
