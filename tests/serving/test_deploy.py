"""The dashboard that comes along shows what servers tell."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families
from serving_samples import Live, digits_model, personas

from personavec.serving.observer import Observer
from personavec.vector import reading_sides
from watching_samples import written_limits

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: Any = json.loads((DEPLOY / "grafana" / "dashboards" / "personavec.json").read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
Samples = dict[str, list[dict[str, str]]]


def samples(live: Live) -> Samples:
    """Labels of all samples of a server, by name."""
    _, text, _ = live.ask("GET", "/metrics")
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, Samples]:
    """What a server that steers, watches and logs tells before it has answered anybody, and after."""
    model = digits_model()
    vectors = personas(model)
    limits = written_limits(vectors={vector.trait: vector.hash for vector in reading_sides(vectors)})
    log = tmp_path_factory.mktemp("watched") / "log.jsonl"
    observer = Observer(vectors, limits=limits, log=log, webhook="http://127.0.0.1:1")
    live = Live(model, vectors, {"steer": {"humorous": 0.1}}, observer=observer)
    try:
        before = samples(live)
        live.chat()
        return before, samples(live)
    finally:
        live.close()


def test_every_metric_of_the_dashboard_is_told(told: tuple[Samples, Samples]) -> None:
    shown = {name for target in TARGETS for name in re.findall(r"personavec_\w+", target["expr"])}
    assert len(shown) >= 12 and shown <= told[1].keys()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target["expr"]))
def test_labels_of_the_dashboard_are_of_its_metrics(target: Any, told: tuple[Samples, Samples]) -> None:
    """Those that are summed by, those in a legend, and values that are asked for."""
    groups = [set(group.split(", ")) for group in re.findall(r" by \(([\w, ]+)\)", target["expr"])]
    legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for name, asked in re.findall(r"(personavec_\w+)(?:\{([^}]*)\})?", target["expr"]):
        labels = told[1][name]
        assert all(group <= labels[0].keys() for group in groups)
        assert legend <= (groups[0] if groups else labels[0].keys())
        values = dict(re.findall(r'(\w+)="([^"]*)"', asked)).items()
        assert any(values <= one.items() for one in labels)


def test_the_first_alarm_is_an_increase(told: tuple[Samples, Samples]) -> None:
    """Prometheus sees none in the first number of what was not there before."""
    rules_and_traits, kinds_and_outcomes = 4 * 2, 2 * 3
    assert len(told[0]["personavec_alarms_total"]) == rules_and_traits
    assert len(told[0]["personavec_deliveries_total"]) == kinds_and_outcomes


def test_the_stack_mounts_what_is_there() -> None:
    stack = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    mounts = [volume.split(":")[0] for service in stack["services"].values() for volume in service["volumes"]]
    assert [path for path in mounts if path.startswith(".") and not (DEPLOY / path).exists()] == []
    assert {path for path in mounts if not path.startswith(".")} == set(stack["volumes"])
    home = stack["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana" / "dashboards" / Path(home).name).exists()
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
    files = (DEPLOY / "grafana" / "provisioning").rglob("*.yaml")
    provisioned = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    assert [one["apiVersion"] for one in provisioned] == [1, 1]
    [source] = next(one["datasources"] for one in provisioned if "datasources" in one)
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    assert {target["datasource"]["uid"] for target in TARGETS} == {source["uid"]}
