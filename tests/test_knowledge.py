"""What is kept of answers, for how long, and how much of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance._knowledge import Knowledge

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BALANCE = (AssetBalance("USDT", Decimal(1), 0),)


def pool_of(*symbols: str) -> InsurancePool:
    return InsurancePool(symbols, BALANCE)


@pytest.mark.parametrize(
    ("differences", "weight"),
    [
        ([], 40),
        ([1, 1], 40),
        ([1, 1, 1], 1),
        ([1, 1, 2], 40),
        ([1, 2, 1, 1], 40),
        ([2, 1, 1, 1], 1),
        ([0, 0, 0], 40),
        ([-3, -3, -3], 40),
        ([47, 47, 47], 40),
        ([1, 1, 1, 2], 40),
        ([5, 5, 5, 1], 5),
        ([5, 5, 5, 1, 1, 1], 1),
        ([5, 5, 5, 100, 5, 5], 40),
        ([5, 5, 5, 100, 5, 5, 5], 5),
    ],
)
def test_the_weight_of_a_snapshot_is_40_until_three_differences_in_a_row_agree(
    differences: list[int], weight: int
) -> None:
    knowledge = Knowledge()
    for difference in differences:
        knowledge.learn_snapshot_weight(100, 100 + difference)
    assert knowledge.snapshot_weight == weight


def test_the_grouping_is_bounded() -> None:
    knowledge = Knowledge()
    for batch in range(30):
        symbols = tuple(f"S{batch}-{number}" for number in range(1000))
        knowledge.learn_pool(InsurancePool(symbols, BALANCE), 0.0)
    known = [f"S{batch}-0" in knowledge.groups for batch in range(30)]
    assert known.count(True) <= 20
    assert known[-1]


def test_the_newest_pool_and_snapshot_are_known_with_their_time() -> None:
    knowledge = Knowledge()
    assert knowledge.pool_since("A", 0.0) is None
    assert knowledge.snapshot_since(0.0) is None
    first, second = pool_of("A", "B"), pool_of("A", "B")
    snapshot = InsuranceSnapshot((first, pool_of("C")), NOON)
    knowledge.learn_snapshot(snapshot, 10.0)
    assert knowledge.snapshot_since(10.0) is snapshot
    assert knowledge.snapshot_since(10.1) is None
    assert knowledge.pool_since("B", 10.0) is first
    knowledge.learn_pool(second, 11.0)
    assert knowledge.pool_since("B", 11.0) is second
    assert knowledge.pool_since("B", 11.1) is None
    assert knowledge.pool_since("C", 10.0) is snapshot["C"]


def test_a_symbol_that_moved_belongs_to_its_newest_group() -> None:
    knowledge = Knowledge()
    knowledge.learn_pool(pool_of("A", "B"), 0.0)
    knowledge.learn_pool(pool_of("C", "B"), 1.0)
    group = knowledge.groups.get("B")
    assert group is not None
    assert group is knowledge.groups.get("C")
    assert group.symbols == ("C", "B")


def test_the_answer_to_the_younger_question_counts_whichever_came_first() -> None:
    knowledge = Knowledge()
    old, new = pool_of("A", "B"), pool_of("A", "B")
    knowledge.learn_pool(new, 2.0)
    knowledge.learn_pool(old, 1.0)
    assert knowledge.pool_since("A", 0.0) is new
    young, late = InsuranceSnapshot((new,), NOON), InsuranceSnapshot((old,), NOON)
    knowledge.learn_snapshot(young, 4.0)
    knowledge.learn_snapshot(late, 3.0)
    assert knowledge.snapshot_since(0.0) is young
    assert knowledge.pool_since("B", 4.0) is new


def test_of_two_groupings_the_one_of_the_younger_question_counts() -> None:
    knowledge = Knowledge()
    knowledge.learn_pool(pool_of("A", "B"), 2.0)
    knowledge.learn_pool(pool_of("A", "B", "C"), 1.0)
    assert knowledge.groups["A"].symbols == ("A", "B")
    assert knowledge.groups["C"].symbols == ("A", "B", "C"), "nothing younger names it"
    knowledge.learn_pool(pool_of("B", "C"), 3.0)
    assert knowledge.groups["A"].symbols == ("A", "B")
    assert knowledge.groups["B"] is knowledge.groups["C"]
    knowledge.learn_pool(pool_of("A", "B"), 4.0)
    assert knowledge.groups["A"] is knowledge.groups["B"], "it has come back"
    assert knowledge.pool_since("C", 3.0) is not None
