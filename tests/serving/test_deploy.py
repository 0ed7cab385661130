"""The dashboard that comes along shows what servers tell."""

import json
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from personavec.serving.metrics import Metrics
from personavec.watching import Watch
from watching_samples import written_limits

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: Any = json.loads((DEPLOY / "grafana" / "dashboards" / "personavec.json").read_text(encoding="utf-8"))


def told() -> set[str]:
    """Names of all samples of a server that has answered and watches."""
    metrics = Metrics({"running_responses": lambda: 0.0, "waiting_requests": lambda: 0.0})
    metrics.watch_traffic(Watch(written_limits()))
    metrics.requests.labels("/v1/models", "200").inc()
    metrics.tokens.labels("prompt").inc()
    metrics.alarms.labels("during", "evil").inc()
    metrics.deliveries.labels("log", "sent").inc()
    metrics.steering.labels("steer", "evil").inc()
    metrics.default_steering.labels("steer", "evil").set(1)
    for histogram in (metrics.projection, metrics.prompt):
        histogram.labels("evil", "no").observe(0)
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name for family in families for sample in family.samples}


def test_every_metric_of_the_dashboard_is_told() -> None:
    shown = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"personavec_\w+", target["expr"])
    }
    assert len(shown) >= 12 and shown <= told()


def test_labels_of_the_dashboard_are_of_its_metrics() -> None:
    """A bucket that is asked for by its bound is one that there is."""
    metrics = Metrics({})
    metrics.projection.labels("evil", "no").observe(0)
    asked = [le for p in DASHBOARD["panels"] for t in p["targets"] for le in re.findall(r'le="([^"]+)"', t["expr"])]
    assert asked and all(f'le="{le}"' in metrics.text().decode() for le in asked)


def test_the_stack_mounts_what_is_there() -> None:
    stack = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    mounts = [volume.split(":")[0] for service in stack["services"].values() for volume in service["volumes"]]
    assert [path for path in mounts if path.startswith(".") and not (DEPLOY / path).exists()] == []
    assert {path for path in mounts if not path.startswith(".")} == set(stack["volumes"])
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
    for file in (DEPLOY / "grafana" / "provisioning").rglob("*.yaml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8"))["apiVersion"] == 1
