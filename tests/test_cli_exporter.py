"""The command `exporter`: metrics over HTTP, whatever happens to the exchange."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from binance_insurance.cli._app import app
from binance_insurance.sandbox import Fault, Market, Sandbox

from .exchange import exchange_in_a_thread

COMMAND = [sys.executable, "-P", "-m", "binance_insurance", "exporter", "--budget", "memory://"]


@contextmanager
def exporter(*options: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run it on a free port; yields the process and its URL."""
    command = [*COMMAND, "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            url = re.match(r"http://127\.0\.0\.1:\d+/metrics(?=\s)", first)
            assert url, first
            yield process, url[0]
        finally:
            process.kill()


def scrape(url: str) -> str:
    with urlopen(url, timeout=30) as answer:  # noqa: S310 - our own
        return str(answer.read(), "utf-8")


def scrape_until(url: str, line: str) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        text = scrape(url)
        if re.search(line, text, re.MULTILINE):
            return text
        time.sleep(0.05)
    raise AssertionError(f"no {line!r}")


def held_after(exchange: Sandbox, count: int, go_on: threading.Event) -> Callable[[], float]:
    """The latency of an exchange that answers some requests for pools, and more when it may."""

    def latency() -> float:
        if sum(seen.endpoint == "insuranceBalance" for seen in exchange.requests) > count:
            go_on.wait(9)  # the client waits for 10 s
        return 0.0

    return latency


def test_it_serves_the_pools_goes_on_through_a_ban_and_ends_with_ctrl_c() -> None:
    with exchange_in_a_thread(Market()) as exchange:
        scraped = threading.Event()
        exchange.latency = held_after(exchange, 0, scraped)
        with exporter("--every", "0.2", "--base-url", exchange.url) as (process, url):
            before = scrape(url)
            scraped.set()
            assert "binance_insurance_weight_limit 2400" in before
            assert "pool_balance" not in before
            assert "observed_timestamp" not in before
            text = scrape_until(url, "^binance_insurance_pool_balance")
            assert len(re.findall(r"^binance_insurance_pool_balance\{", text, re.MULTILINE)) == 63

            exchange.inject(Fault.of_status(418, b"", {"Retry-After": "300"}))
            scrape_until(url, r"^binance_insurance_ip_banned 1\.0$")
            sent = len(exchange.requests)
            time.sleep(0.5)  # two ticks
            assert "\nbinance_insurance_pool_balance{" in scrape(url)
            assert len(exchange.requests) == sent, "nothing is sent during a ban"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    (line,) = said.splitlines()
    assert re.match(r"binance-insurance: observations have stopped: .* bans this IP until", line)


def test_it_says_that_observations_stop_and_go_on_and_ends_with_sigterm() -> None:
    with exchange_in_a_thread(Market()) as exchange:
        scraped = threading.Event()
        exchange.inject(Fault.of_status(403, b"<html>"))
        exchange.latency = held_after(exchange, 1, scraped)
        with exporter("--every", "0.2", "--base-url", exchange.url) as (process, url):
            assert process.stderr is not None
            assert "observations have stopped: the exchange's fire" in process.stderr.readline()
            assert "pool_balance" not in scrape(url)
            scraped.set()
            assert process.stderr.readline() == "binance-insurance: observations go on\n"
            scrape_until(url, "^binance_insurance_pool_balance")
            process.terminate()
            assert process.wait(30) == 0


def test_a_port_in_use_and_a_bad_number_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        used = CliRunner().invoke(app, ["exporter", "--sandbox", "--port", port])
    assert (used.exit_code, used.stdout) == (4, "")
    assert used.stderr.startswith(f"binance-insurance: cannot listen on 127.0.0.1:{port}: ")
    nowhere = CliRunner().invoke(app, ["exporter", "--sandbox", "--host", "2001:db8::1"])
    assert nowhere.exit_code == 4
    assert nowhere.stderr.startswith("binance-insurance: cannot listen on [2001:db8::1]:9101: ")
    wrong = CliRunner().invoke(app, ["exporter", "--sandbox", "--every", "0"])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("binance-insurance: every must be a positive number")
    assert used.stderr.count("\n") == wrong.stderr.count("\n") == 1


class Served:
    """A server that listens nowhere, and ends the command as soon as that has begun."""

    server_port = 4321

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.ended: list[str] = []

    def start(self, port: int, address: str, _: CollectorRegistry) -> tuple[Served, None]:
        self.asked.append((port, address))
        signal.raise_signal(signal.SIGTERM)
        return self, None

    def shutdown(self) -> None:
        self.ended.append("shutdown")

    def server_close(self) -> None:
        self.ended.append("close")


@pytest.mark.parametrize(
    ("options", "asked", "url"),
    [
        ([], (9101, "127.0.0.1"), "http://127.0.0.1:4321/metrics"),
        (["--host", "::1", "--port", "0"], (0, "::1"), "http://[::1]:4321/metrics"),
    ],
)
def test_it_listens_where_it_is_told_and_spends_from_the_budget(
    options: list[str],
    asked: tuple[int, str],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Served()
    monkeypatch.setattr("prometheus_client.start_http_server", served.start)
    budget = ["--budget", f"sqlite:///{tmp_path}/budget.db"]
    done = CliRunner().invoke(
        app, ["exporter", "--base-url", "http://127.0.0.1:9", *budget, *options]
    )
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{url} ")
    assert served.asked == [asked]
    assert served.ended == ["shutdown", "close"]
    assert (tmp_path / "budget.db").exists()


def test_without_prometheus_client_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "binance_insurance.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client.metrics_core", None)
    done = CliRunner().invoke(app, ["exporter", "--sandbox"])
    assert done.exit_code == 2
    assert done.stderr == (
        "binance-insurance: binance_insurance.metrics needs prometheus_client: "
        "pip install 'binance-insurance[metrics]'\n"
    )
