"""What `meterline.yaml` says, as values. Amounts are USD decimals; no number here was ever a float.

Import these from `pricing.settings`, which reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from pricing.card_values import Contract, Rule
from pricing.plans import PURE_USAGE, Plan
from pricing.prepaid import Grant

_ONE = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingSettings:
    """The rules by which usage becomes money, those of the card files in `cards` included.

    `rounding` is "nearest_cent" or "none"; it concerns statement totals, never rows. No two rules, and no two
    contracts, are equally specific for an event.
    """

    currency: str = "USD"
    rounding: str = "nearest_cent"
    rules: tuple[Rule, ...]
    contracts: tuple[Contract, ...] = ()
    cards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapPair:
    """Limits on the spend in one day and in one month, in USD. None means no limit; zero allows nothing."""

    daily_cap: Decimal | None = None
    monthly_cap: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """What holds for every tenant that has no override.

    `burst_threshold` is the fraction of a cap that alerts before the cap itself does, 0 < t <= 1.
    `timezone` is an IANA name: a tenant's days and months begin at its midnight.
    """

    daily_cap: Decimal | None = None
    monthly_cap: Decimal | None = None
    burst_threshold: Decimal = Decimal("0.8")
    fallback_model: str | None = None
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureLimits:
    """What holds for every feature; with `exclude_cache_from_billing` our own cache's hits are free."""

    max_context_tokens: int | None = None
    cache_ttl_seconds: int | None = None
    exclude_cache_from_billing: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantOverride:
    """One tenant's own limits, in USD, and those of its features. None means: as for everybody."""

    daily_cap: Decimal | None = None
    monthly_cap: Decimal | None = None
    timezone: str | None = None
    features: Mapping[str, CapPair] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """Caps: the general ones, and overrides by tenant_id and by feature_id. See `caps_for`."""

    tenant: TenantLimits = TenantLimits()
    feature: FeatureLimits = FeatureLimits()
    tenant_overrides: Mapping[str, TenantOverride] = field(default_factory=dict)
    feature_overrides: Mapping[str, CapPair] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringSettings:
    """How events are read and how long they are remembered.

    `queue` is the Kafka topic; `reconciliation_schedule` is a cron line of five fields;
    `allowed_lateness_hours` is `window_retention_hours` unless it is given.
    """

    queue: str = "ai-metering-events"
    consumer_concurrency: int = 8
    idempotency_window_hours: int = 24
    reconciliation_schedule: str = "0 2 * * *"
    max_future_minutes: int = 5
    max_age_days: int = 35
    window_retention_hours: int = 72
    allowed_lateness_hours: int = 72
    epoch_interval_seconds: Decimal = Decimal("0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where alerts are posted. Secrets stay outside: these are the names of variables and of files.

    Several secrets sign side by side, so that one can be rotated. `url` is left out of the repr,
    because the addresses that chat services hand out are secrets themselves.
    """

    name: str
    url: str = field(repr=False)
    secret_env: tuple[str, ...] = ()
    secret_files: tuple[str, ...] = ()
    allow_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Who is told, and how stubbornly: `retry_schedule_seconds` is the wait before each attempt."""

    webhooks: tuple[WebhookSettings, ...] = ()
    retry_schedule_seconds: tuple[Decimal, ...] = tuple(
        Decimal(seconds) for seconds in (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    )
    timeout_seconds: int = 15
    drain_seconds: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPeriod:
    """A tenant is on `plan` in the months `[since, until)`, given by their first days; None: without end."""

    plan: str
    since: date
    until: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Plans by name, and who is on which: periods by tenant_id, which never overlap. See `plan_for`.

    `default` is the plan of a tenant in a month without a period; None: pure usage. `prepaid` has the
    grants of each tenant.
    """

    definitions: Mapping[str, Plan] = field(default_factory=dict)
    default: str | None = None
    tenants: Mapping[str, tuple[PlanPeriod, ...]] = field(default_factory=dict)
    prepaid: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of `meterline.yaml`. Connections are not in it: they come from flags or the environment."""

    pricing: PricingSettings
    limits: LimitSettings = LimitSettings()
    metering: MeteringSettings = MeteringSettings()
    alerts: AlertSettings = AlertSettings()
    plans: PlanSettings = PlanSettings()


def thresholds(settings: Settings) -> tuple[Decimal, ...]:
    """The fractions of every cap that alert, ascending: the burst threshold and the cap itself."""
    return tuple(sorted({settings.limits.tenant.burst_threshold, _ONE}))


def caps_for(limits: LimitSettings, tenant_id: str, feature_id: str = "") -> CapPair:
    """The caps on a tenant's spend: on one feature, or on all of them together with feature_id "".

    A tenant's cap is its override's, else the general one. A feature's is the one that the tenant's
    override gives it, else the feature's own for every tenant, else none. The day's and the month's cap
    are looked up one by one, so an override of one leaves the other as it was.
    """
    override = limits.tenant_overrides.get(tenant_id, TenantOverride())
    if not feature_id:
        return _first(override, limits.tenant)
    return _first(
        override.features.get(feature_id, CapPair()), limits.feature_overrides.get(feature_id, CapPair())
    )


def timezone_for(limits: LimitSettings, tenant_id: str) -> str:
    """The IANA name of the time zone at whose midnight a tenant's days and months begin."""
    override = limits.tenant_overrides.get(tenant_id)
    return limits.tenant.timezone if override is None or override.timezone is None else override.timezone


@dataclass(frozen=True, slots=True)
class PlanOfMonth:
    """The plan that a tenant is on in some month. `since` is the first month of its period, if it has one."""

    name: str
    plan: Plan
    since: date | None = None


def plan_for(plans: PlanSettings, tenant_id: str, month: date) -> PlanOfMonth:
    """The plan of a tenant in a month, which is given by its first day."""
    for period in plans.tenants.get(tenant_id, ()):
        if period.since <= month and (period.until is None or month < period.until):
            return PlanOfMonth(period.plan, plans.definitions[period.plan], period.since)
    if plans.default is None:
        return PlanOfMonth("pure usage", PURE_USAGE)
    return PlanOfMonth(plans.default, plans.definitions[plans.default])


def _first(own: CapPair | TenantOverride, general: CapPair | TenantLimits) -> CapPair:
    return CapPair(
        daily_cap=general.daily_cap if own.daily_cap is None else own.daily_cap,
        monthly_cap=general.monthly_cap if own.monthly_cap is None else own.monthly_cap,
    )
