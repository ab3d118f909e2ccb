"""Headers and ban notices: a value that cannot be read is None, not 0."""

from __future__ import annotations

import pytest

from binance_insurance.budget.report import read_report, used_weight_header

DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
SECONDS = 1_795_348_800.0


@pytest.mark.parametrize(
    ("interval", "name"),
    [
        (1, "X-MBX-USED-WEIGHT-1S"),
        (2, "X-MBX-USED-WEIGHT-2S"),
        (90, "X-MBX-USED-WEIGHT-90S"),
        (60, "X-MBX-USED-WEIGHT-1M"),
        (300, "X-MBX-USED-WEIGHT-5M"),
        (3_600, "X-MBX-USED-WEIGHT-1H"),
        (86_400, "X-MBX-USED-WEIGHT-1D"),
    ],
)
def test_the_used_weight_header_depends_on_the_interval(interval: int, name: str) -> None:
    assert used_weight_header(interval) == name


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("17", 17),
        ("0", None),
        ("-1", None),
        ("", None),
        ("many", None),
        ("1.5", None),
        ("１２", None),
        ("9" * 30, None),
    ],
)
def test_used_weight(text: str, used: int | None) -> None:
    report = read_report(200, {"W": text}, b"", weight_header="W", wall=0.0)
    assert report.used_weight == used


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("30", DATE, 30.0),
        ("0", DATE, None),
        ("-3", DATE, None),
        ("soon", DATE, None),
        ("Sun, 22 Nov 2026 12:01:30 GMT", DATE, 90.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", DATE, None),
        ("Sun, 22 Nov 2026 12:01:30 GMT", "yesterday", None),
        ("99999999999", DATE, 3 * 86_400.0),
    ],
)
def test_retry_after(text: str, date: str, seconds: float | None) -> None:
    headers = {"Retry-After": text, "Date": date}
    report = read_report(429, headers, b"", weight_header="W", wall=0.0)
    assert report.retry_after == seconds


@pytest.mark.parametrize(
    ("text", "date"),
    [
        (DATE, SECONDS),
        ("Sun, 22 Nov 2026 12:00:00", SECONDS),
        ("Sun, 22 Nov 2026 14:00:00 +0200", SECONDS),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
        ("now", None),
        ("", None),
    ],
)
def test_date(text: str, date: float | None) -> None:
    report = read_report(200, {"Date": text}, b"", weight_header="W", wall=0.0)
    assert report.date == date


@pytest.mark.parametrize(
    ("status", "body", "end"),
    [
        (
            418,
            b'{"code":-1003,"msg":"IP(1.2.3.4) banned until 1615183669840. Please"}',
            1615183669.84,
        ),
        (418, b"<html>banned until 1615183669840</html>", 1615183669.84),
        (418, b"banned until 99999999999999999999", None),
        (418, b"\xff\xfe", None),
        (200, b"banned until 1615183669840", None),
    ],
)
def test_the_end_of_a_ban(status: int, body: bytes, end: float | None) -> None:
    report = read_report(status, {}, body, weight_header="W", wall=0.0)
    assert report.banned_until == end
