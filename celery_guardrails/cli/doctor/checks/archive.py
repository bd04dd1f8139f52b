"""The archive: whether it opens, has this version's schema, is on a disk that lasts, and who else may read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from celery_guardrails.access import exposure, writable_by
from celery_guardrails.cli.doctor.checks.disk import mount_of, read_mounts
from celery_guardrails.cli.doctor.context import Context, StoreAway
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.command import celery_command
from celery_guardrails.errors import NoArchive, SchemaMismatch, StoreError
from celery_guardrails.store.engine import SchemaState, sqlite_file, sqlite_files

__all__ = ["access", "machines", "opened", "place"]

_LASTING = "set store.url to a file on a disk that lasts, or to postgresql://..."


def opened(context: Context) -> Iterator[Finding]:
    """Whether it can be read and written, and whether its schema is of this version."""
    try:
        store = context.archive
        state = store.check()
        with store.begin():
            pass
    except StoreAway as exc:
        yield _wrong(context, exc.error)
    except StoreError as exc:
        yield _wrong(context, exc)
    else:
        if state is SchemaState.OLDER:
            yield fine(f"{store.url}: its schema is older, the next guardian migrates it")
        else:
            yield fine(f"{store.url}: opens, can be written, schema up to date")


def _wrong(context: Context, error: StoreError) -> Finding:
    words = f"{error.url}: {error.reason}"
    if isinstance(error, SchemaMismatch):
        newer = "newer" in error.reason
        fix = "upgrade celery-guardrails here" if newer else f"run: {context.project.typed('migrate')}"
        return fault(words, fix)
    if isinstance(error, NoArchive):
        return warning(
            f"{error.url}: there is no archive yet",
            f"run: {celery_command(context.project.name, 'guardian')}, which makes it",
        )
    return fault(words, "correct store.url, start the database, or give this user the right to write there")


def place(context: Context) -> Iterator[Finding]:
    """SQLite in memory, in a container's own layer, or on a network file system."""
    path = sqlite_file(context.settings.store.url)
    if path is None:
        return
    if str(path) == ":memory:":
        yield fault("the archive is in this process's memory, and ends with it", _LASTING)
        return
    mount = mount_of(path, read_mounts())
    if mount is None:
        return
    where = f"{path.resolve()} is on {mount.type} ({mount.point})"
    if mount.in_memory:
        yield fault(f"{where}: a restart of the machine empties it", _LASTING)
    elif mount.in_layer:
        yield fault(f"{where}: it ends with the container", "put store.url on a volume, or set it to postgresql://...")
    elif mount.on_network:
        yield fault(f"{where}: SQLite's locks do not work there", "set store.url to postgresql://...")
    else:
        yield fine(f"{where}, a disk that lasts")


def access(context: Context) -> Iterator[Finding]:
    """Who else may read or write the file of an SQLite archive, the files beside it, and their directory."""
    path = sqlite_file(context.settings.store.url)
    if path is None or not path.is_file():
        return
    found = exposure(sqlite_files(path.resolve()))
    for each in found:
        yield warning(f"{each}; the arguments of dead letters are in it", each.fix)
    directory = writable_by(Path(path.resolve().parent))
    if directory is not None:
        yield warning(f"{directory}: whoever writes there can replace the archive", directory.fix)
    if not found and directory is None:
        yield fine(f"{path.resolve()}: only its owner may read it")


def machines(context: Context) -> Iterator[Finding]:
    """Guardians of several machines on one SQLite file."""
    if sqlite_file(context.settings.store.url) is None:
        return
    hosts = sorted({guardian.host for guardian in context.guardians_alive})
    if len(hosts) > 1:
        yield fault(
            f"guardians of several machines write into one SQLite file: {', '.join(hosts)}",
            "set store.url to postgresql://... for all of them",
        )
