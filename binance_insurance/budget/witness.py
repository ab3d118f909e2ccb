"""Whether the clock of a store was stepped. Pure; the caller has the time.

The processes of one host count with one monotonic clock, from one start of the machine to the next.
What has to be added to it to get the store's clock stays the same, unless the store's clock is
stepped. So each write leaves a witness, one for each host, and the next change of that host
compares. Of a machine that was started again there is no witness: the store's clock is right.
"""

from __future__ import annotations

from msgspec import Struct

from .clock import DRIFT

_STEP = 1.0  # seconds; clocks that part by less, and by what clocks drift, were not stepped
_MOST_HOSTS = 64


class _Witness(Struct, array_like=True):
    at: float  # the host's monotonic time when it wrote
    low: float  # bounds on what to add to it for the store's clock
    high: float
    followed: float  # the steps that the ledger had followed by then


class Witnesses(Struct, omit_defaults=True):
    """What each host saw of the store's clock when it last wrote.

    Attributes:
        followed: by how much the ledger was shifted in all, because the store's clock was stepped.
        hosts: the witnesses, the newest last.
    """

    followed: float = 0.0
    hosts: dict[str, _Witness] = {}

    def knows(self, host: str, now: float) -> bool:
        """Return whether a host has a witness, by which later steps can be seen; see `follow`."""
        return host in self.hosts and now >= self.hosts[host].at

    def follow(self, host: str, now: float, low: float, high: float) -> float:
        """Return by how much to shift the ledger, and count that as done.

        Args:
            host: names the start of the machine from which its monotonic clock counts.
            now: that clock, and as long as the machine slept, for which it stood still.
            low: lower bound on what to add to it for the store's clock,
            high: and the upper bound.
        """
        if not self.knows(host, now):
            return 0.0
        before = self.hosts[host]
        same = _STEP + DRIFT * (now - before.at)
        if before.low - same <= high and low <= before.high + same:
            return 0.0
        # Hosts that saw the step earlier have shifted the ledger already.
        by = (low + high - before.low - before.high) / 2 - (self.followed - before.followed)
        if abs(by) <= same:
            return 0.0
        self.followed += by
        return by

    def write(self, host: str, now: float, low: float, high: float) -> None:
        """Leave the witness of a host that writes; see `follow`."""
        self.hosts.pop(host, None)
        self.hosts[host] = _Witness(now, low, high, self.followed)
        if len(self.hosts) > _MOST_HOSTS:
            del self.hosts[next(iter(self.hosts))]
