"""What is left of a bulk call fails at once when its time is up, also on a busy loop; real time."""

from __future__ import annotations

import asyncio
import time

import pytest

from binance_insurance import BulkFetchError, ClientClosedError, InsuranceClient, InsuranceError
from binance_insurance.sandbox import Fault

from .exchange import exchange_in_a_thread

NAMES = [f"X{number}USDT" for number in range(300)]


class OtherWork:
    """2 ms of other work in every step of the loop; counts the steps after a deadline."""

    def __init__(self, deadline: float) -> None:
        self.steps = 0
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._step()

    def _step(self) -> None:
        time.sleep(0.002)
        now = time.monotonic()
        self.steps += now >= self._deadline
        if now < self._deadline + 10:
            self._loop.call_soon(self._step)


@pytest.mark.parametrize("answers", [0, 1], ids=["no answer", "a snapshot without them"])
@pytest.mark.parametrize("closed_after", [None, 0.1])
def test_300_symbols_fail_in_time(closed_after: float | None, answers: int) -> None:
    async def main(url: str) -> float:
        loop = asyncio.get_running_loop()
        begin = time.monotonic()
        work = OtherWork(begin + (closed_after or 0.2))
        client = InsuranceClient(url, max_concurrency=1)
        if closed_after is not None:
            loop.call_later(closed_after, lambda: closing.append(loop.create_task(client.aclose())))
        closing: list[asyncio.Task[None]] = []
        with pytest.raises(BulkFetchError) as caught:
            await client.fetch_pools(NAMES, timeout=0.2)
        late = time.monotonic() - begin - 0.2
        assert work.steps < 20, "not a few symbols in each step"
        await client.aclose()
        errors = caught.value.errors
        assert list(errors) == NAMES == [error.symbol for error in errors.values()]
        assert all(str(error).startswith(f"{name}: ") for name, error in errors.items())
        assert {isinstance(error, InsuranceError) for error in errors.values()} == {True}
        if closing:
            assert all(isinstance(error, ClientClosedError) for error in errors.values())
        return late

    with exchange_in_a_thread() as exchange:
        exchange.inject(*[Fault()] * answers, *[Fault.stall()] * 9)
        assert asyncio.run(main(exchange.url)) < 5
