"""Time and chance, injected together."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable  # noqa: TC003 - msgspec reads annotations

from msgspec import Struct


class Runtime(Struct, frozen=True):
    """Where clocks, sleep and randomness come from; tests put virtual ones here.

    Attributes:
        monotonic: seconds that never jump; only differences mean something.
        wall: seconds since 1970 UTC by the local clock. It only stands in for the exchange's
            clock where an answer carries no `Date`.
        sleep: waits for a number of seconds.
        random: a number from 0 up to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
