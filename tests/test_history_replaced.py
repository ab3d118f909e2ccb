"""A history's file that others replace, move away, copy into a child, or let go of early."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from benchmarks.processes import running
from binance_insurance.errors import StoreError
from binance_insurance.history import History, open_history

from . import ROOT
from .recording import POOLS, snapshot
from .scripts import script

RECORDER = str(ROOT / "tests" / "recording.py")
# What all code in a process of its own begins with: the snapshots, and the history at a path.
BEGIN = f"""
import asyncio, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from binance_insurance.errors import StoreError
from binance_insurance.history import open_history
from tests.recording import snapshot
path = sys.argv[1]
url = f"sqlite:///{{path}}"
"""
# It appends, reads, waits for a line, appends two more, and is killed.
KILLED = f"""{BEGIN}
async def work():
    history = open_history(url)
    await history.append(snapshot(0))
    await history.latest()
    print("ready", flush=True)
    sys.stdin.readline()
    for number in (1, 2):
        await history.append(snapshot(number))
    print("acknowledged", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(work())
"""
LOOKS_ONCE = f"""{BEGIN}
async def work():
    async with open_history(url) as history:
        print(len((await history.series("S0USDT", "USDT")).points))
asyncio.run(work())
"""
# Another user, who cannot make a file, says what is there each time that a line comes.
LOOKS = f"""{BEGIN}
if os.geteuid() == 0:
    os.seteuid(65534)
async def work():
    async with open_history(url, read_only=True) as history:
        for _ in range(3):
            points = (await history.series("S0USDT", "USDT")).points
            print(len(points), (await history.latest()) == snapshot(len(points) - 1), flush=True)
            sys.stdin.readline()
asyncio.run(work())
"""
# The child opens one of its own, or an alarm ends it.
FORKS = f"""{BEGIN}
history = open_history(url)
async def look(who):
    points = (await history.series("S0USDT", "USDT")).points
    print(who, len(points), await history.latest() == snapshot(len(points) - 1), flush=True)
async def first():
    await history.append(snapshot(0))
    await look("parent")
asyncio.run(first())
child = os.fork()
async def in_child():
    global history
    for call in (history.latest(), history.append(snapshot(5)), history.aclose()):
        try:
            await call
        except StoreError as error:
            print("forked" in str(error))
    history = open_history(url, read_only=True)
    await look("child")
    await history.aclose()
if child == 0:
    signal.alarm(5)
    asyncio.run(in_child())
    os._exit(0)
_, status = os.waitpid(child, 0)
print("ended with", status)
async def last():
    await history.append(snapshot(1))
    await look("parent")
    await history.aclose()
asyncio.run(last())
print(os.listdir(os.path.dirname(path)))
"""
# What is asked of a history while and after it is closed.
CLOSES = f"""{BEGIN}
import gc, sqlite3, time
async def say_that_it_is_closed(history):
    for call in (history.append(snapshot(9)), history.latest(), history.info()):
        try:
            print("it answers:", await call)
        except StoreError as error:
            if "is closed" not in str(error):
                print("it says", error)
async def settle():
    ended = time.monotonic() + 20
    while time.monotonic() < ended and len(os.listdir(os.path.dirname(path))) > 1:
        await asyncio.sleep(0.01)
    print(os.listdir(os.path.dirname(path)))
"""
CANCELLED = f"""{CLOSES}
async def work():
    asyncio.get_running_loop().slow_callback_duration = 60  # nothing of a slow machine
    history = open_history(url)
    await history.append(snapshot(0))
    await history.latest()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    append = asyncio.create_task(history.append(snapshot(1)))
    await asyncio.sleep(0.05)
    try:
        async with asyncio.timeout(0.05):
            await history.aclose()
    except TimeoutError:
        print("cancelled")
    await say_that_it_is_closed(history)
    other.execute("ROLLBACK")
    other.close()
    print(await append)
    await settle()
asyncio.run(work())
gc.collect()
"""
RACED = f"""{CLOSES}
async def work():
    asyncio.get_running_loop().slow_callback_duration = 60  # nothing of a slow machine
    history = open_history(url)
    await history.append(snapshot(0))
    calls = (history.latest(), history.aclose(), history.append(snapshot(1)), history.latest())
    for done in await asyncio.gather(*calls, history.aclose(), return_exceptions=True):
        if isinstance(done, BaseException) and "is closed" not in str(done):
            print(repr(done))
    await say_that_it_is_closed(history)
    await settle()
asyncio.run(work())
gc.collect()
"""
LEFT = f"""{CLOSES}
inside = asyncio.Event()
async def use():
    async with open_history(url) as history:
        await history.append(snapshot(0))
        await history.latest()
        inside.set()
        await asyncio.Event().wait()
async def work():
    asyncio.get_running_loop().slow_callback_duration = 60  # nothing of a slow machine
    task = asyncio.create_task(use())
    await inside.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    await settle()
asyncio.run(work())
gc.collect()
"""


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def run(work: Coroutine[Any, Any, object]) -> None:
    """Run in real time, which threads and processes take."""
    asyncio.run(asyncio.wait_for(work, 50))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a history is made, alone in its directory."""
    (tmp_path / "alone").mkdir()
    return tmp_path / "alone" / "h.db"


async def numbers(history: History, name: str = "") -> list[int]:
    """The numbers of the snapshots that a history has."""
    points = (await history.series(f"{name}S0USDT", "USDT")).points
    return [int(point.balance) for point in points]


async def kept(path: Path, name: str = "") -> list[int]:
    """What another one finds in a file."""
    async with open_history(url(path), read_only=True) as history:
        return await numbers(history, name)


def another_appends(path: Path, number: int) -> None:
    """Let another process open the file, append, and end."""
    done = subprocess.run(
        [sys.executable, "-P", RECORDER, url(path), "", str(number), "1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == f"{number}\n"


def say(to: IO[str] | None) -> None:
    """Let a process go on."""
    assert to is not None
    to.write("\n")
    to.flush()


def test_what_a_reader_appends_after_another_process_ended_is_there(path: Path) -> None:
    async def work() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(0))
            assert await numbers(history) == [0]
            await asyncio.to_thread(another_appends, path, 1)
            for number in (2, 3):
                await history.append(snapshot(number))
            assert await numbers(history) == [0, 1, 2, 3]
            await asyncio.to_thread(another_appends, path, 4)
            assert await numbers(history) == [0, 1, 2, 3, 4]
        assert await kept(path) == [0, 1, 2, 3, 4]

    run(work())


def test_what_was_acknowledged_before_a_kill_is_there_though_another_process_looked(
    path: Path,
) -> None:
    with running([sys.executable, "-P", "-c", KILLED, str(path)]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert script(LOOKS_ONCE, str(path)) == "1\n"
        say(process.stdin)
        assert process.stdout.read() == "acknowledged\n"
    assert asyncio.run(kept(path)) == [0, 1, 2]


@pytest.mark.parametrize("reads", [False, True], ids=["appends alone", "reads too"])
def test_a_backup_takes_the_place_of_an_open_file(path: Path, *, reads: bool) -> None:
    backup = path.with_name("backup.db")

    async def work() -> None:
        async with open_history(url(backup)) as history:
            await history.append(snapshot(0, "B"))
        async with open_history(url(path)) as history:
            await history.extend([(snapshot(number, f"N{number}"), None) for number in range(50)])
            await history.append(snapshot(50))
            if reads:
                await history.latest()
            shutil.move(backup, path)  # which replaces it
            for number in (60, 61):
                assert await history.append(snapshot(number)) == POOLS * (1 + (number == 60))
            assert await numbers(history) == [60, 61]
            assert await numbers(history, "B") == [0]
            assert (await history.info()).values == POOLS * (2 + 3)
        assert await kept(path) == [60, 61]

    run(work())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_comes_with_its_log_keeps_what_is_in_it(path: Path) -> None:
    other, ready = path.with_name("other.db"), path.with_name("ready.db")

    async def work() -> None:
        async with open_history(url(other)) as history:
            await history.append(snapshot(7))
            for name in ("", "-wal"):
                shutil.copy(f"{other}{name}", f"{ready}{name}")
        async with open_history(url(path)) as history:
            await history.append(snapshot(0))
            for name in ("", "-wal"):
                shutil.move(f"{ready}{name}", f"{path}{name}")
            await history.append(snapshot(8))
            assert await numbers(history) == [7, 8]
        assert await kept(path) == [7, 8]

    run(work())


@pytest.mark.parametrize("reads", [False, True], ids=["appends alone", "reads too"])
def test_a_file_that_is_moved_without_its_log_has_what_was_acknowledged(
    path: Path, *, reads: bool
) -> None:
    old = Path(f"{path}.old")

    async def work() -> None:
        async with open_history(url(path)) as history:
            for number in range(5):
                await history.append(snapshot(number))
            if reads:
                await history.latest()
            shutil.move(path, old)
            await history.append(snapshot(10))
            assert await numbers(history) == [10]
            assert await kept(old) == [0, 1, 2, 3, 4]
        assert await kept(path) == [10]
        assert await kept(old) == [0, 1, 2, 3, 4]

    run(work())


def test_a_history_that_was_moved_away_is_empty_also_when_it_is_read_first(path: Path) -> None:
    async def work() -> None:
        async with open_history(url(path)) as history:
            await history.append(snapshot(0))
            await history.latest()
            for name in ("", "-wal", "-shm"):
                shutil.move(f"{path}{name}", f"{path}.old{name}")
            assert await history.latest() is None
            assert await numbers(history) == []
            await history.append(snapshot(1))
            assert await history.latest() == snapshot(1)
        assert await kept(Path(f"{path}.old")) == [0]

    run(work())


def test_a_link_may_lead_to_another_file(tmp_path: Path) -> None:
    link, first, second = (tmp_path / name for name in ("link.db", "first.db", "second.db"))

    async def work() -> None:
        for each in (first, second):
            async with open_history(url(each)) as history:
                await history.append(snapshot(0))
        link.symlink_to(first)
        async with open_history(url(link)) as history, open_history(url(first)) as other:
            await history.append(snapshot(1))
            link.unlink()
            link.symlink_to(second)
            await history.append(snapshot(2))
            await other.append(snapshot(3))
            assert await numbers(history) == [0, 2]
        assert await kept(first) == [0, 1, 3]
        assert await kept(second) == [0, 2]

    run(work())


def test_a_directory_that_cannot_be_entered_for_a_while_is_an_error_of_the_store(
    tmp_path: Path,
) -> None:
    directory, away = tmp_path / "here", tmp_path / "away"

    async def work() -> None:
        async with open_history(url(directory / "h.db")) as history:
            await history.append(snapshot(0))
            directory.rename(away)
            directory.touch()
            for call in (history.latest(), history.append(snapshot(1)), history.info()):
                with pytest.raises(StoreError, match="cannot be used: Not a directory"):
                    await call
            directory.unlink()
            away.rename(directory)
            await history.append(snapshot(1))
            assert await numbers(history) == [0, 1]

    directory.mkdir()
    run(work())


def test_who_cannot_make_the_files_of_the_log_sees_what_is_appended_later(path: Path) -> None:
    async def append(*appended: int) -> None:
        await history.extend([(snapshot(number), None) for number in appended])

    history = open_history(url(path))
    asyncio.run(append(0))
    asyncio.run(history.aclose())
    for each in path.parents:
        if each.stat().st_uid == os.geteuid() and each != Path("/"):
            each.chmod(0o755)
    path.parent.chmod(0o555)
    path.chmod(0o444)
    with running([sys.executable, "-P", "-c", LOOKS, str(path)]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1 True\n"
        finally:
            path.parent.chmod(0o755)
            path.chmod(0o644)
        history = open_history(url(path))
        asyncio.run(append(1))
        say(process.stdin)
        assert process.stdout.readline() == "2 True\n"
        asyncio.run(append(*range(2, 100)))
        asyncio.run(history.aclose())
        say(process.stdin)
        assert process.stdout.readline() == "100 True\n"
        say(process.stdin)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_opens_its_own_and_its_parent_goes_on(path: Path) -> None:
    said = script(FORKS, str(path), options=["-W", "ignore::DeprecationWarning"], timeout=50)
    assert said.splitlines() == [
        *("parent 1 True", "True", "True", "child 1 True", "ended with 0"),
        *("parent 2 True", "['h.db']"),
    ]


@pytest.mark.parametrize(
    ("code", "says"),
    [(CANCELLED, ["cancelled", str(POOLS)]), (RACED, []), (LEFT, [])],
    ids=["a close that is cancelled", "calls while it closes", "a block that is cancelled twice"],
)
def test_nothing_stays_open_after_a_close(code: str, says: list[str], path: Path) -> None:
    said = script(code, str(path), options=["-X", "dev", "-W", "error"], timeout=50)
    assert said.splitlines() == [*says, "['h.db']"]


def test_a_close_that_is_cancelled_has_closed(path: Path) -> None:
    async def work() -> None:
        history = open_history(url(path))
        await history.append(snapshot(0))
        closing_it = asyncio.create_task(history.aclose())
        await asyncio.sleep(0)
        closing_it.cancel()
        await asyncio.wait([closing_it])
        with pytest.raises(StoreError, match="is closed"):
            await history.append(snapshot(1))

    run(work())
