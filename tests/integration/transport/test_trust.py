"""What the spool and the journal take nothing from: what others may write, what is another user's, and links."""

from __future__ import annotations

import grp
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_guardrails import access, clock
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.folder import Folder
from celery_guardrails.transport.journal.abandoned import Journals
from celery_guardrails.transport.journal.journal import Journal
from celery_guardrails.transport.service import SpoolShipping
from celery_guardrails.transport.spool import Spool
from tests.integration.acting import NOBODY, as_user, needs_root, public_folder
from tests.integration.transport.dock import Dock
from tests.integration.transport.journaling import taken
from tests.integration.transport.spooling import LIMIT, entry
from tests.integration.transport.test_journal import dead, found

DAEMON = grp.getgrnam("daemon").gr_gid
"""A group that this machine knows, and that is not ours."""
UNKNOWN = 54321
"""A user and a group that no machine has a name for, as in a container."""

Break = Callable[[Path], None]


def mode(bits: int, gid: int = 0) -> Break:
    def loosen(path: Path) -> None:
        os.chown(path, -1, gid)
        path.chmod(bits)

    return loosen


def given_away(path: Path) -> None:
    os.chown(path, NOBODY, -1)


LOOSE = [
    pytest.param(mode(0o777), "can be written by every user", "chmod 700", id="open"),
    pytest.param(mode(0o1777), "can be written by every user", "chmod 700", id="sticky"),
    pytest.param(mode(0o770, DAEMON), "can be written by the group daemon", "chmod 700", id="group"),
    pytest.param(mode(0o777, DAEMON), "can be written by every user", "chmod 700", id="both"),
    pytest.param(given_away, "belongs to nobody, but this process runs as root", "chown root", id="another's"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    needs_root()
    with public_folder() as path:
        yield path


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder / "spool", LIMIT)


@pytest.mark.parametrize(("loosen", "words", "fix"), LOOSE)
def test_nothing_is_shipped_from_a_directory_that_others_may_write(
    spool: Spool, loosen: Break, words: str, fix: str
) -> None:
    path = spool.put(entry(b"1"))
    loosen(spool.directory)
    spool.put(entry(b"2"))  # it is kept nevertheless
    for ask in (spool.names, lambda: spool.claim(path.name)):
        with pytest.raises(SpoolError, match=words) as caught:
            ask()
        assert caught.value.fix == f"{fix} {spool.directory}"
    assert [str(each) for each in spool.distrusts()] == [f"{spool.directory} {caught.value.reason}"]
    assert (path.exists(), spool.status().entries) == (True, 2)
    os.chown(spool.directory, 0, 0)
    spool.directory.chmod(0o700)
    assert len(spool.names()) == 2


@pytest.mark.parametrize("bits", [0o700, 0o755, 0o770, 0o2775])
def test_the_group_of_root_is_no_other(spool: Spool, bits: int) -> None:
    spool.put(entry(b"1"))
    spool.directory.chmod(bits)
    assert len(spool.names()) == 1


def test_a_group_without_a_name_is_our_own_where_we_are_in_it(folder: Path) -> None:
    """What Kubernetes makes of a volume with `fsGroup`: the group may write all, and is in no file of groups."""
    spool = Spool(folder / "spool", LIMIT)
    path = spool.put(entry(b"1"))
    for each, bits in ((path, 0o660), (spool.directory, 0o2770)):
        os.chown(each, UNKNOWN, UNKNOWN)
        each.chmod(bits)

    def shippable() -> list[str]:
        try:
            return [name for name in spool.names() if spool.claim(name)]
        except SpoolError as exc:
            return [exc.reason]

    refused = as_user(UNKNOWN, shippable, gid=DAEMON)
    assert refused == [f"can be written by the group {UNKNOWN} (mode 2770)"]
    assert as_user(UNKNOWN, shippable, gid=DAEMON, groups=(UNKNOWN,)) == [path.name]


def test_an_access_control_list_makes_the_group_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group's bits are then the mask of all whom the list names."""
    folder.chmod(0o770)
    assert access.writable_by(folder) is None
    monkeypatch.setattr(os, "getxattr", lambda *_: b"\2", raising=False)
    assert access.writable_by(folder) is not None


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


ODD = [
    pytest.param(mode(0o666), "can be written by every user", id="open"),
    pytest.param(mode(0o660, DAEMON), "can be written by the group daemon", id="group"),
    pytest.param(given_away, "belongs to nobody", id="another's"),
    pytest.param(linked, "is a link", id="link"),
    pytest.param(fifo, "is not a regular file", id="fifo"),
    pytest.param(directory, "is not a regular file", id="directory"),
]


@pytest.mark.parametrize(("spoil", "words"), ODD)
def test_an_entry_that_others_may_write_is_left_and_said_once(
    dock: Dock, spoil: Break, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    needs_root()
    odd = dock.spool.put(entry(b"odd"))
    good = dock.spool.put(entry(b"good"))
    spoil(odd)
    service = SpoolShipping(dock.shipper)
    assert service.run_once(clock.now(), flush=True) == 1
    assert service.run_once(clock.now(), flush=True) == 0
    assert dock.line.bodies("t.spool") == [b"good"]
    assert (os.path.lexists(odd), good.exists()) == (True, False)
    assert caplog.text.count(odd.name + " in ") == caplog.text.count(words) == 1
    assert "Type: " in caplog.text
    (told,) = dock.spool.distrusts()
    assert words in told.reason


def test_a_directory_that_others_may_write_is_said_once_with_the_line_to_type(
    dock: Dock, caplog: pytest.LogCaptureFixture
) -> None:
    needs_root()
    dock.spool.put(entry(b"1"))
    dock.spool.directory.chmod(0o777)
    service = SpoolShipping(dock.shipper)
    for _ in range(3):
        assert service.run_once(clock.now(), flush=True) == 0
    assert caplog.text.count(f"Type: chmod 700 {dock.spool.directory}") == 1
    dock.spool.directory.chmod(0o700)
    assert service.run_once(clock.now(), flush=True) == 1


def test_a_link_to_a_spool_is_neither_read_nor_written(folder: Path) -> None:
    there = Spool(folder / "there", LIMIT)
    there.put(entry(b"1"))
    (folder / "link").symlink_to(there.directory)
    spool = Spool(folder / "link", LIMIT)
    for ask in (spool.names, spool.status, lambda: spool.put(entry(b"2"))):
        with pytest.raises(SpoolError, match="is a link, which is not followed") as caught:
            ask()
        assert caught.value.fix == f"name the directory itself: {there.directory}"
    assert not spool.is_empty()
    assert len(there.names()) == 1
    assert Spool(folder / "link" / ".." / "there", LIMIT).names()


def test_what_is_done_goes_to_the_directory_that_was_looked_at(folder: Path) -> None:
    """Somebody who may write above it puts another one in its place, between the look and the act."""
    place, away = folder / "spool", folder / "away"
    place.mkdir()
    (place / "ours").write_text("ours")
    with Folder(place) as held:
        assert held.distrust() is None
        place.rename(away)
        place.mkdir(0o777)
        (place / "ours").write_text("theirs")
        assert held.read("ours") == b"ours"
        held.rename("ours", "claimed")
    assert sorted(path.name for path in away.iterdir()) == ["claimed"]
    assert (place / "ours").read_text() == "theirs"


def test_another_user_ships_what_is_its_own(folder: Path) -> None:
    """A process without root, whose spool it is, beside one of root's."""
    mine, theirs = Spool(folder / "mine", LIMIT), Spool(folder / "theirs", LIMIT)
    theirs.put(entry(b"root's"))
    theirs.directory.chmod(0o755)
    mine.directory.mkdir()
    os.chown(mine.directory, NOBODY, NOBODY)

    def act() -> list[object]:
        owner = mine.put(entry(b"1")).stat().st_uid
        claim = mine.claim(mine.names()[0])
        left = theirs.claim(theirs.names()[0])
        return [claim is not None, left is None, owner]

    assert as_user(NOBODY, act) == [True, True, NOBODY]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_all_that_is_made_is_for_its_owner_alone_whatever_the_umask_is(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Spool(folder / "a" / "b" / "spool", LIMIT).put(entry(b"1"))
        journal = Journal(folder / "a" / "b" / "spool", LIMIT, "shop")
        journal.keep(taken("1"))
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder / "a", *(folder / "a").rglob("*"))}
    assert len(found) == 8
    assert {bits for path, bits in found.items() if path.is_dir()} == {0o700}
    assert {bits for path, bits in found.items() if path.is_file()} == {0o600}


@pytest.mark.parametrize(("loosen", "words", "fix"), LOOSE)
@pytest.mark.parametrize("which", ["the spool", "the journals", "one journal"])
def test_nothing_is_taken_from_journals_that_others_may_write(
    folder: Path, which: str, loosen: Break, words: str, fix: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = dead(folder / "spool", "a")
    place = {"the spool": folder / "spool", "the journals": left.parent, "one journal": left}[which]
    loosen(place)
    journals = Journals(folder / "spool", "shop")
    for _ in range(2):
        if which == "one journal":
            assert found(journals) == []
        else:
            with pytest.raises(SpoolError, match=words) as caught:
                found(journals)
            assert (caught.value.directory, caught.value.fix) == (str(place), f"{fix} {place}")
    (told,) = journals.distrusts()
    assert (words in told.reason, told.fix) == (True, f"{fix} {place}")
    assert caplog.text.count(f"Type: {told.fix}") == (1 if which == "one journal" else 0)
    os.chown(place, 0, 0)
    place.chmod(0o700)
    assert found(journals) == ["a"]


@pytest.mark.parametrize(("spoil", "words"), ODD)
@pytest.mark.parametrize("which", ["owner", "000001.entry"])
def test_a_file_of_a_journal_that_others_may_write_is_left_and_said_once(
    folder: Path, which: str, spoil: Break, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = dead(folder / "spool", "a", "b")
    spoil(left / which)
    journals = Journals(folder / "spool", "shop")
    for _ in range(2):
        assert found(journals) == ([] if which == "owner" else ["b"])
    said = (
        "Is a directory" if (which, words) == ("owner", "is not a regular file") and (left / which).is_dir() else words
    )
    assert caplog.text.count(said) == 1
    (told,) = journals.distrusts()
    assert words in told.reason


def test_links_lead_to_no_journal(folder: Path) -> None:
    left = dead(folder / "elsewhere", "a")
    (folder / "spool").mkdir()
    (folder / "spool" / "journal").symlink_to(left.parent)
    journals, journal = Journals(folder / "spool", "shop"), Journal(folder / "spool", LIMIT, "shop")
    for ask in (lambda: found(journals), journals.status, lambda: journal.keep(taken("1"))):
        with pytest.raises(SpoolError, match="is a link, which is not followed"):
            ask()
    (folder / "spool" / "journal").unlink()
    (folder / "spool" / "journal").mkdir()
    (folder / "spool" / "journal" / left.name).symlink_to(left)
    assert found(journals) == []
    assert [path.name for path in left.iterdir()] == [path.name for path in left.iterdir()]
    assert len(list(left.parent.iterdir())) == 1


def test_whoever_may_write_above_is_named(folder: Path) -> None:
    place = folder / "shared" / "spool"
    place.mkdir(parents=True)
    assert access.movable_by(place) is None
    place.parent.chmod(0o1777)
    assert access.movable_by(place) is None
    place.parent.chmod(0o777)
    told = access.movable_by(place)
    assert told is not None
    assert (told.path, told.fix) == (str(place.parent), f"chmod o-w {place.parent}")


def test_a_worker_says_at_start_that_an_empty_spool_is_not_trusted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from celery_guardrails.worker.main.housekeeping import _check_spool

    caplog.set_level(logging.WARNING)
    spool = Spool(folder / "spool", LIMIT)
    _check_spool(spool)
    assert caplog.text == ""
    spool.directory.mkdir()
    spool.directory.chmod(0o777)
    _check_spool(spool)
    assert f"Type: chmod 700 {spool.directory}" in caplog.text
    (folder / "link").symlink_to(spool.directory)
    _check_spool(Spool(folder / "link", LIMIT))
    assert f"Type: name the directory itself: {spool.directory}" in caplog.text
