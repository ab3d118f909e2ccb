"""The slots of requests in flight: first come, first served, and none is lost."""

from __future__ import annotations

import asyncio

from binance_insurance._attempts import Slots


async def test_the_oldest_that_waits_gets_the_slot() -> None:
    slots = Slots(1)
    slots.free -= 1
    served: list[int] = []

    async def take(number: int) -> None:
        await slots.wait()
        served.append(number)
        slots.give_back()

    waiting = [asyncio.create_task(take(number)) for number in range(3)]
    await asyncio.sleep(0)
    slots.give_back()
    assert slots.free == 0, "it is promised, so that a newcomer cannot overtake"
    await asyncio.gather(*waiting)
    assert served == [0, 1, 2]
    assert slots.free == 1


async def test_a_slot_is_not_lost_with_one_that_is_cancelled() -> None:
    slots = Slots(1)
    slots.free -= 1
    gone, late, last = [asyncio.create_task(slots.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    slots.give_back()
    late.cancel()  # in the moment in which it gets the slot
    await asyncio.wait([late, last])
    assert gone.cancelled()
    assert late.cancelled()
    assert not last.cancelled()
    slots.give_back()
    assert slots.free == 1
