"""Budgets from URLs, and what they and the retries say: errors, `repr`, log lines, no password."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from benchmarks.redis_server import RedisServer
from binance_insurance import (
    InsuranceClient,
    LocalBudget,
    RedisBudget,
    RetryPolicy,
    Runtime,
    SqliteBudget,
    StoreError,
)
from binance_insurance.budget import Lease, Report, WeightBudget, create_budget
from binance_insurance.sandbox import Fault, Sandbox

from .exchange import exchange_in_a_thread
from .scripts import script

HIDDEN = "hunter2"

# Calls for a pool that is answered 503, and for one that is answered 429 and then 418.
PROGRAM = """
import asyncio, logging, sys
from binance_insurance import InsuranceClient, IPBannedError

async def main():
    async with InsuranceClient(sys.argv[1]) as client:
        await client.fetch_pool("ADAUSDT")
        await client.fetch_pool("BTCUSDT")
        try:
            await client.fetch_pool("ADAUSDT")
        except IPBannedError:
            print("banned", flush=True)

logging.basicConfig(level="INFO")
asyncio.run(main())
"""


def run(body: Callable[[], Awaitable[None]]) -> None:
    """Run a test in real time, in a loop of its own."""

    async def main() -> None:
        async with asyncio.timeout(50):
            await body()

    asyncio.run(main())


def empty(directory: Path) -> None:
    for each in directory.iterdir():
        each.unlink()


async def spend(budget: WeightBudget, weight: int = 1) -> Lease:
    """Take weight and give it back."""
    lease = await budget.acquire(weight, timeout=20)
    budget.release(lease)
    return lease


def said_by(error: BaseException) -> str:
    """All that an error, its causes and its traceback say."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- Options ---


@pytest.mark.parametrize("place", ["memory://", "sqlite:///b.sqlite", "redis://127.0.0.1:9/0"])
def test_a_url_says_limit_reserve_and_interval_and_keywords_win(
    place: str, directory: Path
) -> None:
    async def body() -> None:
        url = f"{place}?limit=100&reserve=20&interval=2"
        for budget, capacity, interval in (
            (create_budget(url), 80, 2),
            (create_budget(url, 2400), 2380, 2),
            (create_budget(url, reserve=0, interval=60), 100, 60),
            (create_budget(place), 1920, 60),
        ):
            assert (budget.capacity, budget.interval) == (capacity, interval)
            await budget.aclose()

    run(body)


def test_a_url_says_the_group(directory: Path) -> None:
    async def body() -> None:
        url = "sqlite:///b.sqlite?limit=100&reserve=0"
        async with create_budget(f"{url}&group=203.0.113.7") as one:
            one.settle(await one.acquire(), Report(200, 60, wall=0.0))
        async with (
            create_budget(f"{url}&group=203.0.113.7") as same,
            create_budget(f"{url}&group=203.0.113.8") as other,
            create_budget(f"{url}&group=203.0.113.8", group="203.0.113.7") as keyword,
        ):
            for budget in (same, other, keyword):
                await spend(budget)
            assert [each.state().used_weight for each in (same, other, keyword)] == [60, None, 60]

    run(body)


def test_a_url_says_the_share_without_redis() -> None:
    async def body() -> None:
        async with create_budget("redis://127.0.0.1:9/0?limit=100&reserve=0&share=0.1") as budget:
            await spend(budget)
            assert budget.capacity == 10
        async with create_budget("redis://127.0.0.1:9/0?share=null") as budget:
            with pytest.raises(StoreError, match="out of reach"):
                await budget.acquire()

    run(body)


def test_a_url_says_after_how_many_seconds_redis_is_out_of_reach() -> None:
    async def body() -> None:
        done = asyncio.Event()

        async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await done.wait()
            writer.close()

        server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        took: list[float] = []
        async with server:
            for _ in range(3):  # a busy machine may stop the process at any time
                async with create_budget(f"redis://127.0.0.1:{port}?timeout=0.1&share=0.1") as one:
                    began = time.monotonic()
                    await spend(one)
                    took.append(time.monotonic() - began)
                    assert one.capacity == 192
            done.set()
        assert min(took) < 0.9

    run(body)


def test_an_option_of_redis_py_is_passed_on(redis_server: RedisServer) -> None:
    async def body() -> None:
        name = uuid4().hex
        url = f"{redis_server.url}?client_name={name}&health_check_interval=30&group={name}"
        async with create_budget(url) as budget:
            await spend(budget)
            with redis.Redis.from_url(redis_server.url) as admin:  # pyright: ignore[reportUnknownMemberType]
                assert name in str(admin.client_list())  # pyright: ignore[reportUnknownMemberType]

    run(body)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("memory://?group=x", "'group'"),
        ("memory://?share=0.5", "'share'"),
        ("memory://?limit=many", "'limit'"),
        ("memory://?limit", "'limit'"),
        ("memory://?limit=", "'limit'"),
        ("memory://?limit=1&limit=2", "'limit'"),
        ("memory://?limit=0&reserve=0", "limit"),
        ("memory://?reserve=2400", "reserve"),
        ("memory://?Limit=100", "'Limit'"),
        ("sqlite:///b.sqlite?share=0.5", "'share'"),
        ("sqlite:///b.sqlite?interval=1.5", "interval"),
        ("sqlite:///b.sqlite?interval=nan", "interval"),
        ("sqlite:///b.sqlite?mode=ro", "'mode'"),
        ("redis://h/0?share=2", "share"),
        ("redis://h/0?share=x", "'share'"),
        ("redis://h/0?timeout=0", "timeout"),
        ("redis://h/0?colour=red", "'colour'"),
        ("redis://h/0?decode_responses=1", "'decode_responses'"),
        ("redis://h/0?retry=1", "'retry'"),
        ("redis://h/0?health_check_interval=x", "'health_check_interval'"),
        ("redis://h/0?protocol=7", "protocol"),
        ("redis://h/0?ssl_cert_reqs=none", "'ssl_cert_reqs'"),
        ("rediss://h/0?ssl_cert_reqs=some", "ssl_cert_reqs"),
        ("rediss://h/0?ssl_min_version=5", "ssl_min_version"),
        ("unix:///socket?socket_keepalive=1", "'socket_keepalive'"),
        ("redis://h/first", "h/first"),
        ("redis://h:port/0", "port"),
        ("redis://h/0#1", "percent-encoded"),
        ("sqlite:///a#b.sqlite", "percent-encoded"),
        ("sqlite:///a%00b.sqlite", "percent-encoded"),
        ("sqlite:/a.sqlite", "sqlite:///path"),
    ],
)
def test_an_option_that_cannot_be_is_named(url: str, named: str, directory: Path) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        create_budget(url)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(directory.iterdir())


def test_a_redis_budget_says_where_its_arguments_belong() -> None:
    with pytest.raises(ValueError, match=r"'share' .* is an argument of RedisBudget"):
        RedisBudget("redis://h/0?share=0.1")


# --- Files ---


def test_a_lost_slash_makes_no_directory(directory: Path) -> None:
    with pytest.raises(ValueError, match="'var/lib/app'") as caught:
        create_budget("sqlite:///var/lib/app/b.sqlite?limit=5000")
    assert "sqlite:////var/lib/app/b.sqlite?limit=5000" in str(caught.value)
    assert not list(directory.iterdir())


def test_a_relative_path_stays_where_it_was(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "var").mkdir()
    (directory / "elsewhere").mkdir()

    async def body() -> None:
        async with create_budget("sqlite:///var/b.sqlite") as budget:
            monkeypatch.chdir("elsewhere")
            await spend(budget)

    run(body)
    assert (directory / "var" / "b.sqlite").exists()
    assert not list((directory / "elsewhere").iterdir())


def test_a_path_is_percent_decoded(directory: Path) -> None:
    async def body() -> None:
        async with create_budget("sqlite:///a%20%23%3F%25b.sqlite?limit=1000") as budget:
            await spend(budget)

    run(body)
    assert (directory / "a #?%b.sqlite").exists()


def test_what_an_absolute_path_makes_is_for_its_user_alone(directory: Path) -> None:
    modes: dict[str, str] = {}

    def note_modes() -> None:
        modes.update(
            {each.name: f"{each.stat().st_mode & 0o777:o}" for each in directory.rglob("*")}
        )

    async def body() -> None:
        async with create_budget(f"sqlite:///{directory}/var/lib/b.sqlite") as budget:
            await spend(budget)
            note_modes()

    before = os.umask(0)
    try:
        run(body)
    finally:
        os.umask(before)
    files = dict.fromkeys(["b.sqlite", "b.sqlite-wal", "b.sqlite-shm"], "600")
    assert modes == {"var": "700", "lib": "700", **files}


# --- Passwords ---


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://user:{HIDDEN}@h/0",
        f"user:{HIDDEN}@h",
        f"redis:/:{HIDDEN}@h",
        f"sqlite://user:{HIDDEN}@h/path",
        f"redis://:{HIDDEN}@h/first",
        f"redis://:{HIDDEN}@h:port/0",
        f"redis://:{HIDDEN}@h:99999/0",
        f"redis://:{HIDDEN}@[h/0",
        f"redis://user:{HIDDEN}/0",  # @h is missing
        f"redis://:a/{HIDDEN}@h",
        f"redis://:a#{HIDDEN}@h",
        f"redis://:{HIDDEN}#a@h",
        f"redis://:1?{HIDDEN}@h",
        f"redis://:1?{HIDDEN}=1&a@h",
        f"redis://:{HIDDEN}\N{ACCOUNT OF}@h",  # urlsplit refuses the whole host, and shows it
        f"redis://:{HIDDEN}@h/0?colour=red",
        f"redis://:{HIDDEN}@h/0?limit=x",
        f"redis://:{HIDDEN}@h/0?db=x",
        f"redis://:{HIDDEN}@h/0?share=2",
        f"redis://:{HIDDEN}@h/0?ssl_ciphers=x",
        f"rediss://h/0?ssl_password={HIDDEN}&protocol=7",
        f"unix:///socket?password={HIDDEN}&colour=red",
        f"unix:///socket?pass%77ord={HIDDEN}&colour=red",
    ],
)
def test_a_url_that_is_refused_keeps_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\*\*\*|share") as caught:
        create_budget(url)
    assert HIDDEN not in said_by(caught.value)


def test_the_url_of_an_exchange_keeps_its_password() -> None:
    for url in (f"user:{HIDDEN}@h", f"https://:{HIDDEN}@h:port", f"https://:{HIDDEN}@[h"):
        with pytest.raises(ValueError, match="base_url must be") as caught:
            LocalBudget().serve(url)
        assert HIDDEN not in said_by(caught.value)


@contextmanager
def serving(tmp_path: Path, server: RedisServer) -> Generator[RedisServer]:
    """A server of this test alone, with another password than the one that is given."""
    own = RedisServer(tmp_path, server.server)
    own.start()
    try:
        with redis.Redis.from_url(own.url) as admin:  # pyright: ignore[reportUnknownMemberType]
            admin.config_set("requirepass", "right")  # pyright: ignore[reportUnknownMemberType]
        yield own
    finally:
        own.stop()


async def failure(url: str) -> StoreError:
    """What a caller gets, without a share."""
    async with create_budget(f"{url}?share=null") as budget:
        with pytest.raises(StoreError, match=r"redis://:\*\*\*@127") as caught:
            await budget.acquire()
        assert HIDDEN not in repr(budget) + str(budget)
        return caught.value


def test_a_server_that_refuses_or_is_gone_shows_no_password(
    directory: Path, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    async def body(url: str) -> None:
        said.append(said_by(await failure(url)))
        async with create_budget(url) as budget:  # goes on by itself
            await spend(budget)

    with serving(directory, redis_server) as server:
        url = server.url.replace("//", f"//:{HIDDEN}@")
        run(lambda: body(url))
    run(lambda: body(url))
    assert len(said) == 2
    assert "invalid" in said[0].lower() or "wrongpass" in said[0].lower()
    assert sum("goes on by itself" in each.getMessage() for each in caplog.records) == 2
    assert HIDDEN not in "".join([*said, caplog.text])
    files = [each for each in directory.rglob("*") if each.is_file()]
    assert not [each for each in files if HIDDEN.encode() in each.read_bytes()]


def test_a_server_that_repeats_a_password_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(f"-ERR unknown command 'AUTH' with '{HIDDEN}'\x1b[31m\r\n".encode() * 3)
        writer.close()

    async def body() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            error = await failure(f"redis://:{HIDDEN}@127.0.0.1:{port}")
            assert "unknown command 'AUTH' with '***'" in str(error)
            said.append(said_by(error))

    run(body)
    assert HIDDEN not in "".join([*said, caplog.text])
    assert "\x1b" not in caplog.text


# --- What a budget says of itself ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://?limit=100&reserve=5", "LocalBudget(limit=100, reserve=5, interval=60)"),
        ("sqlite:////b", "SqliteBudget('/b', limit=2400, reserve=480, interval=60)"),
        (
            f"redis://user:{HIDDEN}@h:1/0?interval=2",
            "RedisBudget('redis://user:***@h:1/0', limit=2400, reserve=480, interval=2)",
        ),
        (f"redis://{HIDDEN}@h", "RedisBudget('redis://***@h', limit=2400, "),
        (f"unix:///s?password={HIDDEN}", "RedisBudget('unix:///s?password=***', limit=2400, "),
    ],
)
def test_a_budget_tells_its_settings_and_no_password(url: str, shown: str) -> None:
    budget = create_budget(url)
    assert repr(budget).startswith(shown)
    assert str(budget) == repr(budget)


@pytest.mark.parametrize("name", ["a" * 4000, "\n\x1b" * 500, "\\" * 4000])
def test_a_budget_is_brief(name: str) -> None:
    budget = SqliteBudget(f"/tmp/{name}")  # noqa: S108 - nothing is made
    assert repr(budget).endswith(", limit=2400, reserve=480, interval=60)")
    assert len(repr(budget)) < 300
    assert repr(budget).isprintable()


# --- Logs ---


def test_a_retry_a_429_and_a_418_are_in_the_log_of_a_program() -> None:
    with exchange_in_a_thread() as exchange:
        wait = {"Retry-After": "1"}
        exchange.inject(
            Fault(),
            Fault.of_status(503, b'{"code":-1,"msg":"busy\\n\\u001b[31m"}'),
            Fault(),
            Fault.of_status(429, b"", wait),
            Fault.of_status(418, b"", {"Retry-After": "120"}),
        )
        lines = script(PROGRAM, exchange.url).splitlines()
    starts = [
        "INFO:binance_insurance.retry:BTCUSDT: attempt 2 in 0.",
        "WARNING:binance_insurance.budget:the exchange answered 429; nothing is sent until 20",
        "INFO:binance_insurance.retry:ADAUSDT: attempt 2 in 1 s or later: ",
        "WARNING:binance_insurance.budget:the exchange answered 418; nothing is sent until 20",
        "banned",
    ]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    assert r"busy\n\x1b[31m" in next(line for line in lines if "BTCUSDT" in line)


async def test_a_retry_without_symbol_is_logged(
    exchange: Sandbox, client: InsuranceClient, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.inject(Fault.of_status(502))
    with caplog.at_level(logging.INFO, "binance_insurance"):
        await client.fetch_snapshot()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("binance_insurance.retry", "INFO")
    assert record.getMessage().startswith("request without symbol: attempt 2 in 0.2 s or later: ")


async def test_a_call_that_works_or_is_not_asked_again_logs_nothing(
    exchange: Sandbox, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "binance_insurance"):
        async with InsuranceClient(
            exchange.url,
            budget=LocalBudget(runtime=runtime),
            retry=RetryPolicy(max_attempts=1),
            runtime=runtime,
        ) as client:
            await client.fetch_pool("BTCUSDT")
            await client.fetch_snapshot()
            exchange.inject(Fault.of_status(503))
            await client.fetch_pools(["BTCUSDT"], return_exceptions=True)
    assert not caplog.records


def test_a_budget_out_of_reach_is_logged_once_in_an_outage(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "b.sqlite"

    async def body() -> None:
        async with SqliteBudget(path) as budget:
            for number in (1, 2):
                path.mkdir()
                for _ in range(2):
                    with pytest.raises(StoreError, match="cannot be used"):
                        await budget.acquire()
                path.rmdir()
                await spend(budget)
                empty(directory)
                assert len(caplog.records) == number

    run(body)
    assert {each.name for each in caplog.records} == {"binance_insurance.budget"}
    assert {each.levelname for each in caplog.records} == {"WARNING"}
    assert all("b.sqlite cannot be used" in each.getMessage() for each in caplog.records)


@pytest.mark.parametrize("url", ["ftp://us:s3cret@127.0.0.1:1", "us:s3cret@h"])
def test_a_client_s_url_that_is_none_shows_no_password(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        InsuranceClient(url)
    assert "s3cret" not in str(caught.value)
