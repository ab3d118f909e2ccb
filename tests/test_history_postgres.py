"""A history in PostgreSQL: what is its own, and what happens where it cannot be used."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from benchmarks.postgres_server import PASSWORD, USER, PostgresServer
from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.errors import StoreError
from binance_insurance.history import History, open_history
from binance_insurance.history import postgres_server as postgres_server_module

from .conftest import IN_CAMPAIGN
from .recording import POOLS, at, snapshot

LOCK = 0x42494E53  # of those who write, whatever their version
VALUES = 2 * POOLS  # of a snapshot; half of them are new in the next


async def failure(call: Coroutine[Any, Any, object]) -> StoreError:
    """Return the error of a call: one line, without user and password."""
    with pytest.raises(StoreError) as caught:
        await call
    assert str(caught.value).startswith("the history PostgreSQL at ")
    assert "\n" not in str(caught.value)
    assert USER not in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__
    return caught.value


async def enter(url: str, *, read_only: bool = False) -> None:
    async with open_history(url, read_only=read_only):
        pass


def use(url: str, work: Callable[[History], Coroutine[Any, Any, None]]) -> None:
    """Run work on a history with one snapshot, in real time, which servers take."""

    async def run() -> None:
        async with open_history(url) as history:
            await history.append(snapshot(0))
            await work(history)

    asyncio.run(run())


def base(url: str) -> str:
    """Return the name of the database."""
    return url.rpartition("/")[2]


@contextmanager
def guest(server: PostgresServer, url: str, *grants: str) -> Generator[str]:
    """A user with few rights: yield the URL."""
    server.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'", *grants, database=base(url))
    try:
        yield server.url(base(url), user="guest", password="guest")  # noqa: S106
    finally:
        server.execute("DROP OWNED BY guest", "DROP ROLE guest", database=base(url))


def test_other_programs_find_numbers_in_a_view(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    balances = ["1E+100", "-123456789012345678901234567890.123456789012345678", "1E-30"]
    assets = tuple(
        AssetBalance(f"A{n}", Decimal(each), 1000 * n) for n, each in enumerate(balances)
    )
    odd = InsuranceSnapshot((InsurancePool(("币安USDT", "BTCUSDT"), assets),), at(0))

    async def look() -> None:
        async with postgres_server.connected(base(postgres_url)) as connection:
            rows = await connection.fetch(
                "SELECT * FROM binance_insurance.balances ORDER BY update_time"
            )
        observed = int(at(0).timestamp()) * 1000
        assert [tuple(row) for row in rows] == [
            (1000 * n, observed, "BTCUSDT 币安USDT", f"A{n}", Decimal(each))
            for n, each in enumerate(balances)
        ]

    async def merge() -> None:
        async with open_history(postgres_url) as history:
            assert await history.append(odd) == 3
            await look()
            async with open_history(f"sqlite:///{tmp_path / 'copy.db'}") as copy:
                assert await copy.merge(history) == 3
                assert await copy.latest() == await history.latest() == odd
                # The text of a number is the same in both.
                assert await copy.merge(history) == await history.merge(copy) == 0

    asyncio.run(merge())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"password": f"{PASSWORD}?"}, "it refuses this user or password"),
        ({"user": f"{USER}s"}, "it refuses this user or password"),
        ({"database": "elsewhere"}, 'database "elsewhere" does not exist'),
    ],
)
def test_what_waiting_cannot_mend_is_named(
    postgres_server: PostgresServer, wrong: dict[str, str], reason: str
) -> None:
    url = postgres_server.url(**wrong).replace("?", "%3F")
    error = asyncio.run(failure(enter(url)))
    name = wrong.get("database", "postgres")
    assert str(error) == (
        f"the history PostgreSQL at 127.0.0.1, database {name} cannot be used: {reason}"
    )
    assert error.retry_after is None


def test_a_user_needs_the_right_to_read_or_write(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    with guest(postgres_server, postgres_url) as url:
        error = asyncio.run(failure(enter(url)))
        assert "permission denied for database" in str(error)
        assert error.retry_after is None

    async def nothing(_: History) -> None: ...

    use(postgres_url, nothing)
    schema = "binance_insurance"
    reading = (
        f"GRANT USAGE ON SCHEMA {schema} TO guest",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO guest",
    )

    async def read(url: str) -> None:
        async with open_history(url, read_only=True) as history:
            assert await history.latest() == snapshot(0)
        async with open_history(url) as history:
            assert await history.latest() == snapshot(0)
            error = await failure(history.append(snapshot(1)))
            assert "permission denied for table" in str(error)
            assert error.retry_after is None
            assert await history.latest() == snapshot(0)

    with guest(postgres_server, postgres_url, *reading) as url:
        asyncio.run(read(url))


def test_too_many_connections_may_pass(postgres_server: PostgresServer, postgres_url: str) -> None:
    with guest(postgres_server, postgres_url, "ALTER ROLE guest CONNECTION LIMIT 0") as url:
        error = asyncio.run(failure(enter(url)))
    assert "too many connections for role ***" in str(error)
    assert error.retry_after is not None


def test_a_full_disk_may_pass_and_nothing_is_there_by_halves(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    full = """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON binance_insurance.observation
            FOR EACH ROW EXECUTE FUNCTION full_disk()
    """

    async def work(history: History) -> None:
        await asyncio.to_thread(postgres_server.execute, full, database=base(postgres_url))
        error = await failure(history.append(snapshot(1)))
        assert "No space left on device" in str(error)
        assert error.retry_after is not None
        assert await history.latest() == snapshot(0)
        assert (await history.info()).values == VALUES
        await asyncio.to_thread(
            postgres_server.execute, "DROP FUNCTION full_disk CASCADE", database=base(postgres_url)
        )
        assert await history.append(snapshot(1)) == POOLS

    use(postgres_url, work)


def test_a_server_is_killed_and_restarted_under_an_open_history(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async def work(history: History) -> None:
        try:
            await asyncio.to_thread(postgres_server.stop)
            for call in (history.append(snapshot(1)), history.latest()):
                error = await failure(call)
                assert error.retry_after is not None
        finally:
            await asyncio.to_thread(postgres_server.start)
        assert await history.append(snapshot(1)) == POOLS
        assert await history.latest() == snapshot(1)

    use(postgres_url, work)


def test_a_connection_that_was_lost_unused_is_made_again_unseen(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async def work(history: History) -> None:
        await history.latest()
        await asyncio.to_thread(postgres_server.stop)
        await asyncio.to_thread(postgres_server.start)
        assert await history.append(snapshot(1)) == POOLS
        assert await history.latest() == snapshot(1)

    use(postgres_url, work)


def test_tables_that_are_dropped_under_an_open_history_are_an_error(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async def work(history: History) -> None:
        assert await history.latest() == snapshot(0)
        async with postgres_server.connected(base(postgres_url)) as connection:
            await connection.execute("DROP SCHEMA binance_insurance CASCADE")
        for call in (history.info(), history.latest(), history.append(snapshot(1))):
            assert (await failure(call)).retry_after is None

    use(postgres_url, work)


def test_a_newer_schema_is_refused_and_left_as_it_is(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async def nothing(_: History) -> None: ...

    async def dump() -> list[Any]:
        async with postgres_server.connected(base(postgres_url)) as connection:
            return [
                await connection.fetch("SELECT * FROM binance_insurance.version"),
                await connection.fetch("SELECT * FROM binance_insurance.balances"),
            ]

    use(postgres_url, nothing)
    postgres_server.execute(
        "UPDATE binance_insurance.version SET number = 1000", database=base(postgres_url)
    )
    before = asyncio.run(dump())
    for read_only in (False, True):
        error = asyncio.run(failure(enter(postgres_url, read_only=read_only)))
        assert "its schema has version 1000" in str(error)
        assert "upgrade binance-insurance" in str(error)
        assert error.retry_after is None
    assert asyncio.run(dump()) == before


def test_what_is_read_only_makes_and_writes_nothing(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async def schemas() -> int:
        async with postgres_server.connected(base(postgres_url)) as connection:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM pg_namespace WHERE nspname = 'binance_insurance'"
            )
            return found

    error = asyncio.run(failure(enter(postgres_url, read_only=True)))
    assert "it holds no history" in str(error)
    assert error.retry_after is None
    assert asyncio.run(schemas()) == 0

    async def work(history: History) -> None:
        async with open_history(postgres_url, read_only=True) as reader:
            assert await reader.latest() == snapshot(0)
            await history.append(snapshot(1))
            assert await reader.latest() == snapshot(1)
            error = await failure(reader.append(snapshot(2)))
            assert "read only" in str(error)
            assert error.retry_after is None

    use(postgres_url, work)


def test_three_histories_begin_and_append_at_once(postgres_url: str) -> None:
    async def record(name: str, count: int) -> None:
        async with open_history(postgres_url) as history:
            for number in range(count):
                since = at(number - 1) if number else None
                await history.append(snapshot(number, name), since=since)

    async def work() -> None:
        await asyncio.gather(*(record(name, 10) for name in "ABC"))
        async with open_history(postgres_url) as history:
            info = await history.info()
            assert (info.values, info.gaps) == (3 * POOLS * 11, ())
            # Each second has three observations, and each is of another layout.
            series = await history.series("BS3USDT", "USDT")
            assert [point.balance for point in series.points] == list(range(10))

    asyncio.run(work())


@contextmanager
def locked(server: PostgresServer, url: str) -> Generator[Callable[[], None]]:
    """Let another connection write, until it is let go."""
    held, over = threading.Event(), threading.Event()

    async def hold() -> None:
        async with server.connected(base(url)) as connection:
            await connection.execute(f"SELECT pg_advisory_lock({LOCK})")
            held.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    held.wait()
    try:
        yield over.set
    finally:
        over.set()
        thread.join()


def test_another_writer_is_waited_for_and_the_wait_can_be_cancelled(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async def work(history: History) -> None:
        with locked(postgres_server, postgres_url) as let_go:
            append = asyncio.create_task(history.append(snapshot(1)))
            await asyncio.sleep(0.05)
            append.cancel()
            with pytest.raises(asyncio.CancelledError):
                await append
            assert await history.latest() == snapshot(0)  # reading goes on
            append = asyncio.create_task(history.append(snapshot(2)))
            await asyncio.sleep(0.05)
            assert not append.done()
            let_go()
            assert await append == POOLS

    use(postgres_url, work)


@pytest.mark.parametrize("seconds", [pytest.param(10.0, marks=IN_CAMPAIGN)])
def test_a_lock_that_stays_is_an_error_that_may_pass(
    postgres_server: PostgresServer, postgres_url: str, seconds: float
) -> None:
    async def work(history: History) -> None:
        with locked(postgres_server, postgres_url):
            began = time.monotonic()
            error = await failure(history.append(snapshot(1)))
            assert time.monotonic() - began < seconds
            assert "another process has locked it" in str(error)
            assert error.retry_after is not None
            assert await history.latest() == snapshot(0)
        assert await history.append(snapshot(1)) == POOLS

    use(postgres_url, work)


@pytest.mark.parametrize("seconds", [pytest.param(10.0, marks=IN_CAMPAIGN)])
def test_a_server_that_does_not_answer_is_an_error_that_may_pass(seconds: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/base"
        began = time.monotonic()
        error = asyncio.run(failure(enter(url)))
    assert time.monotonic() - began < seconds
    assert "it does not answer in time" in str(error)
    assert error.retry_after is not None


@pytest.mark.parametrize("kills", [pytest.param(5, marks=IN_CAMPAIGN)])
def test_a_server_that_is_killed_again_and_again_keeps_what_it_acknowledged(
    postgres_server: PostgresServer, postgres_url: str, kills: int
) -> None:
    async def append(history: History, over: asyncio.Event) -> int:
        """Append one after the other, each until it is acknowledged."""
        number = 1
        while not over.is_set():
            try:
                await history.append(snapshot(number), since=at(number - 1))
            except StoreError as error:
                if error.retry_after is None:
                    raise
                await asyncio.sleep(0.02)
            else:
                number += 1
        return number

    async def work(history: History) -> None:
        over = asyncio.Event()
        appending = asyncio.create_task(append(history, over))
        for _ in range(kills):
            await asyncio.sleep(0.4)
            await asyncio.to_thread(postgres_server.stop)
            await asyncio.to_thread(postgres_server.start)
        over.set()
        count = await appending
        assert count > kills
        info = await history.info()
        assert (info.values, info.gaps, info.last) == (POOLS * (count + 1), (), at(count - 1))

    use(postgres_url, work)


def test_threads_with_loops_of_their_own_use_one_history(postgres_url: str) -> None:
    history = open_history(postgres_url)
    asyncio.run(history.append(snapshot(0)))
    both = threading.Barrier(2)
    seen: list[InsuranceSnapshot | None] = []

    async def read() -> None:
        seen.append(await history.latest())
        both.wait()
        seen.append(await history.latest())

    threads = [threading.Thread(target=asyncio.run, args=(read(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [snapshot(0)] * 4
    asyncio.run(history.aclose())
    asyncio.run(failure(history.latest()))


def test_a_loop_that_ends_without_a_word_does_no_harm(postgres_url: str) -> None:
    history = open_history(postgres_url)
    for number in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(history.append(snapshot(number)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    gc.collect()
    assert asyncio.run(history.latest()) == snapshot(1)


def test_a_socket_is_named_by_its_directory(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    directory = postgres_server.directory / "data"
    url = f"postgresql://{USER}:{PASSWORD}@/{base(postgres_url)}"
    url += f"?host={directory}&port={postgres_server.port}&application_name=ours&sslmode=disable"

    async def work(history: History) -> None:
        assert await history.latest() == snapshot(0)
        assert str(directory) in repr(history)
        async with postgres_server.connected("postgres") as connection:
            names = await connection.fetch("SELECT application_name FROM pg_stat_activity")
        assert "ours" in {name for (name,) in names}

    use(url, work)


def test_the_login_can_be_of_any_letters_and_stand_in_options_or_in_a_file(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    name, user, password = base(postgres_url), "gu:e@st", "p@s/s%40:?"
    port, quoted = postgres_server.port, quote(password, safe="")
    postgres_server.execute(
        f"CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'",
        f'GRANT CREATE ON DATABASE "{name}" TO "{user}"',
        database=name,
    )
    passfile = tmp_path / "passwords"
    passfile.write_text(f"127.0.0.1:{port}:{name}:{USER}:{PASSWORD}\n")
    passfile.chmod(0o600)
    login = quote(user, safe="")
    try:
        for number, url in enumerate(
            (
                f"postgresql://{login}:{quoted}@127.0.0.1:{port}/{name}",
                f"postgresql:///{name}?host=127.0.0.1&port={port}&user={login}&password={quoted}",
                f"postgresql://{USER}@127.0.0.1/{name}?port={port}&passfile={passfile}",
            )
        ):

            async def append(url: str = url, number: int = number) -> int:
                async with open_history(url) as history:
                    return await history.append(snapshot(number))

            assert asyncio.run(append()) == POOLS * (1 + (number == 0))
        wrong = f"postgresql:///{name}?host=127.0.0.1&port={port}&user={login}&password=wr0ng!"
        error = asyncio.run(failure(enter(wrong)))
        assert "refuses this user or password" in str(error)
    finally:
        postgres_server.execute(
            f'DROP OWNED BY "{user}" CASCADE', f'DROP ROLE "{user}"', database=name
        )


def test_an_address_of_version_6_stands_in_brackets() -> None:
    history = open_history("postgresql://user@[::1]/base")
    assert repr(history) == "<History PostgreSQL at ::1, database base>"


def test_a_closed_history_has_no_session_left(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'binance-insurance'"
    query += f" AND datname = '{base(postgres_url)}'"

    async def work() -> None:
        async with postgres_server.connected("postgres") as connection:
            async with open_history(postgres_url) as history:
                await history.append(snapshot(0))
                await history.latest()
                assert await connection.fetchval(query) == 2
            for _ in range(100):
                if not await connection.fetchval(query):
                    return
                await asyncio.sleep(0.01)
            pytest.fail("a session is left")

    asyncio.run(work())


def test_more_rows_than_one_insertion_takes_are_all_there(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server_module, "_AT_ONCE", 7)

    async def work(history: History) -> None:
        assert await history.append(snapshot(1)) == POOLS
        assert await history.latest() == snapshot(1)
        assert (await history.info()).values == 3 * POOLS
        assert (await history.info()).size > 8192

    use(postgres_url, work)


@pytest.mark.parametrize(
    "rest",
    [
        "host",
        "host/",
        "host/base/more",
        "host,other/base",
        "host:0/base",
        "host:secret/base",
        "host/base?port=0",
        "host/base?port=65536",
        "host/base?sslmode=sure",
        "host/base?ssl_min_protocol_version=SSLv3",
        "host/base?server_settings=x",
        "host/base?pool=3",
        "host/base?host",
    ],
)
def test_a_wrong_url_is_a_value_error_without_the_password(rest: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        open_history(f"postgresql://{USER}:{PASSWORD}@{rest}")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("option", ["sslrootcert", "passfile"])
def test_a_missing_file_is_named(postgres_url: str, tmp_path: Path, option: str) -> None:
    missing = tmp_path / "missing"
    error = asyncio.run(failure(enter(f"{postgres_url}?{option}={missing}")))
    assert f"there is no file {missing}" in str(error)
    assert error.retry_after is None
