from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from decimal import ROUND_UP, Context, Decimal, Inexact, localcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.card_values import Rule
from pricing.settings import (
    AlertSettings,
    CapPair,
    FeatureLimits,
    LimitSettings,
    MeteringSettings,
    PlanSettings,
    PricingSettings,
    Settings,
    TenantLimits,
    TenantOverride,
    WebhookSettings,
    caps_for,
    load_settings,
    thresholds,
    timezone_for,
)

SEED = """\
pricing:
  currency: USD
  rounding: nearest_cent
  rules:
    - model: "gpt-4o"
      input_rate: 0.000005
      output_rate: 0.000015
      multiplier: 1.0
    - model: "claude-3-5-sonnet"
      input_rate: 0.000003
      output_rate: 0.000015
      multiplier: 1.0
    - model: "fallback-llama-3"
      input_rate: 0.0000005
      output_rate: 0.000002
      multiplier: 0.8
limits:
  tenant:
    daily_cap: 50.00
    burst_threshold: 0.8
    fallback_model: "fallback-llama-3"
  feature:
    max_context_tokens: 128000
    cache_ttl_seconds: 3600
    exclude_cache_from_billing: true
metering:
  queue: "ai-metering-events"
  consumer_concurrency: 8
  idempotency_window_hours: 24
  reconciliation_schedule: "0 2 * * *"
"""
SEED_BESIDE_THE_CHECKOUT = Path(__file__).parents[3] / "shared" / "seed-config.yaml"

EVERYTHING = """\
pricing:
  rounding: none
  rules:
    - model: a
      provider: p
      confirm_rates_above: 6
      input_rate: 1
      output_rate: 2
      cache_read_rate: 3
      cache_write_rate: 4
      cache_write_1h_rate: 5
      reasoning_rate: 6
      multiplier: 7
      credit_multiplier: 8
    - {model: a, input_rate: 0, output_rate: 0}
limits:
  tenant: {daily_cap: 1, monthly_cap: 2, burst_threshold: 0.5, fallback_model: a, timezone: Asia/Kathmandu}
  feature: {max_context_tokens: 3, cache_ttl_seconds: 4, exclude_cache_from_billing: false}
  overrides:
    tenants:
      acme.co: {daily_cap: 5, monthly_cap: 6, timezone: Europe/Vienna, features: {search: {daily_cap: 7}}}
      no:
    features:
      search: {daily_cap: 8, monthly_cap: 9}
metering:
  queue: q
  consumer_concurrency: 1
  idempotency_window_hours: 25
  reconciliation_schedule: "*/5 1-3 1,15 jan-jun mon-fri"
  max_future_minutes: 3
  max_age_days: 4
  window_retention_hours: 5
  allowed_lateness_hours: 6
  epoch_interval_seconds: 0.25
alerts:
  webhooks:
    - {url: "https://example.com/hook", secret_env: [NEW, OLD], secret_file: /run/secrets/hook}
    - {name: local, url: "http://127.0.0.1:9000/", secret_env: LOCAL, allow_private: true}
  retry_schedule_seconds: [0, 0.5, 60]
  timeout_seconds: 1
  drain_seconds: 2
"""

MINIMAL = "pricing: {rules: [{model: m, input_rate: 0, output_rate: 0}]}\n"


def input_rate(written: str) -> Decimal:
    rule = f"{{model: m, input_rate: {written}, output_rate: 0, confirm_rates_above: 1000}}"
    text = f"pricing: {{rules: [{rule}]}}"
    return load_settings(text).pricing.rules[0].input_rate


def test_the_seed_is_read_as_it_is() -> None:
    assert load_settings(SEED) == Settings(
        pricing=PricingSettings(
            currency="USD",
            rounding="nearest_cent",
            rules=(
                Rule(model="gpt-4o", input_rate=Decimal("0.000005"), output_rate=Decimal("0.000015")),
                Rule(
                    model="claude-3-5-sonnet", input_rate=Decimal("0.000003"), output_rate=Decimal("0.000015")
                ),
                Rule(
                    model="fallback-llama-3",
                    input_rate=Decimal("0.0000005"),
                    output_rate=Decimal("0.000002"),
                    multiplier=Decimal("0.8"),
                ),
            ),
        ),
        limits=LimitSettings(
            tenant=TenantLimits(
                daily_cap=Decimal("50.00"),
                monthly_cap=None,
                burst_threshold=Decimal("0.8"),
                fallback_model="fallback-llama-3",
                timezone="UTC",
            ),
            feature=FeatureLimits(
                max_context_tokens=128_000, cache_ttl_seconds=3600, exclude_cache_from_billing=True
            ),
        ),
        metering=MeteringSettings(
            queue="ai-metering-events",
            consumer_concurrency=8,
            idempotency_window_hours=24,
            reconciliation_schedule="0 2 * * *",
        ),
    )


@pytest.mark.skipif(not SEED_BESIDE_THE_CHECKOUT.exists(), reason="the contract's own file is not at hand")
def test_the_contracts_own_seed_is_the_one_above() -> None:
    assert load_settings(SEED_BESIDE_THE_CHECKOUT.read_text()) == load_settings(SEED)


EVERY_SECTION: list[tuple[str, object]] = [
    (
        "pricing",
        PricingSettings(
            rounding="none",
            rules=(
                Rule(
                    model="a",
                    provider="p",
                    input_rate=Decimal(1),
                    output_rate=Decimal(2),
                    cache_read_rate=Decimal(3),
                    cache_write_rate=Decimal(4),
                    cache_write_1h_rate=Decimal(5),
                    reasoning_rate=Decimal(6),
                    multiplier=Decimal(7),
                    credit_multiplier=Decimal(8),
                ),
                Rule(model="a", input_rate=Decimal(0), output_rate=Decimal(0)),
            ),
        ),
    ),
    (
        "limits",
        LimitSettings(
            tenant=TenantLimits(
                daily_cap=Decimal(1),
                monthly_cap=Decimal(2),
                burst_threshold=Decimal("0.5"),
                fallback_model="a",
                timezone="Asia/Kathmandu",
            ),
            feature=FeatureLimits(
                max_context_tokens=3, cache_ttl_seconds=4, exclude_cache_from_billing=False
            ),
            tenant_overrides={
                "acme.co": TenantOverride(
                    daily_cap=Decimal(5),
                    monthly_cap=Decimal(6),
                    timezone="Europe/Vienna",
                    features={"search": CapPair(daily_cap=Decimal(7))},
                ),
                "no": TenantOverride(),
            },
            feature_overrides={"search": CapPair(daily_cap=Decimal(8), monthly_cap=Decimal(9))},
        ),
    ),
    (
        "metering",
        MeteringSettings(
            queue="q",
            consumer_concurrency=1,
            idempotency_window_hours=25,
            reconciliation_schedule="*/5 1-3 1,15 jan-jun mon-fri",
            max_future_minutes=3,
            max_age_days=4,
            window_retention_hours=5,
            allowed_lateness_hours=6,
            epoch_interval_seconds=Decimal("0.25"),
        ),
    ),
    (
        "alerts",
        AlertSettings(
            webhooks=(
                WebhookSettings(
                    name="webhook-0",
                    url="https://example.com/hook",
                    secret_env=("NEW", "OLD"),
                    secret_files=("/run/secrets/hook",),
                ),
                WebhookSettings(
                    name="local", url="http://127.0.0.1:9000/", secret_env=("LOCAL",), allow_private=True
                ),
            ),
            retry_schedule_seconds=(Decimal(0), Decimal("0.5"), Decimal(60)),
            timeout_seconds=1,
            drain_seconds=2,
        ),
    ),
    ("plans", PlanSettings()),
]


@pytest.mark.parametrize(("section", "expected"), EVERY_SECTION)
def test_every_key_arrives_where_it_belongs(section: str, expected: object) -> None:
    assert getattr(load_settings(EVERYTHING), section) == expected


def test_no_section_is_left_out_above() -> None:
    assert {section for section, _ in EVERY_SECTION} == {field.name for field in fields(Settings)}


def test_what_is_absent_or_null_has_its_default() -> None:
    minimal = load_settings(MINIMAL)
    empty = (
        MINIMAL + "limits: {tenant: {burst_threshold: ~}, overrides:}\nmetering:\nalerts: {webhooks: null}"
    )
    assert load_settings(empty) == minimal
    assert minimal.limits == LimitSettings()
    assert minimal.metering == MeteringSettings()
    assert minimal.alerts == AlertSettings()


def test_lateness_is_allowed_for_as_long_as_windows_are_kept() -> None:
    assert (
        load_settings(MINIMAL + "metering: {window_retention_hours: 10}").metering.allowed_lateness_hours
        == 10
    )


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("0.000005", "0.000005"),
        ("5e-6", "0.000005"),
        ('"5e-6"', "0.000005"),
        ("5.0E-6", "0.000005"),
        ("0.1", "0.1"),
        (".5", "0.5"),
        ("1.", "1"),
        ("+1", "1"),
        ("-0", "0"),
        ("1_00.25", "100.25"),
        ("0.123456789012345678", "0.123456789012345678"),
        ("0.1234567890123456780000", "0.123456789012345678"),
        ("1e3", "1000"),
        ("0e9999", "0"),
    ],
)
def test_a_number_is_what_was_written(written: str, rate: str) -> None:
    assert input_rate(written) == Decimal(rate)
    assert not input_rate(written).is_signed()


@given(
    number=st.decimals(0, 1000, allow_nan=False, allow_infinity=False, places=18),
    form=st.sampled_from(["{:f}", "{!s}", "{:E}", "'{:f}'", '"{!s}"']),
)
def test_every_digit_survives_whatever_the_threads_context(number: Decimal, form: str) -> None:
    written = form.format(number)
    with localcontext(Context(prec=2, rounding=ROUND_UP, traps=[Inexact])):
        rate = input_rate(written)
    assert rate == number
    assert isinstance(rate, Decimal)


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("007", "007"),
        ("no", "no"),
        ("on", "on"),
        ("null", "null"),
        ("1:30", "1:30"),
        ("1.10", "1.10"),
        ("2026-01-01", "2026-01-01"),
        ("'a: b'", "a: b"),
        ("Ünïcode", "Ünïcode"),
    ],
)
def test_a_tenant_may_be_called_anything(key: str, read: str) -> None:
    settings = load_settings(MINIMAL + f"limits: {{overrides: {{tenants: {{{key}: {{daily_cap: 1}}}}}}}}")
    assert caps_for(settings.limits, read) == CapPair(daily_cap=Decimal(1))


@pytest.mark.parametrize(
    ("burst_threshold", "fractions"),
    [
        ("0.8", ("0.8", "1")),
        ("0.000001", ("0.000001", "1")),
        ("1", ("1",)),
        ("1.0", ("1",)),
    ],
)
def test_thresholds_ascend_to_the_cap_itself(burst_threshold: str, fractions: tuple[str, ...]) -> None:
    settings = load_settings(MINIMAL + f"limits: {{tenant: {{burst_threshold: {burst_threshold}}}}}")
    assert thresholds(settings) == tuple(map(Decimal, fractions))


CAPS = """limits:
  tenant: {daily_cap: 10, monthly_cap: 100, timezone: Europe/Vienna}
  overrides:
    tenants:
      acme:
        daily_cap: 20
        timezone: America/New_York
        features:
          search: {daily_cap: 3}
          free: {monthly_cap: 0}
      zero: {daily_cap: 0}
    features:
      search: {daily_cap: 1, monthly_cap: 2}
"""


@pytest.mark.parametrize(
    ("tenant_id", "feature_id", "daily_cap", "monthly_cap"),
    [
        ("anybody", "", "10", "100"),
        ("anybody", "search", "1", "2"),
        ("anybody", "chat", None, None),
        ("acme", "", "20", "100"),
        ("acme", "search", "3", "2"),
        ("acme", "free", None, "0"),
        ("acme", "chat", None, None),
        ("zero", "", "0", "100"),
        ("zero", "search", "1", "2"),
    ],
)
def test_the_nearest_cap_holds(
    tenant_id: str, feature_id: str, daily_cap: str | None, monthly_cap: str | None
) -> None:
    limits = load_settings(MINIMAL + CAPS).limits
    assert caps_for(limits, tenant_id, feature_id) == CapPair(
        daily_cap=None if daily_cap is None else Decimal(daily_cap),
        monthly_cap=None if monthly_cap is None else Decimal(monthly_cap),
    )


@pytest.mark.parametrize(
    ("tenant_id", "name"),
    [("anybody", "Europe/Vienna"), ("acme", "America/New_York"), ("zero", "Europe/Vienna")],
)
def test_a_tenants_day_begins_at_its_own_midnight(tenant_id: str, name: str) -> None:
    assert timezone_for(load_settings(MINIMAL + CAPS).limits, tenant_id) == name


def test_settings_travel_between_processes() -> None:
    settings = load_settings(EVERYTHING)
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - our own bytes


def test_settings_do_not_change() -> None:
    settings = load_settings(EVERYTHING)
    with pytest.raises(FrozenInstanceError):
        settings.pricing.rules[0].multiplier = Decimal(2)  # type: ignore[misc] # the mistake under test
