"""The house's own files: pinned versions, compose, the sample configuration, the test fixtures."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from packaging.requirements import Requirement

from pricing import card_values, plans, prepaid, settings_values
from pricing.settings import load_settings
from sinks.clickhouse import connect, parse_address
from tests.test_architecture import ARROWS, imports, modules

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SAMPLE = (ROOT / "meterline.yaml").read_text(encoding="utf-8")
KAFKA_SECONDS_MAX = 30


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = yaml.safe_load(COMPOSE_TEXT)
    assert isinstance(document, dict)
    return document


# Versions


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by extra; "" is the base."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML by itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    by_extra = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in by_extra.items()}


def test_every_dependency_is_pinned_for_every_python() -> None:
    wanted = [need for needs in requirements().values() for need in needs]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in ("3.10", "3.11", "3.12"):
        pinned = {
            pin.name.lower(): str(pin.specifier).removeprefix("==")
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"python_version": python})
        }
        missing = [
            str(need)
            for need in wanted
            if need.name.lower() not in pinned or pinned[need.name.lower()] not in need.specifier
        ]
        assert missing == [], f"for Python {python}"


@pytest.mark.parametrize(
    ("packages", "extras"),
    [
        (["metering"], ["", "otel"]),
        (["metering", "pricing", "sinks", "dataflows", "dashboard"], ["", "otel", "pipeline", "embedded"]),
    ],
)
def test_what_is_imported_is_asked_for(packages: list[str], extras: list[str]) -> None:
    # What comes along with something else works only until that something changes its mind.
    asked = {need.name.lower() for extra in extras for need in requirements()[extra]} | {"pydantic-core"}
    distributions = packages_distributions()
    unasked = set()
    for module, source in modules(*packages).items():
        for _, name in imports(module, source):
            package = name.split(".", maxsplit=1)[0]
            names = {found.lower().replace("_", "-") for found in distributions.get(package, [package])}
            if package not in sys.stdlib_module_names and package not in ARROWS and not names & asked:
                unasked.add(f"{module} imports {name}")
    assert unasked == set()


def test_every_pin_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    loose = [
        line
        for line in lines
        if line and not re.match(r"#|[\w-]+==[\w.]+( ; python_version [<>]=? \"3\.\d+\")?$", line)
    ]
    assert loose == []


# Package registries have mirrors and proxies: which one a machine uses is its own affair. Written apart, so
# that this file does not name them either.
REGISTRIES = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("repo", "maven", "apache", "org"),
        ("repo1", "maven", "org"),
        ("npmjs", "org"),
        ("crates", "io"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("proxy", "golang", "org"),
    ]
]


def registries_in(text: str) -> list[str]:
    return [host for host in REGISTRIES if host in text.lower()]


def test_no_file_names_a_package_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project cannot be told from what was built")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    files = [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    assert ROOT / "pyproject.toml" in files
    found = {str(file): registries_in(file.read_text(encoding="utf-8", errors="replace")) for file in files}
    assert {file: hosts for file, hosts in found.items() if hosts} == {}
    assert registries_in("https://files." + REGISTRIES[1]) == [REGISTRIES[1]]


# Compose


def test_compose_has_the_services_in_their_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waits = {
        name: {other: wait["condition"] for other, wait in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits == {
        "kafka": {},
        "clickhouse": {},
        "topics": {"kafka": "service_healthy"},
        "migrate": {"clickhouse": "service_healthy"},
        "worker": {
            "kafka": "service_healthy",
            "topics": "service_completed_successfully",
            "migrate": "service_completed_successfully",
        },
    }
    waited_for_health = {
        other
        for wait in waits.values()
        for other, condition in wait.items()
        if condition == "service_healthy"
    }
    assert {name for name in services if services[name].get("healthcheck")} == waited_for_health


def test_compose_opens_ports_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_has_no_password_of_its_own(compose: dict[str, Any]) -> None:
    named = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|TOKEN)\w*)(.*?)\}", COMPOSE_TEXT)
    assert named
    assert [name for name, rest in named if not rest.startswith(":?")] == []
    values = [
        (key, str(value))
        for service in compose["services"].values()
        for key, value in service.get("environment", {}).items()
    ]
    secret = [value for key, value in values if "PASSWORD" in key] + re.findall(r"://\w+:(.*)@", COMPOSE_TEXT)
    assert secret
    assert [value for value in secret if not value.startswith("${CLICKHOUSE_PASSWORD:?")] == []


def test_compose_and_the_tests_run_the_same_kafka(compose: dict[str, Any]) -> None:
    pom = (ROOT / "tests" / "pom.xml").read_text(encoding="utf-8")
    versions = re.findall(r"<artifactId>kafka_2.13</artifactId>\s*<version>(.*?)</version>", pom)
    assert versions
    images = {compose["services"][name]["image"] for name in ("kafka", "topics")}
    assert images == {f"apache/kafka:{version}" for version in versions}


# The sample configuration


def switched_on(text: str) -> str:
    """The sample with every key that it only shows."""
    return re.sub(r"(?m)^( *)#(?=[a-z0-9_]+:|- )", r"\1", text)


CARD = ("cards/mistral.yaml", "rules: [{model: mistral-large, input_rate: 2e-6, output_rate: 6e-6}]")


def test_the_sample_loads_as_it_is() -> None:
    settings = load_settings(SAMPLE)
    assert [rule.model for rule in settings.pricing.rules] == [
        "gpt-4o",
        "claude-3-5-sonnet",
        "fallback-llama-3",
    ]


def test_the_rate_card_of_the_readme_loads() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = [
        block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "contracts" in block
    ]
    pricing = load_settings(shown).pricing
    assert (len(pricing.rules), len(pricing.contracts)) == (3, 1)


def test_what_the_sample_shows_switched_off_loads_too() -> None:
    settings = load_settings(switched_on(SAMPLE), [CARD])
    assert settings.alerts.webhooks[0].name == "billing"
    assert settings.limits.tenant_overrides["acme"].features["search"].daily_cap == 20
    assert [(one.plan, str(one.since)) for one in settings.plans.tenants["acme"]] == [
        ("team", "2026-01-01"),
        ("contract", "2026-07-01"),
    ]
    assert list(settings.plans.definitions) == ["starter", "team", "contract"]
    assert settings.plans.prepaid["acme"][0].amount == 500


def test_the_plans_that_the_readme_shows_load() -> None:
    shown = re.findall(r"(?ms)^```yaml\n(plans:.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [list(load_settings(f"{SAMPLE}\n{text}").plans.definitions) for text in shown] == [
        ["starter", "team", "contract"]
    ]


@pytest.mark.parametrize(
    "section",
    [
        card_values.Rule,
        card_values.Contract,
        settings_values.PricingSettings,
        settings_values.TenantLimits,
        settings_values.FeatureLimits,
        settings_values.CapPair,
        settings_values.MeteringSettings,
        settings_values.WebhookSettings,
        settings_values.AlertSettings,
        settings_values.PlanSettings,
        settings_values.PlanPeriod,
        plans.Plan,
        plans.Charge,
        plans.Graduated,
        plans.Volume,
        plans.Package,
        plans.Tier,
        plans.Commitment,
        prepaid.Grant,
    ],
)
def test_the_sample_shows_every_key(section: type[Any]) -> None:
    renamed = {
        "secret_files": "secret_file",
        "since": "from",
        "scale": "graduated",
        "tiers": "graduated",
        "effective_from_ms": "effective_from",
        "effective_until_ms": "effective_until",
        "gap_intended": "gap",
        "modality_rates": "input_audio_rate",
        "unit_rates": "units",
    }
    keys = set(re.findall(r"([a-z0-9_]+):", switched_on(SAMPLE)))
    assert {renamed.get(field.name, field.name) for field in dataclasses.fields(section)} <= keys


def test_what_the_sample_shows_as_a_default_is_the_default() -> None:
    shown = load_settings(switched_on(SAMPLE), [CARD])
    assert shown.metering == settings_values.MeteringSettings()
    assert dataclasses.replace(shown.alerts, webhooks=()) == settings_values.AlertSettings()


# The real parts


def test_a_message_goes_through_the_broker(kafka_bootstrap: str, kafka_topic: str) -> None:
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    producer.produce(kafka_topic, b"one event", key=b"acme")
    assert producer.flush(KAFKA_SECONDS_MAX) == 0
    consumer = Consumer(
        {"bootstrap.servers": kafka_bootstrap, "group.id": kafka_topic, "auto.offset.reset": "earliest"}
    )
    try:
        consumer.subscribe([kafka_topic])
        message = consumer.poll(KAFKA_SECONDS_MAX)
        assert message is not None
        assert (message.error(), message.key(), message.value()) == (None, b"acme", b"one event")
        assert len(consumer.list_topics(kafka_topic).topics[kafka_topic].partitions) == 4
    finally:
        consumer.close()


@pytest.mark.kafka
def test_a_real_broker_makes_topics_to_order(kafka_bootstrap: str, kafka_topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    topic = NewTopic(kafka_topic, num_partitions=1, config={"cleanup.policy": "compact"})
    admin.create_topics([topic])[kafka_topic].result(KAFKA_SECONDS_MAX)
    assert len(admin.list_topics(kafka_topic).topics[kafka_topic].partitions) == 1


@pytest.mark.parametrize("left_open", [True, False])
def test_each_test_has_a_database_of_its_own(clickhouse_url: str, left_open: bool) -> None:
    client = connect(parse_address(clickhouse_url))
    assert client.query("SHOW TABLES").result_rows == []
    client.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    assert client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows == [
        ("t",)
    ]
    if not left_open:
        client.close()
