"""Data for monitoring: `dashboard.json` for Grafana, and `alerts.yml`, rules for Prometheus."""
