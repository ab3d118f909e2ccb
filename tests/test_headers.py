"""Headers and ban notices: a value that cannot be read is None, not 0."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binance_insurance.budget.report import read_report, used_weight_header, utc

DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
SECONDS = 1_795_348_800.0
ODD = [
    *["", "-1", "0", "1", "99999999999", "9" * 30, "x" * 5_000, "²"],
    *["Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 22 Nov 2026 12:00:00 +99999999999999"],
]
NUMBERS = st.integers(0, 10**12)
DATES = st.builds(
    "{} {} {} {}:{}:{} {}".format,
    NUMBERS,
    st.sampled_from(["Jan", "Feb", "Nov", "Xyz"]),
    *[NUMBERS] * 4,
    st.sampled_from(["GMT", "", "+0200", "-99999999999", "EST"]),
)


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
        ("Sun, 22 Nov 2026 12:01:30 GMT", "yesterday", 60.0),  # by the local clock
        ("432000", DATE, 5 * 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DATE, None),
    ],
)
def test_retry_after(text: str, date: str, seconds: float | None) -> None:
    headers = {"Retry-After": text, "Date": date}
    report = read_report(429, headers, b"", weight_header="W", wall=SECONDS + 30.0)
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
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 978_307_200.0),  # two digits of a year, by RFC 2822
        ("Sun, 22 Nov 99999999999 12:00:00 GMT", None),
        ("Sun, 22 Nov 2026 12:00:00 +99999999999999", None),
        ("Sun, 22 Nov 2026 12:00:00 GMT" + " " * 5_000, None),
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


@pytest.mark.parametrize(
    ("named", "end"), [(b"banned until 1795348860000", SECONDS + 90.0), (b"", SECONDS + 90.0)]
)
def test_a_retry_after_that_is_a_date_names_the_end_of_a_ban(named: bytes, end: float) -> None:
    headers = {"Retry-After": "Sun, 22 Nov 2026 12:01:30 GMT"}
    report = read_report(418, headers, named, weight_header="W", wall=0.0)
    assert report.banned_until == end


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # its first text takes long
@given(
    st.sampled_from([200, 400, 418, 429, 503]),
    st.dictionaries(
        st.sampled_from(["Date", "Retry-After", "W"]),
        st.text() | st.sampled_from(ODD) | DATES,
    ),
)
def test_any_header_is_read_without_an_error(status: int, headers: dict[str, str]) -> None:
    report = read_report(status, headers, b"", weight_header="W", wall=SECONDS)
    assert report.status == status
    if report.date is not None:
        utc(report.date)
