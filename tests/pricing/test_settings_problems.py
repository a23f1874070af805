from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.settings import InvalidSettings, load_settings

MINIMAL = """\
pricing:
  rules:
    - {model: gpt-4o, input_rate: 0.000005, output_rate: 0.000015}
"""
NEITHER = "and neither is more specific"
ZONE = "must be a time zone such as Europe/Vienna"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(text)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return tuple(str(caught.value).splitlines())


def test_five_mistakes_are_five_problems() -> None:
    text = """\
pricing:
  currency: EUR
  rules:
    - {model: gpt-4o, input_rate: 0.000005, output_rate: 0.000015}
    - {model: llama, input_rate: -0.1, output_rate: 0}
limits:
  tenant:
    burst_treshold: 0.8
    fallback_model: lama
metering:
  consumer_concurrency: many
"""
    unpriced = "must be a model that a rule prices, got 'lama'; did you mean 'llama'?"
    assert problems(text) == (
        "pricing.currency: must be USD, got 'EUR'",
        "pricing.rules[1].input_rate: must be positive (zero is allowed), got -0.1",
        f"limits.tenant.fallback_model: {unpriced}",
        "limits.tenant.burst_treshold: is not a known key; did you mean 'burst_threshold'?",
        "metering.consumer_concurrency: must be a whole number from 1 to 256, got 'many'",
    )


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("-0.1", "must be positive (zero is allowed), got -0.1"),
        ("-1e-18", "must be positive (zero is allowed), got -1e-18"),
        ("1000.000000000000000001", "must be at most 1000, got 1000.000000000000000001"),
        ("1e9999", "must be at most 1000, got 1e9999"),
        ("1e-19", "must have at most 18 digits after the point, got 1e-19"),
        ("1e-9999", "must have at most 18 digits after the point, got 1e-9999"),
        (".inf", "must be a number, got .inf"),
        ("-.INF", "must be a number, got -.INF"),
        (".nan", "must be a number, got .nan"),
        ("NaN", "must be a number, got 'NaN'"),
        ("Infinity", "must be a number, got 'Infinity'"),
        ("1:30", "must be a number, got 1:30"),
        ("0x1F", "must be a number, got 0x1F"),
        ("010", "must be a number, got 010"),
        ("1__0", "must be a number, got 1__0"),
        ("1e99999", "must be a number, got 1e99999"),
        ("'0,5'", "must be a number, got 0,5"),
        ("\u0661", "must be a number, got '\u0661'"),
        ("$5", "must be a number, got '$5'"),
        ('"5\\n"', "must be a number, got '5\\n'"),
        ('"5\\u2028"', "must be a number, got '5\\u2028'"),
        ("''", "must be a number, got ''"),
        ("9" * 99, "must be at most 1000, got " + "9" * 57 + "..."),
        ("[1]", "must be a single value, got a list"),
        ("{a: 1}", "must be a single value, got a mapping"),
        ("", "is missing"),
        ("~", "is missing"),
    ],
)
def test_a_rate_is_a_plain_number_from_zero(written: str, sentence: str) -> None:
    text = f"pricing: {{rules: [{{model: m, input_rate: {written}, output_rate: 0}}]}}"
    assert problems(text) == (f"pricing.rules[0].input_rate: {sentence}",)


@pytest.mark.parametrize(
    ("pricing", "expected"),
    [
        ("", ("pricing: is missing",)),
        ("5", ("pricing: must be a mapping, got a single value",)),
        ("{}", ("pricing.rules: is missing",)),
        ("{rules: []}", ("pricing.rules: must have 1 or more entries, got 0",)),
        ("{rules: {model: m}}", ("pricing.rules: must be a list, got a mapping",)),
        ("{}\nlimits: {tenant: {fallback_model: m}}", ("pricing.rules: is missing",)),
        (
            "{rules: [&nameless {input_rate: 0, output_rate: 0}, *nameless]}",
            ("pricing.rules[0].model: is missing", "pricing.rules[1].model: is missing"),
        ),
        ("{rules: [~]}", ("pricing.rules[0]: must be a mapping, got nothing",)),
        (
            "{rules: [{}]}",
            (
                "pricing.rules[0].model: is missing",
                "pricing.rules[0].input_rate: is missing",
                "pricing.rules[0].output_rate: is missing",
            ),
        ),
        (
            "{rules: [{model: '', input_rate: 0, output_rate: 0}]}",
            ("pricing.rules[0].model: must have 1 to 128 characters, got 0",),
        ),
        (
            '{rules: [{model: "a\\tb", input_rate: 0, output_rate: 0}]}',
            ("pricing.rules[0].model: must not hold control characters, got 'a\\tb'",),
        ),
        (
            "{rules: [{model: m, input_rate: 0, output_rate: 0, multiplier: 1e-7, credit_multiplier: -1}]}",
            (
                "pricing.rules[0].multiplier: must have at most 6 digits after the point, got 1e-7",
                "pricing.rules[0].credit_multiplier: must be positive (zero is allowed), got -1",
            ),
        ),
        (
            "{rules: [{model: m, input_rate: 0, output_rate: 0, multiplier: 1e9, credit_multiplier: 1001}]}",
            (
                "pricing.rules[0].multiplier: must be at most 1000, got 1e9",
                "pricing.rules[0].credit_multiplier: must be at most 1000, got 1001",
            ),
        ),
        (
            "{rules: [&p {model: m, provider: p, input_rate: 0, output_rate: 0}, *p]}",
            (f"pricing.rules[1]: applies to the same events as pricing.rules[0], {NEITHER}",),
        ),
        (
            "{rounding: up, rules: [{model: m, input_rate: 0, output_rate: 0}]}",
            ("pricing.rounding: must be nearest_cent or none, got 'up'",),
        ),
        (
            "{zzz: 1, rules: [{model: m, input_rate: 0, output_rate: 0}]}",
            ("pricing.zzz: is not a known key; known here: currency, rounding, cards, rules, contracts",),
        ),
    ],
)
def test_rules_that_cannot_price(pricing: str, expected: tuple[str, ...]) -> None:
    assert problems(f"pricing: {pricing}") == expected


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("limits: []", "limits: must be a mapping, got a list"),
        ("limit: {}", "limit: is not a known key; did you mean 'limits'?"),
        (
            "limits: {tenant: {daily_cap: -1}}",
            "limits.tenant.daily_cap: must be positive (zero is allowed), got -1",
        ),
        (
            "limits: {tenant: {monthly_cap: 0.0000000000001}}",
            "limits.tenant.monthly_cap: must have at most 12 digits after the point, got 0.0000000000001",
        ),
        (
            "limits: {tenant: {burst_threshold: 0}}",
            "limits.tenant.burst_threshold: must be more than 0 and at most 1, got 0",
        ),
        (
            "limits: {tenant: {burst_threshold: 80}}",
            "limits.tenant.burst_threshold: must be at most 1, got 80",
        ),
        (
            "limits: {tenant: {timezone: Europe/Viena}}",
            f"limits.tenant.timezone: {ZONE}, got 'Europe/Viena'; did you mean 'Europe/Vienna'?",
        ),
        (
            "limits: {tenant: {timezone: localtime}}",
            f"limits.tenant.timezone: {ZONE}, got 'localtime'",
        ),
        (
            "limits: {tenant: {timezone: ../../etc/passwd}}",
            f"limits.tenant.timezone: {ZONE}, got ../../etc/passwd",
        ),
        (
            "limits: {feature: {exclude_cache_from_billing: yes}}",
            "limits.feature.exclude_cache_from_billing: must be true or false, got 'yes'",
        ),
        (
            "limits: {feature: {max_context_tokens: 0}}",
            "limits.feature.max_context_tokens: must be a whole number from 1 to 1099511627776, got 0",
        ),
        (
            "limits: {feature: {cache_ttl_seconds: 1.5}}",
            "limits.feature.cache_ttl_seconds: must be a whole number from 0 to 31622400, got 1.5",
        ),
        (
            "limits: {overrides: {tenants: {acme.co: {daily_cap: x}}}}",
            "limits.overrides.tenants['acme.co'].daily_cap: must be a number, got 'x'",
        ),
        (
            "limits: {overrides: {tenants: {t: {features: {f: {dialy_cap: 1}}}}}}",
            "limits.overrides.tenants.t.features.f.dialy_cap: is not a known key; did you mean 'daily_cap'?",
        ),
        (
            "limits: {overrides: {tenants: {t: {timezone: Moon}}}}",
            f"limits.overrides.tenants.t.timezone: {ZONE}, got 'Moon'",
        ),
        ("limits: {overrides: {tenants: [t]}}", "limits.overrides.tenants: must be a mapping, got a list"),
        (
            f"limits: {{overrides: {{features: {{{'f' * 129}: {{}}}}}}}}",
            f"limits.overrides.features['{'f' * 57}...']: must have 1 to 128 characters, got 129",
        ),
        (
            "limits: {overrides: {tenant: {}}}",
            "limits.overrides.tenant: is not a known key; did you mean 'tenants'?",
        ),
        (
            "metering: {queue: a/b}",
            "metering.queue: must be a Kafka topic: letters, digits, '.', '_' and '-', got 'a/b'",
        ),
        (
            "metering: {queue: ..}",
            "metering.queue: must be a Kafka topic: letters, digits, '.', '_' and '-', got ..",
        ),
        (
            "metering: {consumer_concurrency: 257}",
            "metering.consumer_concurrency: must be a whole number from 1 to 256, got 257",
        ),
        (
            "metering: {idempotency_window_hours: 169}",
            "metering.idempotency_window_hours: must be a whole number from 24 to 168, got 169",
        ),
        (
            "metering: {idempotency_window_hours: 23}",
            "metering.idempotency_window_hours: must be a whole number from 24 to 168, got 23",
        ),
        (
            f"metering: {{max_age_days: {'9' * 5000}}}",
            f"metering.max_age_days: must be a whole number from 1 to 3650, got {'9' * 57}...",
        ),
        (
            "metering: {epoch_interval_seconds: 0.01}",
            "metering.epoch_interval_seconds: must be at least 0.05, got 0.01",
        ),
        (
            "metering: {epoch_interval_seconds: 9}",
            "metering.epoch_interval_seconds: must be at most 8, got 9",
        ),
        (
            "alerts: {timeout_seconds: 31}",
            "alerts.timeout_seconds: must be a whole number from 1 to 30, got 31",
        ),
        (
            "alerts: {retry_schedule_seconds: []}",
            "alerts.retry_schedule_seconds: must have 1 to 50 entries, got 0",
        ),
        (
            "alerts: {retry_schedule_seconds: [0, -1]}",
            "alerts.retry_schedule_seconds[1]: must be positive (zero is allowed), got -1",
        ),
        (
            "alerts: {retry_schedule_seconds: [0, ~]}",
            "alerts.retry_schedule_seconds[1]: must be a single value, got nothing",
        ),
        ("alerts: {webhooks: {url: x}}", "alerts.webhooks: must be a list, got a mapping"),
        ("alerts: {webhooks: [5]}", "alerts.webhooks[0]: must be a mapping, got a single value"),
    ],
)
def test_one_mistake_is_one_problem(fragment: str, expected: str) -> None:
    assert problems(MINIMAL + fragment) == (expected,)


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ("0 2 * * *", None),
        ("*/15 0-6/2 1,15 * mon-fri", None),
        ("59 23 31 12 7", None),
        ("0 0 * JAN Sun", None),
        ("0 2 * *", "five fields"),
        ("0 2 * * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 2 * * *", "minute from 0 to 59"),
        ("0 24 * * *", "hour from 0 to 23"),
        ("0 2 0 * *", "day from 1 to 31"),
        ("0 2 * 13 *", "month from 1 to 12"),
        ("0 2 * * 8", "day of the week from 0 to 7"),
        ("0 2 * * fri-mon", "day of the week from 0 to 7"),
        ("0 2 * mon *", "month from 1 to 12"),
        ("30-10 2 * * *", "minute from 0 to 59"),
        ("*/0 2 * * *", "minute from 0 to 59"),
        ("5/10 2 * * *", "minute from 0 to 59"),
        ("1, 2 * * *", "minute from 0 to 59"),
        ("-1 2 * * *", "minute from 0 to 59"),
        ("x 2 * * *", "minute from 0 to 59"),
    ],
)
def test_a_schedule_is_a_cron_line(schedule: str, field: str | None) -> None:
    text = MINIMAL + f"metering: {{reconciliation_schedule: '{schedule}'}}"
    if field is None:
        assert load_settings(text).metering.reconciliation_schedule == schedule
    else:
        (problem,) = problems(text)
        assert problem.startswith("metering.reconciliation_schedule: must")
        assert field in problem


ADDRESS = "url: must be an http:// or https:// address"
NAME_ONLY = "secret_env: must be the name of an environment variable, not the secret itself"


@pytest.mark.parametrize(
    ("webhook", "expected"),
    [
        ("secret_env: S", "url: is missing"),
        ("secret_env: S, url: example.com", ADDRESS),
        ("secret_env: S, url: 'ftp://example.com'", ADDRESS),
        ("secret_env: S, url: 'https://'", ADDRESS),
        ("secret_env: S, url: 'https://[::1'", ADDRESS),
        ("secret_env: S, url: 'https://h:99999/'", ADDRESS),
        ("secret_env: S, url: 'https://h:0/'", ADDRESS),
        ("secret_env: S, url: 'https://h/a b'", ADDRESS),
        ('secret_env: S, url: "https://h/\\n"', ADDRESS),
        ('secret_env: S, url: "https://h/\\x7f"', ADDRESS),
        ("secret_env: S, url: 'https://h\\@evil'", ADDRESS),
        ("secret_env: S, url: 'https://u:p@h/'", "url: must not hold a user name or password"),
        (
            "secret_env: S, url: 'HTTP://h/'",
            "url: must begin with https:// (http:// is for private addresses, with allow_private: true)",
        ),
        (
            "secret_env: S, url: 'https://h', name: a b",
            "name: must be a name of letters, digits, '.', '_' and '-', ",
        ),
        (
            "secret_env: S, url: 'https://h', name: webhook-0",
            "name: is already the name of alerts.webhooks[0]",
        ),
        ("url: 'https://h', secret_env: 'p@ss'", NAME_ONLY),
        ("url: 'https://h', secret_env: whsec_c2VjcmV0", NAME_ONLY),
        (
            "url: 'https://h', secret_file: whsec_c2VjcmV0",
            "secret_file: must be the name of a file, not the secret itself",
        ),
        (
            "url: 'https://h', secret_env: [A, B, C, D, E, F, G, H, I]",
            "secret_env: must have 1 to 8 entries, got 9",
        ),
        (
            "url: 'https://h', secret: s3cr3t",
            "secret: must not stand in this file: name a variable with secret_env",
        ),
        ("url: 'https://h', secret_env: S, secret: s3cr3t", "secret: must not stand in this file"),
    ],
)
def test_a_webhook_has_a_plain_address_and_names_its_secrets(webhook: str, expected: str) -> None:
    text = MINIMAL + f"alerts: {{webhooks: [{{url: 'https://h', secret_env: S}}, {{{webhook}}}]}}"
    (problem,) = problems(text)
    assert problem.startswith(f"alerts.webhooks[1].{expected}")


def test_a_webhook_without_a_secret_is_refused() -> None:
    sentence = "has no secret: name a variable with secret_env or a file with secret_file"
    assert problems(MINIMAL + "alerts: {webhooks: [{url: 'https://h'}]}") == (
        f"alerts.webhooks[0]: {sentence}",
    )


@given(
    secret=st.from_regex(r"s3cr3t[A-Za-z0-9+/=@:. -]{1,20}[A-Za-z0-9]", fullmatch=True),
    place=st.sampled_from(
        [
            "url: 'https://h', secret: '%s'",
            "url: 'https://h', secret: ['%s']",
            "url: 'https://h', signing_secret: '%s', secret_env: S",
            "url: 'https://h', secret_env: 'whsec_%s'",
            "url: 'https://h', secret_env: [A, '+%s']",
            "url: 'https://h', secret_file: 'whsec_%s'",
            "url: 'https://user:%s@h', secret_env: S",
            "url: 'http://h/%s', secret_env: S",
            "url: 'h/%s', secret_env: S",
            "url: 'https://[%s', secret_env: S",
            "url: 'https://h', secret: *%s",
        ]
    ),
)
def test_no_problem_repeats_a_secret(secret: str, place: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(MINIMAL + f"alerts: {{webhooks: [{{{place % secret}}}]}}")
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in repr(caught.value)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_the_address_of_a_webhook_is_not_shown() -> None:
    settings = load_settings(MINIMAL + "alerts: {webhooks: [{url: 'https://h/s3cr3t', secret_env: S}]}")
    assert settings.alerts.webhooks[0].url == "https://h/s3cr3t"
    assert "s3cr3t" not in repr(settings)
