"""The section `plans`: what it says as values, and a sentence for each of its mistakes."""

from __future__ import annotations

import pickle
from decimal import Decimal

import pytest

from pricing.plans import PURE_USAGE, Charge, Commitment, Graduated, Package, Plan, Volume
from pricing.prepaid import Grant
from pricing.settings import (
    InvalidSettings,
    PlanOfMonth,
    PlanPeriod,
    PlanSettings,
    load_settings,
    plan_for,
)
from tests.pricing.plan_rows import month, tiers

MINIMAL = "pricing: {rules: [{model: m, input_rate: 0, output_rate: 0}]}\n"

EVERYTHING = """\
plans:
  default: flat
  definitions:
    flat: {base_fee: 99.50, usage: included}
    bare:
    mixed:
      charges:
        - quantity: total_tokens
          feature: chat
          model: gpt-4o
          included: 1_000
          graduated: [{up_to: 10, unit_price: 0.000000000000000001, flat_fee: 5}, {unit_price: 1e6}]
        - {quantity: price, included: 0.5, volume: [{up_to: 0.25, unit_price: 1}, {unit_price: 0.9}]}
        - {quantity: requests, package: {size: 1000, price: 2.50}}
    contract: {commitment: {amount: 12000, months: 12}}
    monthly: {commitment: {amount: 1000}}
  tenants:
    acme: [{plan: contract, from: 2027-01-01, until: 2029-01}, {plan: mixed, from: 2026-01, until: 2026-07}]
    nobody:
  prepaid:
    acme:
      - {amount: 500, granted_at: 2026-01, expires_at: 2027-01, priority: 3}
      - {amount: 1, granted_at: 2026-02}
"""


def problems(plans: str) -> tuple[str, ...]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(MINIMAL + plans)
    return tuple(str(caught.value).splitlines())


def test_everything_is_read() -> None:
    assert load_settings(MINIMAL + EVERYTHING).plans == PlanSettings(
        default="flat",
        definitions={
            "flat": Plan(base_fee=Decimal("99.5"), usage="included"),
            "bare": PURE_USAGE,
            "mixed": Plan(
                charges=(
                    Charge(
                        quantity="total_tokens",
                        feature="chat",
                        model="gpt-4o",
                        included=Decimal(1000),
                        scale=Graduated(tiers("10 0.000000000000000001 +5, - 1000000")),
                    ),
                    Charge(quantity="price", included=Decimal("0.5"), scale=Volume(tiers("0.25 1, - 0.9"))),
                    Charge(quantity="requests", scale=Package(Decimal(1000), Decimal("2.5"))),
                )
            ),
            "contract": Plan(commitment=Commitment(Decimal(12000), 12)),
            "monthly": Plan(commitment=Commitment(Decimal(1000))),
        },
        tenants={
            "acme": (
                PlanPeriod(plan="mixed", since=month("2026-01"), until=month("2026-07")),
                PlanPeriod(plan="contract", since=month("2027-01"), until=month("2029-01")),
            ),
            "nobody": (),
        },
        prepaid={
            "acme": (
                Grant(
                    amount=Decimal(500),
                    granted_at=month("2026-01"),
                    expires_at=month("2027-01"),
                    priority=3,
                ),
                Grant(amount=Decimal(1), granted_at=month("2026-02")),
            )
        },
    )


def test_plans_travel_between_processes() -> None:
    settings = load_settings(MINIMAL + EVERYTHING)
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  # our own bytes


@pytest.mark.parametrize("plans", ["", "plans:", "plans: {}", "plans: {definitions:, tenants:, prepaid: {}}"])
def test_without_plans_everybody_pays_for_usage(plans: str) -> None:
    settings = load_settings(MINIMAL + plans)
    assert settings.plans == PlanSettings()
    assert plan_for(settings.plans, "acme", month("2026-01")) == PlanOfMonth("pure usage", PURE_USAGE)


@pytest.mark.parametrize(
    ("tenant_id", "at", "plan", "since"),
    [
        ("acme", "2025-12", "flat", None),
        ("acme", "2026-01", "mixed", "2026-01"),
        ("acme", "2026-06", "mixed", "2026-01"),
        ("acme", "2026-07", "flat", None),
        ("acme", "2027-01", "contract", "2027-01"),
        ("acme", "2028-12", "contract", "2027-01"),
        ("acme", "2029-01", "flat", None),
        ("nobody", "2026-01", "flat", None),
        ("anybody", "2026-01", "flat", None),
    ],
)
def test_a_tenant_is_on_one_plan_in_each_month(tenant_id: str, at: str, plan: str, since: str | None) -> None:
    found = plan_for(load_settings(MINIMAL + EVERYTHING).plans, tenant_id, month(at))
    assert (found.name, found.since) == (plan, since and month(since))


WHOLE_MONTH = "must be a whole month such as 2026-11 (nothing is prorated within one)"
IS_ONE_OF = "must be price or input_tokens or output_tokens or total_tokens or requests or credits"
WHOLE = "must be a whole number from 0 to 1000000000000000000"
PLAN = "plans.definitions.p"
TIER = f"{PLAN}.charges[0].graduated"
PERIOD = "plans.tenants.acme"
LATER = "must be a later month than"
GRANT = "plans.prepaid.acme[0]"


def with_charge(text: str) -> str:
    return f"plans: {{definitions: {{p: {{charges: [{{{text}}}]}}}}}}"


def with_tiers(text: str, quantity: str = "requests") -> str:
    return with_charge(f"quantity: {quantity}, graduated: {text}")


def with_periods(text: str) -> str:
    plans = "p: {base_fee: 1}, yearly: {commitment: {amount: 1, months: 12}}"
    return f"plans: {{definitions: {{{plans}}}, tenants: {{acme: {text}}}}}"


def with_grant(text: str) -> str:
    return f"plans: {{prepaid: {{acme: [{text}]}}}}"


@pytest.mark.parametrize(
    ("plans", "told"),
    [
        ("plans: []", ["plans: must be a mapping, got a list"]),
        (
            "plans: {definitions: 1, tenants: [], prepaid: {acme: 5}}",
            [
                "plans.definitions: must be a mapping, got a single value",
                "plans.tenants: must be a mapping, got a list",
                "plans.prepaid.acme: must be a list, got a single value",
            ],
        ),
        ("plans: {tenant: {}}", ["plans.tenant: is not a known key; did you mean 'tenants'?"]),
        ("plans: {default: x}", ["plans.default: must be one of plans.definitions, got 'x'"]),
        (
            "plans: {default: tam, definitions: {team: {}}}",
            ["plans.default: must be one of plans.definitions, got 'tam'; did you mean 'team'?"],
        ),
        (
            "plans: {default: y, definitions: {y: {commitment: {amount: 1, months: 12}}}}",
            ["plans.default: must not be a plan with a commitment of 12 months: they need a start"],
        ),
        (
            "plans: {definitions: {p: {base_fee: -1, usage: free, commitment: {months: 0}}}}",
            [
                f"{PLAN}.base_fee: must be positive (zero is allowed), got -1",
                f"{PLAN}.usage: must be rated or included, got 'free'",
                f"{PLAN}.commitment.amount: is missing",
                f"{PLAN}.commitment.months: must be a whole number from 1 to 120, got 0",
            ],
        ),
        (
            "plans: {definitions: {p: {base_fee: 0.0000000000001}}}",
            [f"{PLAN}.base_fee: must have at most 12 digits after the point, got 0.0000000000001"],
        ),
        (
            with_charge("quantity: tokens, volume: [{unit_price: 1}]"),
            [f"{PLAN}.charges[0].quantity: {IS_ONE_OF}, got 'tokens'"],
        ),
        (
            with_charge("quantity: requests"),
            [f"{PLAN}.charges[0]: must have one of graduated, volume and package"],
        ),
        (
            with_charge("quantity: requests, package: {size: 1, price: 1}, volume: [{unit_price: 1}]"),
            [f"{PLAN}.charges[0]: must have one of graduated, volume and package"],
        ),
        (
            with_charge("quantity: requests, included: 0.5, package: {size: 0}"),
            [
                f"{PLAN}.charges[0].package.price: is missing",
                f"{PLAN}.charges[0].package.size: must be more than 0",
                f"{PLAN}.charges[0].included: {WHOLE}, got 0.5",
            ],
        ),
        (with_tiers("[]"), [f"{TIER}: must have 1 or more entries, got 0"]),
        (with_tiers("[{}]"), [f"{TIER}[0].unit_price: is missing"]),
        (with_tiers("[~]"), [f"{TIER}[0]: must be a mapping, got nothing"]),
        (
            with_tiers("[{unit_price: 1, up_to: 5}]"),
            [f"{TIER}[0].up_to: must not stand in the last tier: usage above it would have no price"],
        ),
        (
            with_tiers("[{unit_price: 1}, {unit_price: 1}]"),
            [f"{TIER}[0].up_to: is missing: only the last tier has no end"],
        ),
        (
            with_tiers("[{unit_price: 1, up_to: 0}, {unit_price: 1}]"),
            [f"{TIER}[0].up_to: must be more than 0, where the tier begins, got 0"],
        ),
        (
            with_tiers("[{unit_price: 1, up_to: 5}, {unit_price: 1, up_to: 5}, {unit_price: 1}]"),
            [f"{TIER}[1].up_to: must be more than 5, where the tier begins, got 5"],
        ),
        (
            with_tiers("[{unit_price: 1, up_to: 0.5}, {unit_price: 1}]"),
            [f"{TIER}[0].up_to: {WHOLE}, got 0.5"],
        ),
        (
            with_tiers("[{unit_price: 1000000.1}]", "price"),
            [f"{TIER}[0].unit_price: must be at most 1e6, got 1000000.1"],
        ),
        (with_periods("{plan: p}"), [f"{PERIOD}: must be a list, got a mapping"]),
        (with_periods("[{}]"), [f"{PERIOD}[0].plan: is missing", f"{PERIOD}[0].from: is missing"]),
        (
            with_periods("[{plan: q, from: 2026-01-15, until: 2026-13}]"),
            [
                f"{PERIOD}[0].from: {WHOLE_MONTH}, got 2026-01-15",
                f"{PERIOD}[0].until: {WHOLE_MONTH}, got 2026-13",
                f"{PERIOD}[0].plan: must be one of plans.definitions, got 'q'",
            ],
        ),
        (
            with_periods("[{plan: p, from: 2026-02, until: 2026-02}]"),
            [f"{PERIOD}[0].until: {LATER} from: it is the first without the plan"],
        ),
        (
            with_periods("[{plan: p, from: 2026-06}, {plan: p, from: 2026-01, until: 2026-07}]"),
            [f"{PERIOD}[0].from: is before the end of {PERIOD}[1]: a tenant has one plan at a time"],
        ),
        (
            with_periods(
                "[{plan: p, from: 2026-01}, {plan: p, from: 2026-02, until: 2026-03},"
                " {plan: p, from: 2026-05}]"
            ),
            [
                f"{PERIOD}[1].from: is before the end of {PERIOD}[0]: a tenant has one plan at a time",
                f"{PERIOD}[2].from: is before the end of {PERIOD}[0]: a tenant has one plan at a time",
            ],
        ),
        (
            with_periods("[{plan: yearly, from: 2026-02, until: 2027-01}]"),
            [f"{PERIOD}[0].until: must be a multiple of 12 months after from, as the plan's commitment is"],
        ),
        (with_grant("{}"), [f"{GRANT}.granted_at: is missing", f"{GRANT}.amount: is missing"]),
        (
            with_grant("{amount: 1, granted_at: 2026-01-02, expires_at: never, priority: high}"),
            [
                f"{GRANT}.granted_at: {WHOLE_MONTH}, got 2026-01-02",
                f"{GRANT}.expires_at: {WHOLE_MONTH}, got 'never'",
                f"{GRANT}.priority: must be a whole number from 0 to 1000, got 'high'",
            ],
        ),
        (
            with_grant("{amount: 1, granted_at: 2026-02, expires_at: 2026-02}"),
            [f"{GRANT}.expires_at: {LATER} granted_at: it is the first without the credits"],
        ),
        (
            f"plans: {{tenants: {{{'x' * 129}: []}}}}",
            [f"plans.tenants['{'x' * 57}...']: must have 1 to 128 characters, got 129"],
        ),
    ],
)
def test_a_mistake_is_a_sentence(plans: str, told: list[str]) -> None:
    assert problems(plans) == tuple(told)


@pytest.mark.parametrize(
    "text",
    [
        "[{plan: p, from: 2026-01, until: 2026-02}, {plan: p, from: 2026-02}]",
        "[{plan: p, from: 2026-02}, {plan: p, from: 2026-01, until: 2026-02}]",
        "[{plan: yearly, from: 2026-02, until: 2027-02}]",
        "[{plan: yearly, from: 2026-02, until: 2028-02}]",
        "[{plan: yearly, from: 2026-02}]",
    ],
)
def test_periods_may_touch_and_hold_whole_commitments(text: str) -> None:
    assert load_settings(MINIMAL + with_periods(text)).plans.tenants["acme"]
