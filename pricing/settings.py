"""Reading `meterline.yaml`: its text to frozen values, or every one of its mistakes in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pricing import settings_keys as read
from pricing.card_check import Place, card_problems
from pricing.card_entry import read_contract, read_rule
from pricing.card_match import is_of_model
from pricing.card_values import Contract, Rule
from pricing.money import USD_SCALE
from pricing.settings_keys import Section
from pricing.settings_plans import read_plans
from pricing.settings_values import (
    AlertSettings,
    CapPair,
    FeatureLimits,
    LimitSettings,
    MeteringSettings,
    PlanOfMonth,
    PlanPeriod,
    PlanSettings,
    PricingSettings,
    Settings,
    TenantLimits,
    TenantOverride,
    WebhookSettings,
    caps_for,
    plan_for,
    thresholds,
    timezone_for,
)
from pricing.settings_yaml import InvalidSettings, Problem, read_tree

__all__ = [
    "AlertSettings",
    "CapPair",
    "FeatureLimits",
    "InvalidSettings",
    "LimitSettings",
    "MeteringSettings",
    "PlanOfMonth",
    "PlanPeriod",
    "PlanSettings",
    "PricingSettings",
    "Problem",
    "Rule",
    "Settings",
    "TenantLimits",
    "TenantOverride",
    "WebhookSettings",
    "caps_for",
    "card_names",
    "load_settings",
    "plan_for",
    "thresholds",
    "timezone_for",
]

_NAME = read.label(1, 128)
_AMOUNT = read.decimal("0", "1e9", places=USD_SCALE)
# In a shorter window one key could stand for two events of one day, of which `usage` would show one: its rows
# are known by tenant, day and key.
_WINDOW_HOURS = read.whole(24, 168)
# A stop takes up to three epochs and the inserts on their way, and gets thirty seconds (`dataflows.run`).
_EPOCH_SECONDS = read.decimal("0.05", "8", places=6)
_TOPIC = read.matching(r"(?!\.\.?$)[\w.-]{1,249}", "must be a Kafka topic: letters, digits, '.', '_' and '-'")
_CARDS_MAX = 100  # paths; a directory may hold more files
_WEBHOOK_NAME = read.matching(r"[\w.-]{1,64}", "must be a name of letters, digits, '.', '_' and '-'")


def load_settings(text: str, cards: Sequence[tuple[str, str]] = ()) -> Settings:
    """Read the text of a `meterline.yaml`.

    Only `pricing` with its rules is required; everything else has a default, and a null counts as absent.

    Args:
        text: of the configuration.
        cards: name and text of every rate-card file that `card_names` leads to; their rules and contracts
            are added to those of the configuration.

    Raises:
        InvalidSettings: something is wrong; it lists every problem that the texts have.
    """
    problems: list[Problem] = []
    root = Section("", read_tree(text, problems), problems)
    pricing = _pricing(root, cards, problems)
    settings = Settings(
        pricing=pricing,
        limits=_limits(root.section("limits"), pricing.rules),
        metering=_metering(root.section("metering")),
        alerts=_alerts(root.section("alerts")),
        plans=read_plans(root.section("plans")),
    )
    root.finish()
    if problems:
        raise InvalidSettings(tuple(problems))
    return settings


def card_names(text: str) -> tuple[str, ...]:
    """The files and directories of rate cards that a `meterline.yaml` names; none where it cannot be read."""
    try:
        return (
            Section("", read_tree(text, []), [])
            .section("pricing")
            .several("cards", read.file_name, (), count_max=_CARDS_MAX)
        )
    except InvalidSettings:
        return ()


def _pricing(root: Section, cards: Sequence[tuple[str, str]], problems: list[Problem]) -> PricingSettings:
    if root.missing("pricing"):
        return PricingSettings(rules=())
    keys = root.section("pricing")
    pricing = PricingSettings(
        currency=keys.optional("currency", read.one_of("USD"), "USD"),
        rounding=keys.optional("rounding", read.one_of("nearest_cent", "none"), "nearest_cent"),
        rules=(),
        cards=keys.several("cards", read.file_name, (), count_max=_CARDS_MAX),
    )
    if not keys.given("cards"):
        keys.missing("rules")
    rules, contracts = _entries("", keys)
    if pricing.cards and not cards:
        keys.problem("cards", "names no rate-card file that was read")
    keys.finish()
    for name, text in cards:
        card_rules, card_contracts = _card(name, text, problems)
        rules += card_rules
        contracts += card_contracts
    # What is wrong in itself was read with stand-ins, which contradict others for no reason.
    wrong = tuple(problem.path for problem in problems)
    problems += card_problems(
        [one for one in rules if not any(path.startswith(str(one[0])) for path in wrong)],
        [one for one in contracts if not any(path.startswith(str(one[0])) for path in wrong)],
    )
    return replace(
        pricing,
        rules=tuple(rule for _, rule in rules),
        contracts=tuple(contract for _, contract in contracts),
    )


def _entries(file: str, keys: Section) -> tuple[list[tuple[Place, Rule]], list[tuple[Place, Contract]]]:
    rules = keys.sections("rules", count_min=1)
    contracts = keys.sections("contracts")
    return (
        [(Place(file, section.path), read_rule(section)) for section in rules],
        [(Place(file, section.path), read_contract(section)) for section in contracts],
    )


def _card(
    name: str, text: str, problems: list[Problem]
) -> tuple[list[tuple[Place, Rule]], list[tuple[Place, Contract]]]:
    """Rules and contracts of one rate-card file, whose name goes before the place of each problem."""
    own: list[Problem] = []
    found: tuple[list[tuple[Place, Rule]], list[tuple[Place, Contract]]] = ([], [])
    try:
        keys = Section("", read_tree(text, own), own)
        keys.optional("currency", read.one_of("USD"), "USD")
        if not keys.given("contracts"):
            keys.missing("rules")
        found = _entries(name, keys)
        keys.finish()
    except InvalidSettings as exc:
        own += exc.problems
    for problem in own:
        place = Place(name, "" if problem.path == "the file" else problem.path)
        problems.append(Problem(str(place), problem.sentence))
    return found


def _limits(keys: Section, rules: tuple[Rule, ...]) -> LimitSettings:
    overrides = keys.section("overrides")
    limits = LimitSettings(
        tenant=_tenant_limits(keys.section("tenant"), rules),
        feature=_feature_limits(keys.section("feature")),
        tenant_overrides={
            name: _tenant_override(section) for name, section in overrides.entries("tenants", _NAME)
        },
        feature_overrides={name: _caps(section) for name, section in overrides.entries("features", _NAME)},
    )
    overrides.finish()
    keys.finish()
    return limits


def _tenant_limits(keys: Section, rules: tuple[Rule, ...]) -> TenantLimits:
    default = TenantLimits()
    limits = TenantLimits(
        daily_cap=keys.optional("daily_cap", _AMOUNT, None),
        monthly_cap=keys.optional("monthly_cap", _AMOUNT, None),
        burst_threshold=keys.optional("burst_threshold", read.fraction, default.burst_threshold),
        fallback_model=keys.optional("fallback_model", _NAME, None),
        timezone=keys.optional("timezone", read.timezone, default.timezone),
    )
    fallback = limits.fallback_model
    priced = [rule for rule in rules if rule.model or rule.model_prefix or rule.match is not None]
    # Without a single model the problem is in the rules, and is named there.
    if priced and fallback is not None and not any(is_of_model(r, fallback) for r in priced):
        hint = read.closest(fallback, sorted({rule.model for rule in priced if rule.model}))
        keys.problem("fallback_model", f"must be a model that a rule prices, got {fallback!r}{hint}")
    keys.finish()
    return limits


def _feature_limits(keys: Section) -> FeatureLimits:
    limits = FeatureLimits(
        max_context_tokens=keys.optional("max_context_tokens", read.whole(1, 2**40), None),
        cache_ttl_seconds=keys.optional("cache_ttl_seconds", read.whole(0, 366 * 86400), None),
        exclude_cache_from_billing=keys.optional("exclude_cache_from_billing", read.flag, default=True),
    )
    keys.finish()
    return limits


def _tenant_override(keys: Section) -> TenantOverride:
    override = TenantOverride(
        daily_cap=keys.optional("daily_cap", _AMOUNT, None),
        monthly_cap=keys.optional("monthly_cap", _AMOUNT, None),
        timezone=keys.optional("timezone", read.timezone, None),
        features={name: _caps(section) for name, section in keys.entries("features", _NAME)},
    )
    keys.finish()
    return override


def _caps(keys: Section) -> CapPair:
    caps = CapPair(
        daily_cap=keys.optional("daily_cap", _AMOUNT, None),
        monthly_cap=keys.optional("monthly_cap", _AMOUNT, None),
    )
    keys.finish()
    return caps


def _metering(keys: Section) -> MeteringSettings:
    default = MeteringSettings()
    retention_hours = keys.optional(
        "window_retention_hours", read.whole(1, 8784), default.window_retention_hours
    )
    metering = MeteringSettings(
        queue=keys.optional("queue", _TOPIC, default.queue),
        consumer_concurrency=keys.optional(
            "consumer_concurrency", read.whole(1, 256), default.consumer_concurrency
        ),
        idempotency_window_hours=keys.optional(
            "idempotency_window_hours", _WINDOW_HOURS, default.idempotency_window_hours
        ),
        reconciliation_schedule=keys.optional(
            "reconciliation_schedule", read.cron, default.reconciliation_schedule
        ),
        max_future_minutes=keys.optional(
            "max_future_minutes", read.whole(0, 1440), default.max_future_minutes
        ),
        max_age_days=keys.optional("max_age_days", read.whole(1, 3650), default.max_age_days),
        window_retention_hours=retention_hours,
        allowed_lateness_hours=keys.optional("allowed_lateness_hours", read.whole(0, 8784), retention_hours),
        epoch_interval_seconds=keys.optional(
            "epoch_interval_seconds", _EPOCH_SECONDS, default.epoch_interval_seconds
        ),
    )
    keys.finish()
    return metering


def _alerts(keys: Section) -> AlertSettings:
    default = AlertSettings()
    sections = keys.sections("webhooks")
    alerts = AlertSettings(
        webhooks=tuple(_webhook(section, index) for index, section in enumerate(sections)),
        retry_schedule_seconds=keys.several(
            "retry_schedule_seconds",
            read.decimal("0", "2592000", places=3),
            default.retry_schedule_seconds,
            count_max=50,
        ),
        timeout_seconds=keys.optional("timeout_seconds", read.whole(1, 30), default.timeout_seconds),
        drain_seconds=keys.optional("drain_seconds", read.whole(0, 300), default.drain_seconds),
    )
    first: dict[str, Section] = {}
    for section, webhook in zip(sections, alerts.webhooks, strict=True):
        earlier = first.setdefault(webhook.name, section)
        if earlier is not section:
            section.problem("name", f"is already the name of {earlier.path}, got {webhook.name!r}")
    keys.finish()
    return alerts


def _webhook(keys: Section, index: int) -> WebhookSettings:
    webhook = WebhookSettings(
        name=keys.optional("name", _WEBHOOK_NAME, f"webhook-{index}"),
        url=keys.required("url", read.url, ""),
        secret_env=keys.several("secret_env", read.variable_name, (), count_max=8),
        secret_files=keys.several("secret_file", read.file_name, (), count_max=8),
        allow_private=keys.optional("allow_private", read.flag, default=False),
    )
    if webhook.url.lower().startswith("http://") and not webhook.allow_private:
        keys.problem(
            "url", "must begin with https:// (http:// is for private addresses, with allow_private: true)"
        )
    is_literal = keys.refuse(
        "secret", "must not stand in this file: name a variable with secret_env or a file with secret_file"
    )
    if keys.is_mapping and not (is_literal or keys.given("secret_env") or keys.given("secret_file")):
        keys.problem(None, "has no secret: name a variable with secret_env or a file with secret_file")
    keys.finish()
    return webhook
