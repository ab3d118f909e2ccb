"""A history's file: what it is, and what happens where it cannot be used."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Coroutine, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from binance_insurance.errors import StoreError
from binance_insurance.history import History, open_history

from .conftest import IN_CAMPAIGN
from .recording import snapshot
from .scripts import script


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def run(work: Coroutine[Any, Any, object]) -> None:
    """Run in real time, which threads take."""
    asyncio.run(work)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A history with one snapshot."""
    path = tmp_path / "h.db"

    async def make() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(0))

    run(make())
    return path


async def failure(call: Coroutine[Any, Any, object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await call
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("the history ")
    return caught.value


async def cannot_open(path: Path, *, read_only: bool = False) -> StoreError:
    async def enter() -> None:
        async with open_history(url(path), read_only=read_only):
            pass

    return await failure(enter())


def test_the_file_is_this_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "h.db"

    async def work() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(0))
            for each in path.parent.iterdir():
                assert stat.S_IMODE(each.stat().st_mode) == 0o600
            size = (await history.info()).size
            assert size == sum(each.stat().st_size for each in path.parent.iterdir())

    run(work())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["h.db"]


def test_the_schema_is_named(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for pragma, value in (("application_id", 0x42494E53), ("user_version", 1)):
            assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_appends_are_synchronous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, wrote = sqlite3.connect, set[sqlite3.Connection]()

    def watched(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        """Connect with what some builds of SQLite begin with, and note who writes."""
        connection: sqlite3.Connection = connect(*arguments, **settings)
        connection.execute("PRAGMA synchronous = NORMAL")

        def note(statement: str) -> None:
            if statement.startswith("INSERT INTO value "):
                wrote.add(connection)

        connection.set_trace_callback(note)
        return connection

    async def work() -> None:
        async with open_history(url(tmp_path / "h.db")) as history:
            await history.append(snapshot(0))
            (writer,) = wrote
            assert writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL

    monkeypatch.setattr(sqlite3, "connect", watched)
    run(work())


def test_what_is_read_only_makes_and_writes_nothing(path: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "h.db"

    async def work() -> None:
        assert (await cannot_open(missing, read_only=True)).retry_after is None
        async with open_history(url(path), read_only=True) as history:
            assert await history.latest() == snapshot(0)
            for call in (history.append(snapshot(1)), history.merge(history)):
                assert (await failure(call)).retry_after is None
            assert await history.latest() == snapshot(0)

    before = path.read_bytes()
    run(work())
    assert path.read_bytes() == before
    assert not missing.parent.exists()


@pytest.mark.parametrize("linked", [False, True], ids=["a file", "a link to it"])
def test_what_is_read_only_leaves_the_log_that_a_killed_process_left(
    linked: bool, path: Path, tmp_path: Path
) -> None:
    left, link = tmp_path / "left.db", tmp_path / "link.db"
    link.symlink_to(left.name)
    files = left, Path(f"{left}-wal")

    async def leave() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(1))
            for name in ("", "-wal"):
                shutil.copy(f"{path}{name}", f"{left}{name}")

    async def read() -> None:
        async with open_history(url(link if linked else left), read_only=True) as history:
            assert await history.latest() == snapshot(1)
            assert (await history.info()).size > len(before[1])

    run(leave())
    before = [each.read_bytes() for each in files]
    assert all(before)
    run(read())
    assert [each.read_bytes() for each in files] == before


@contextmanager
def another_user() -> Generator[None]:
    """Be nobody, if we are root, who may do everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def not_to_write(directory: Path) -> Generator[None]:
    """Be another user, for whom a directory and its files are to be read only."""
    for each in (directory, *directory.parents):
        if each.stat().st_uid == os.geteuid() and each != Path("/"):
            each.chmod(0o755 if each != directory else 0o555)
    for each in directory.iterdir():
        each.chmod(0o444)
    try:
        with another_user():
            yield
    finally:
        directory.chmod(0o755)


def test_what_lies_in_a_log_that_cannot_be_read_is_an_error_and_not_left_out(path: Path) -> None:
    (alone := path.parent / "alone").mkdir()

    async def leave() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(1))
            for name in ("h.db", "h.db-wal"):
                shutil.copy(path.parent / name, alone / name)

    run(leave())
    with not_to_write(alone):
        run(cannot_open(alone / "h.db", read_only=True))


def test_a_file_that_nobody_may_write_can_be_read(path: Path) -> None:
    async def work() -> None:
        async with open_history(url(path), read_only=True) as history:
            assert await history.latest() == snapshot(0)
        error = await cannot_open(path)
        assert error.retry_after is None

    with not_to_write(path.parent):
        run(work())
    assert [each.name for each in path.parent.iterdir()] == ["h.db"]


def test_what_is_read_only_sees_what_others_append(path: Path) -> None:
    async def work() -> None:
        async with open_history(url(path), read_only=True) as reader:
            assert await reader.latest() == snapshot(0)
            async with open_history(url(path)) as history:
                await history.append(snapshot(1))
                assert await reader.latest() == snapshot(1)

    run(work())


@contextmanager
def locked(path: Path) -> Generator[sqlite3.Connection]:
    """Let another connection write."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


def test_a_lock_of_a_second_is_waited_for(path: Path) -> None:
    async def work(other: sqlite3.Connection) -> None:
        async with open_history(url(path)) as history:
            began = time.monotonic()
            threading.Timer(1.0, other.execute, ("COMMIT",)).start()
            assert await history.append(snapshot(1)) == 20
            assert time.monotonic() - began > 0.9

    with locked(path) as other:
        run(work(other))


@pytest.mark.parametrize("seconds", [pytest.param(10.0, marks=IN_CAMPAIGN)])
def test_a_lock_that_stays_is_an_error_and_reading_goes_on(path: Path, seconds: float) -> None:
    async def work() -> None:
        async with open_history(url(path)) as history:
            began = time.monotonic()
            append = asyncio.create_task(failure(history.append(snapshot(1))))
            await asyncio.sleep(0.1)
            assert await history.latest() == snapshot(0)
            assert not append.done()
            error = await append
            assert time.monotonic() - began < seconds
            assert error.retry_after is not None
            assert "locked" in str(error)

    with locked(path):
        run(work())


def test_a_full_disk_is_an_error_that_may_pass(path: Path) -> None:
    async def work() -> None:
        async with open_history(url(path)) as history:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
            try:
                error = await failure(history.extend([(snapshot(n), None) for n in range(1, 200)]))
                assert error.retry_after is not None
                assert "disk" in str(error)
                assert await history.latest() == snapshot(0)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert await history.extend([(snapshot(n), None) for n in range(1, 200)]) == 199 * 20

    run(work())


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_text(path: Path) -> None:
    path.write_text("not a database, but long enough to have the header of one\n" * 100)


def make_broken(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def make_foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE value (mine)")


def make_foreign_and_empty(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 1")


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


OTHERS = {
    "a directory": (make_directory, "no file"),
    "no database": (make_text, "not a database"),
    "another program's": (make_foreign, "another program"),
    "another program's, still empty": (make_foreign_and_empty, "another program"),
    "a newer schema": (make_newer, "upgrade binance-insurance"),
}


@pytest.mark.parametrize("read_only", [False, True], ids=["to write", "to read"])
@pytest.mark.parametrize(("make", "says"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_history_is_refused_and_left_as_it_is(
    make: Any, says: str, path: Path, *, read_only: bool
) -> None:
    make(path)
    before = None if path.is_dir() else path.read_bytes()

    async def work() -> None:
        error = await cannot_open(path, read_only=read_only)
        assert error.retry_after is None
        assert says in str(error)

    run(work())
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert before == (None if path.is_dir() else path.read_bytes())


def test_what_is_empty_is_no_history_to_read_but_one_can_be_begun_there(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    path.touch()

    async def work() -> None:
        error = await cannot_open(path, read_only=True)
        assert "it holds no history" in str(error)
        assert error.retry_after is None
        assert path.stat().st_size == 0
        async with open_history(url(path)) as history:
            assert await history.latest() is None

    run(work())


def test_a_broken_file_is_an_error(path: Path) -> None:
    make_broken(path)

    async def work() -> None:
        async with open_history(url(path), read_only=True) as history:
            assert (await failure(history.series("S0USDT", "USDT"))).retry_after is None

    run(work())


def test_a_file_that_is_moved_away_is_begun_anew_and_can_be_merged(path: Path) -> None:
    moved = path.with_name("moved.db")

    async def work() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(1))
            for name in ("", "-wal", "-shm"):
                shutil.move(f"{path}{name}", f"{moved}{name}")
            assert await history.append(snapshot(2)) == 20 + 20
            assert await history.latest() == snapshot(2)
            assert len((await history.series("S0USDT", "USDT")).points) == 1
            async with open_history(url(moved), read_only=True) as old:
                assert await history.merge(old) == 20 + 20
            assert len((await history.series("S0USDT", "USDT")).points) == 3

    run(work())


def test_eight_histories_that_begin_at_once_make_one_file(tmp_path: Path) -> None:
    path = tmp_path / "h.db"

    async def work() -> None:
        histories = [open_history(url(path)) for _ in range(8)]
        try:
            await asyncio.gather(*(each.append(snapshot(n)) for n, each in enumerate(histories)))
            assert [len((await each.series("S0USDT", "USDT")).points) for each in histories] == (
                [8] * 8
            )
        finally:
            for each in histories:
                await each.aclose()

    run(work())


def test_a_relative_path_stays_what_it_was_when_the_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    history: History = open_history("sqlite:///h.db")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")

    async def work() -> None:
        async with history:
            await history.append(snapshot(0))

    run(work())
    assert (tmp_path / "h.db").exists()


def test_a_relative_path_in_a_directory_that_was_removed_is_a_value_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ValueError, match=r"was removed, so sqlite:///h\.db leads nowhere"):
        open_history("sqlite:///h.db")
    open_history(url(tmp_path / "h.db"))


def test_a_history_in_a_file_needs_no_extra() -> None:
    code = (
        "import sys, binance_insurance.history; print([m for m in sys.modules if 'asyncpg' in m])"
    )
    assert script(code) == "[]\n"


def test_a_url_of_postgresql_names_the_missing_extra() -> None:
    code = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from binance_insurance.history import open_history\n"
        "try: open_history('postgresql://user:secret@host/base')\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    said = script(code)
    assert "pip install 'binance-insurance[postgres]'" in said
    assert "secret" not in said
