"""Where processes keep a shared ledger: files and servers that begin, go, move and lose data."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from subprocess import Popen

import pytest
import redis

from benchmarks.fleet import windows
from benchmarks.processes import running
from benchmarks.redis_server import RedisServer
from binance_insurance import BudgetTimeoutError, SqliteBudget
from binance_insurance.budget import Report, create_budget

from .scale import CAMPAIGN, sample
from .test_fleet import INTERVAL, LIMIT, Fleet, fleet, full

# Takes weight from the budget in each file that standard input names, and answers with the error.
BEGINNER = """
import asyncio, sys
from binance_insurance.budget import SqliteBudget

async def begin(path):
    async with SqliteBudget(path, 100, reserve=0) as budget:
        budget.release(await budget.acquire(timeout=10))

for line in sys.stdin:
    try:
        asyncio.run(begin(line.strip()))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    else:
        print("served", flush=True)
"""


def files_of(path: Path) -> list[Path]:
    """The three files of a database."""
    return [path, Path(f"{path}-wal"), Path(f"{path}-shm")]


def delete(path: Path) -> None:
    for each in files_of(path):
        each.unlink(missing_ok=True)


def delete_alone(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    for each in files_of(path):
        if each.exists():
            each.rename(f"{each}.moved")


def move_alone(path: Path) -> None:
    path.rename(f"{path}.moved")


DISTURBANCES = [delete, delete_alone, move, move_alone]


def report(used: int, status: int = 200) -> Report:
    return Report(status, used, float(int(time.time())))


@pytest.mark.campaign
@pytest.mark.fleet
def test_processes_that_begin_together_make_one_file(tmp_path: Path) -> None:
    def ask(process: Popen[str], path: Path) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()

    def answer(process: Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    with ExitStack() as stack:
        command = [sys.executable, "-c", BEGINNER]
        processes = [stack.enter_context(running(command)) for _ in range(3)]
        answers: list[str] = []
        for number in range(sample(20, 150)):
            path = tmp_path / "deep" / f"{number}.sqlite"
            for process in processes:
                ask(process, path)
            answers += [answer(process) for process in processes]
    assert answers == ["served"] * len(answers)


@pytest.mark.campaign
@pytest.mark.fleet
@pytest.mark.parametrize(
    "disturbances",
    [[each] * 10 for each in DISTURBANCES] if CAMPAIGN else [DISTURBANCES],
    ids=lambda disturbances: disturbances[-1].__name__,
)
def test_busy_and_idle_processes_go_on_when_their_file_goes(
    tmp_path: Path, disturbances: list[Callable[[Path], None]]
) -> None:
    path = tmp_path / "budget.sqlite"

    async def main() -> None:
        url = f"sqlite:///{path}"
        async with (
            create_budget(url, LIMIT, interval=INTERVAL, reserve=0) as idle,
            fleet(url) as busy,
        ):
            idle.release(await idle.acquire())
            await busy.wait_windows(1)
            for disturb in disturbances:
                await asyncio.sleep(0.8 * INTERVAL)
                disturb(path)
            await busy.wait_windows(1.5)
            idle.release(await idle.acquire(timeout=2 * INTERVAL))
            assert idle.state().resets_at, "it knows what the others have learned"
            assert await busy.close() == []
        assert_full(busy)

    asyncio.run(main())


def assert_full(busy: Fleet) -> None:
    """The windows were used, and no request was refused."""
    seen = windows(busy.exchange)
    weights = sorted(window.weight for window in full(seen))
    print(f"{weights} of {LIMIT}")
    assert sum(window.refused for window in seen) == 0
    assert median(weights) >= 0.95 * LIMIT


@pytest.mark.campaign
@pytest.mark.fleet
def test_many_busy_processes_share_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with fleet(f"sqlite:///{tmp_path / 'budget'}", sample(6, 16)) as busy:
            await busy.wait_windows(sample(3, 10))
            assert await busy.close() == []
        assert_full(busy)

    asyncio.run(main())


@pytest.mark.campaign
@pytest.mark.fleet
def test_two_of_four_busy_processes_are_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with fleet(f"sqlite:///{tmp_path / 'budget'}") as busy:
            await busy.wait_windows(1.1)
            for _ in range(2):
                busy.processes.pop().kill()
            await busy.wait_windows(sample(3, 10))
            assert await busy.close() == []
        assert_full(busy)

    asyncio.run(main())


@pytest.mark.campaign
@pytest.mark.fleet
def test_redis_loses_its_data_again_and_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    async def main() -> None:
        async with fleet(server.url) as busy:
            await busy.wait_windows(1)
            for _ in range(sample(2, 5)):
                await asyncio.sleep(0.8 * INTERVAL)
                with closing(redis.Redis.from_url(server.url)) as client:  # pyright: ignore[reportUnknownMemberType]
                    client.flushall()  # pyright: ignore[reportUnknownMemberType]
            await busy.wait_windows(2.25)
            assert await busy.close() == []
        assert_full(busy)

    server.start()
    try:
        asyncio.run(main())
    finally:
        server.stop()


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_a_new_file_begins_with_what_the_old_one_held(
    tmp_path: Path, disturb: Callable[[Path], None]
) -> None:
    path = tmp_path / "budget"

    async def main() -> None:
        async with (
            SqliteBudget(path, 100, reserve=0) as one,
            SqliteBudget(path, 100, reserve=0) as other,
        ):
            other.release(await other.acquire())
            one.settle(await one.acquire(), report(1))
            one.settle(await one.acquire(), report(95))
            await asyncio.sleep(0.05)  # it is written down a moment later
            disturb(path)
            with pytest.raises(BudgetTimeoutError):
                await other.acquire(20, timeout=0.1)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="files have no modes there")
def test_a_new_file_is_for_its_user_alone_and_another_keeps_its_mode(tmp_path: Path) -> None:
    async def use(path: Path, then: Callable[[Path], None]) -> set[int]:
        async with SqliteBudget(path) as budget:
            budget.release(await budget.acquire())
            await asyncio.sleep(0.05)
            then(path)
            budget.release(await budget.acquire())
            return {each.stat().st_mode & 0o777 for each in files_of(path)}

    def stay(path: Path) -> None:
        pass

    made, shared = tmp_path / "a" / "b" / "new", tmp_path / "shared"
    for then in (stay, delete):
        assert asyncio.run(use(made, then)) == {0o600}
    for directory in (made.parent, made.parent.parent):
        assert directory.stat().st_mode & 0o777 == 0o700
    shared.touch()
    shared.chmod(0o666)
    for then in (stay, delete):
        assert asyncio.run(use(shared, then)) == {0o666}
