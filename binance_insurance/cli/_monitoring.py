"""The dashboard and the alerts that the package brings."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib.resources import files
from typing import Annotated

import typer


class What(StrEnum):
    """What is printed."""

    DASHBOARD = "dashboard"
    ALERTS = "alerts"


_FILES = {What.DASHBOARD: "dashboard.json", What.ALERTS: "alerts.yml"}


def monitoring(
    what: Annotated[
        What, typer.Argument(help="dashboard: JSON for Grafana; alerts: rules for Prometheus.")
    ],
) -> None:
    """Print a dashboard for Grafana, or alerts for Prometheus."""
    found = files("binance_insurance.monitoring") / _FILES[what]
    sys.stdout.write(found.read_text("utf-8"))
