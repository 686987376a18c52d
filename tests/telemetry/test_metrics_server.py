"""What is watched is what the process says, on a real port."""

import http.client
import socket

import pytest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fedmb.errors import SettingsError
from fedmb.telemetry.metrics_server import MetricsServer


@pytest.fixture
def watched():
    """A server, and what it is told."""
    told = {"rows": 7, "unhealthy": "", "unready": "opening"}
    server = MetricsServer(
        lambda: [CounterMetricFamily("fedmb_rows", "Rows.", value=told["rows"])],
        unhealthy=lambda: told["unhealthy"],
        unready=lambda: told["unready"],
    )
    yield server, told
    server.close()


def asked(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(server.address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def samples(families):
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_figures_of_the_moment_are_in_prometheus_form(watched):
    server, told = watched
    before = samples(text_string_to_metric_families(asked(server, "/metrics")[1]))
    told["rows"] = 8

    after = samples(text_string_to_metric_families(asked(server, "/metrics")[1]))

    assert (before["fedmb_rows_total"], after["fedmb_rows_total"]) == (7, 8)
    assert after["process_resident_memory_bytes"] > 1e6


def test_openmetrics_are_given_to_who_asks_for_them(watched):
    text = asked(watched[0], "/metrics", Accept="application/openmetrics-text; version=1.0.0")[1]

    assert samples(openmetrics(text))["fedmb_rows_total"] == 7


def test_health_and_readiness_turn_with_a_reason(watched):
    server, told = watched

    assert asked(server, "/healthz") == (200, "ok\n")
    assert asked(server, "/readyz") == (503, "opening\n")

    told |= {"unhealthy": "no poll for 31 s", "unready": ""}

    assert asked(server, "/healthz") == (503, "no poll for 31 s\n")
    assert asked(server, "/readyz?verbose") == (200, "ok\n")
    assert asked(server, "/healthz", "HEAD") == (503, "")


def test_other_paths_and_words_are_refused(watched):
    assert asked(watched[0], "/etc/passwd")[0] == 404
    assert asked(watched[0], "/metrics", "POST")[0] == 501


def test_a_stranger_who_says_nothing_holds_up_nobody(watched):
    server, _ = watched
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))):
        assert asked(server, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_said(watched):
    port = int(watched[0].address.split(":")[1])

    with pytest.raises(SettingsError, match=f"got 127.0.0.1:{port} .*; choose another port"):
        MetricsServer(list, unhealthy=str, unready=str, port=port)
