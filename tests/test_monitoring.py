"""The dashboard and the alerts name what the collector exposes, and say what they show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from binance_insurance import InsuranceClient
from binance_insurance.cli._app import app
from binance_insurance.metrics import InsuranceCollector
from binance_insurance.sandbox import Sandbox

from . import ROOT
from .promql import mistakes

DATA = files("binance_insurance.monitoring")
PROMQL = re.compile(r"^```promql\n(.*?)^```$", re.DOTALL | re.MULTILINE)
Exposed = dict[str, set[str]]


DASHBOARD: dict[str, Any] = json.loads((DATA / "dashboard.json").read_bytes())
RULES: list[dict[str, Any]] = [
    rule
    for group in msgspec.yaml.decode((DATA / "alerts.yml").read_bytes())["groups"]
    for rule in group["rules"]
]


def queries() -> Iterator[str]:
    """Every expression of the dashboard, of the alerts and of the page."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert found
            yield found[1]
    for rule in RULES:
        yield rule["expr"]
        for text in rule["annotations"].values():  # queries too, such as for a symbol's name
            yield from re.findall(r'printf "([^"]*\{[^"]*)"', text)
    yield from PROMQL.findall((ROOT / "docs" / "monitoring.md").read_text("utf-8"))


@pytest.fixture
async def exposed(exchange: Sandbox, client: InsuranceClient) -> Exposed:
    """The labels of each metric that is there after a snapshot."""
    collector = InsuranceCollector(client)
    collector.observe(await client.fetch_snapshot())
    registry, found = CollectorRegistry(), Exposed()
    registry.register(collector)
    for metric in registry.collect():
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_every_expression_parses_and_names_only_exposed_metrics(exposed: Exposed) -> None:
    found = list(queries())
    assert len(found) > 20
    assert [(each, list(mistakes(each, exposed))) for each in found] == [
        (each, []) for each in found
    ]


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("binance_insurance_weight_use > 1", "no metric 'binance_insurance_weight_use'"),
        ("rate(binance_insurance_retries[5m])", "no metric 'binance_insurance_retries'"),
        ('sum(binance_insurance_pool_balance{coin="USDT"})', "no label 'coin' of"),
        ("sum by (symbols) (binance_insurance_pool_symbol)", "no label 'symbols'"),
        ("time()", "no metric in"),
    ],
)
async def test_a_misspelt_name_is_found(exposed: Exposed, expression: str, mistake: str) -> None:
    (found,) = mistakes(expression, exposed)
    assert found.startswith(mistake)


async def test_what_does_not_parse_is_an_error(exposed: Exposed) -> None:
    with pytest.raises(ValueError, match="parenthes"):
        list(mistakes("sum(binance_insurance_weight_used", exposed))


def test_the_dashboard_says_what_it_shows() -> None:
    assert DASHBOARD["uid"] == "binance-insurance"
    variables = DASHBOARD["templating"]["list"]
    assert ("datasource", "datasource") in [(each["name"], each["type"]) for each in variables]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 6
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_an_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = {rule["alert"].removeprefix("BinanceInsurance") for rule in RULES}
    assert names == {"IPBanned", "Blind", "WeightHigh", "PoolFell"}
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert all(rule["annotations"].values())


def test_alerts_come_at_what_the_page_says() -> None:
    ban, blind, never, high, fell = RULES
    assert ban["expr"].endswith("ip_banned == 1")
    assert blind["expr"].endswith("observed_timestamp_seconds > 300")
    assert never["for"] == "5m"
    assert not any("for" in rule for rule in (ban, blind, high, fell))
    assert high["expr"].endswith("weight_limit > 0.9")
    assert fell["expr"].split()[:4] == ["binance_insurance_pool_balance", "<=", "0.9", "*"]
    assert "max_over_time(binance_insurance_pool_balance[1d])" in fell["expr"]


@pytest.mark.parametrize(
    ("what", "name"), [("dashboard", "dashboard.json"), ("alerts", "alerts.yml")]
)
def test_the_command_prints_the_file(what: str, name: str) -> None:
    done = CliRunner().invoke(app, ["monitoring", what])
    assert done.exit_code == 0
    assert done.stdout_bytes == (DATA / name).read_bytes()
    assert done.stdout.isascii()  # so that it is the same in any encoding
