"""Play worlds: `python -m tests.worlds 17`, or `0-499` for many; `-v` prints all that happened."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import play


def main(arguments: list[str]) -> int:
    loud = "-v" in arguments
    seeds: list[int] = []
    for argument in arguments:
        if argument != "-v":
            first, _, last = argument.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    kinds: Counter[str] = Counter()
    bad = calls = answered = excused = requests = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        for seed in seeds:
            start = time.perf_counter()
            world = play(seed, Path(place))
            took = time.perf_counter() - start
            calls, answered = calls + world.calls, answered + world.answered
            excused += world.referee.excused
            requests += len(world.referee.sent)
            found = world.referee.violations
            bad += bool(found)
            kinds.update({each.split()[1:2][0] + " " + each.split()[2] for each in found})
            if loud:
                for field in world.plan.__struct_fields__:
                    if field not in {"others", "calls", "changes"}:
                        print(f"    {field}: {getattr(world.plan, field)}")
                print("\n".join(world.referee.trace))
            if found or took > 5:
                print(f"seed {seed} ({'shared' if world.plan.shared else 'local'}, {took:.1f} s):")
                print("".join(f"    {each[:400]}\n" for each in found[:4]), end="")
    print(
        f"{len(seeds)} worlds in {time.perf_counter() - began:.0f} s: {calls} calls, "
        f"{answered} answered, {requests} requests, {excused} excused 429s, {bad} with violations"
    )
    print(kinds.most_common())
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
