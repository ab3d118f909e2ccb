"""How a command ends that runs until a signal: its work may finish what is under way."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
import typer

from binance_insurance import InsuranceError, StoreError
from binance_insurance.cli._running import run_command


class Work:
    """Work that a signal cancels, and that takes a moment to finish."""

    def __init__(
        self, first: signal.Signals, second: signal.Signals, *, error: InsuranceError | None = None
    ) -> None:
        self.finished = False
        self._first, self._second, self._error = first, second, error

    async def __call__(self) -> None:
        try:
            signal.raise_signal(self._first)
            await asyncio.sleep(60)
        finally:
            signal.raise_signal(self._second)
            await asyncio.sleep(0.01)
            self.finished = True
            if self._error is not None:
                raise self._error


def exit_code(work: Work) -> int:
    try:
        run_command(work(), ends_with_signals=True)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["front", "background"])
def handlers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Handle SIGINT as a process does that a shell has started in front or in the background."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    assert signal.signal(signal.SIGINT, before) is request.param
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_work_finish_and_the_code_is_0(number: signal.Signals) -> None:
    work = Work(number, signal.SIGTERM)  # the second changes nothing
    assert exit_code(work) == 0
    assert work.finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_later_ctrl_c_ends_it_at_once(number: signal.Signals) -> None:
    work = Work(number, signal.SIGINT)
    assert exit_code(work) == 130
    assert not work.finished


def test_an_error_while_it_finishes_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    full = StoreError("the disk is full")
    assert exit_code(Work(signal.SIGTERM, signal.SIGTERM, error=full)) == 6
    assert capsys.readouterr().err == "binance-insurance: the disk is full\n"
