"""Clocks, sleep and randomness in one value, so that tests can replace them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable  # noqa: TC003 - msgspec reads annotations

from msgspec import Struct


class Runtime(Struct, frozen=True):
    """The clocks, sleep and randomness to use; tests pass virtual ones.

    Attributes:
        monotonic: seconds of a clock that does not jump; only differences have a meaning.
        wall: seconds since 1970 UTC by the local clock. It is used only where an answer has no
            `Date`, in place of the exchange's clock.
        sleep: waits for a number of seconds.
        random: returns a number from 0 up to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
