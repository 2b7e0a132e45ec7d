"""Prometheus' rules and Grafana's dashboard: checked by promtool, and asked of a real Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml  # comes with huggingface-hub

from tests.conftest import ROOT
from tests.loopback import listening
from tests.probe_server import ProbeServer
from tests.stack.test_caddy import doorkeeper, free_port

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="prometheus is not installed",
)

FOLDER = ROOT / "docker" / "prometheus"
DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "fastqwen.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
GPU_METRICS = b"""\
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0"} 73
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-0"} 30211
# TYPE redis_keyspace_hits_total counter
redis_keyspace_hits_total 700
# TYPE redis_keyspace_misses_total counter
redis_keyspace_misses_total 300
# TYPE redis_evicted_keys_total counter
redis_evicted_keys_total 0
# TYPE redis_memory_used_bytes gauge
redis_memory_used_bytes 1.2e+06
# TYPE redis_memory_max_bytes gauge
redis_memory_max_bytes 1.073741824e+09
"""
# What a running server that fails, waits and is full would make of the rules.
ALERTS = """
rule_files: [RULES]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'up{job="text",instance="a"}', values: '0x60'}
      - {series: 'up{job="vision",instance="b"}', values: '1x60'}
      - {series: 'tgi_queue_size{job="text",instance="a"}', values: '4x60'}
      - {series: 'tgi_request_success{job="text",instance="a"}', values: '7x60'}
      - {series: 'vllm:kv_cache_usage_perc{job="vision",instance="b"}', values: '0.99x60'}
      - {series: 'vllm:request_success_total{job="vision",instance="b"}', values: '0+3x60'}
      - {series: 'vllm:admission_rejections_total{job="vision",instance="b"}', values: '0+3x60'}
      - {series: 'vllm:num_requests_waiting{job="vision",instance="b"}', values: '4x60'}
      - {series: 'sglang:num_queue_reqs{job="vision",instance="c"}', values: '4x60'}
      - {series: 'sglang:num_requests_total{job="vision",instance="c"}', values: '7x60'}
      - {series: 'sglang:token_usage{job="vision",instance="c"}', values: '0.98x60'}
    promql_expr_test:
      - expr: fastqwen:requests_waiting
        eval_time: 5m
        exp_samples:
          - {labels: 'fastqwen:requests_waiting{job="text",instance="a"}', value: 4}
          - {labels: 'fastqwen:requests_waiting{job="vision",instance="b"}', value: 4}
          - {labels: 'fastqwen:requests_waiting{job="vision",instance="c"}', value: 4}
      - expr: fastqwen:errors:rate1m
        eval_time: 5m
        exp_samples:
          - {labels: 'fastqwen:errors:rate1m{job="vision",instance="b"}', value: 0.2}
    alert_rule_test:
      - eval_time: 12m
        alertname: ServerDown
        exp_alerts:
          - exp_labels: {job: text, instance: a}
            exp_annotations: {summary: "text a: no answer; make status, make logs"}
      - eval_time: 12m
        alertname: QueueStandsStill
        exp_alerts:
          - exp_labels: {job: text, instance: a}
            exp_annotations: {summary: "text a: requests wait, none is finished; restart it"}
          - exp_labels: {job: vision, instance: c}
            exp_annotations: {summary: "vision c: requests wait, none is finished; restart it"}
      - eval_time: 12m
        alertname: CacheOfKeysAndValuesFull
        exp_alerts:
          - exp_labels: {job: vision, instance: b}
            exp_annotations: {summary: "vision: keys and values take 99% of their memory"}
          - exp_labels: {job: vision, instance: c}
            exp_annotations: {summary: "vision: keys and values take 98% of their memory"}
      - eval_time: 12m
        alertname: ManyErrors
        exp_alerts:
          - exp_labels: {job: vision, instance: b}
            exp_annotations: {summary: "vision: 0.2 requests a second fail or are refused"}
  - interval: 15s
    input_series:
      - {series: 'up{job="text",instance="a"}', values: '1x60'}
    alert_rule_test:
      - eval_time: 12m
        alertname: ServerDown
        exp_alerts:
          - exp_labels: {job: vision}
            exp_annotations: {summary: "vision : no answer; make status, make logs"}
"""


def test_the_configuration_and_the_rules_are_sound() -> None:
    for command in (["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"]):
        done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_raised_only_where_due(tmp_path: Path) -> None:
    test = tmp_path / "rules.test.yml"
    test.write_text(ALERTS.replace("RULES", str(FOLDER / "rules.yml")))
    done = subprocess.run(["promtool", "test", "rules", str(test)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = {rule["alert"] for group in _rules() for rule in group["rules"] if "alert" in rule}
    assert all(f"alertname: {alert}" in ALERTS for alert in alerts)


def _rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return groups


class _Gpus(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(GPU_METRICS)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with the repository's rules that scrapes loopback servers; its base URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    gpus = ThreadingHTTPServer(("127.0.0.1", 0), _Gpus)
    Thread(target=gpus.serve_forever, daemon=True).start()
    (folder / "keys").write_text("alice 0123456789abcdef0123\n")
    with (
        listening(ProbeServer("tgi")) as text,
        listening(ProbeServer("vllm")) as vision,
        listening(ProbeServer("sglang")) as second,
        doorkeeper(folder / "keys") as gateway,
    ):
        targets = {
            "text": [text.port],
            "vision": [vision.port, second.port],
            "gpu": [gpus.server_port],
            "gateway": [int(gateway.asked.rpartition(":")[2])],
        }
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "200ms", "evaluation_interval": "250ms"},
            "rule_files": [str(FOLDER / "rules.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
                for job, ports in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "printed").open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 20
            while not _is_ready(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, (folder / "printed").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)
            gpus.shutdown()


def _is_ready(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/-/ready", timeout=5) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except OSError:  # not there, or not yet
        return False


def query(base: str, expression: str) -> list[dict[str, Any]]:
    url = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  # of the test's own making
        found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_dashboard_queries_find_what_servers_report(prometheus: str, title: str, expression: str) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            found = query(prometheus, expression)
        except OSError:  # not up yet
            found = []
        if found and all(result["value"][1] != "NaN" for result in found):
            return
        assert time.monotonic() < until, f"{title}: nothing for {expression}"
        time.sleep(0.1)


RECORDS = [rule["record"] for group in _rules() for rule in group["rules"] if "record" in rule]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.slow
def test_each_engine_is_seen_under_one_name(prometheus: str, name: str) -> None:
    engines = 2 if name == "fastqwen:kv_cache_usage" else 3  # TGI tells no share of it
    until = time.monotonic() + 20
    while len({result["metric"]["instance"] for result in query(prometheus, name)}) != engines:
        assert time.monotonic() < until, name
        time.sleep(0.1)


def test_the_dashboard_shows_what_an_operator_asks_for() -> None:
    titles = " ".join(panel["title"].lower() for panel in DASHBOARD["panels"])
    for wanted in (
        "waiting",
        "in flight",
        "tokens a second",
        "keys and values",
        "prefix cache",
        "errors",
        "gpu",
        "user of the gateway",
        "tokens a second by user",
        "hits and misses of the cache's tier",
    ):
        assert wanted in titles
    sources = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    provisioned = yaml.safe_load((ROOT / "docker/grafana/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert sources == {source["uid"] for source in provisioned}
