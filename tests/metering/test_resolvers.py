"""Who a request is for, from wherever it says so; nothing that a client sends fails the request."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import mishaps
from metering.contexts import context
from metering.resolvers import (
    TOKEN_CHARS_MAX,
    Resolver,
    constant,
    first_of,
    from_context,
    header,
    jwt_claim,
    path,
    query,
    resolved,
)


def scope(
    headers: list[tuple[str, str]] | None = None, path: str = "/", query_string: str = ""
) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers or []]
    return {"type": "http", "headers": pairs, "path": path, "query_string": query_string.encode()}


def token(claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.signature"


def bearer(claims: object) -> dict[str, Any]:
    return scope([("authorization", f"Bearer {token(claims)}")])


def failing(_: object) -> str:
    raise RuntimeError("made to fail")


@pytest.mark.parametrize(
    ("resolver", "request_scope", "expected"),
    [
        (header("X-Tenant"), scope([("x-tenant", " acme ")]), "acme"),
        (header("X-Tenant"), scope([("x-tenant", "mün")]), "mün"),
        (header("X-Tenant"), {"headers": [(b"x-tenant", b"M\xfcller")]}, "Müller"),
        (header("X-Tenant"), {"headers": [(b"x-tenant", b"M\xf6ller")]}, "Möller"),
        (header("X-Tenant"), scope([("x-tenant", "acme"), ("X-TENANT", "acme")]), "acme"),
        (header("X-Tenant"), scope([("x-tenant", "acme"), ("x-tenant", "evil")]), None),
        (header("X-Tenant"), scope([("x-tenant", "")]), None),
        (header("X-Tenant"), scope(), None),
        (query("tenant"), scope(query_string="a=1&tenant=ac%20me"), "ac me"),
        (query("tenant"), scope(query_string="tenant=M%C3%BCller"), "Müller"),
        (query("tenant"), scope(query_string="tenant=Müller"), "Müller"),
        (query("tenant"), scope(query_string="tenant=M%FCller"), "Müller"),
        (query("tenant"), {"query_string": b"tenant=M\xf6ller"}, "Möller"),
        (query("mündel"), scope(query_string="m%C3%BCndel=acme"), "acme"),
        (query("tenant"), scope(query_string="tenant=a&tenant=b"), None),
        (query("tenant"), scope(query_string="tenant="), None),
        (path("/tenants/{tenant}/*"), scope(path="/tenants/acme/chat/1"), "acme"),
        (path("/tenants/{tenant}/*"), scope(path="/tenants/Müller/chat"), "Müller"),
        (path("/tenants/{tenant}/*"), scope(path="/tenants/M\ufffdller/chat"), None),
        (path("/tenants/{tenant}/*"), scope(path="/tenants/acme"), None),
        (path("/tenants/{tenant}"), scope(path="/tenants/a/b"), None),
        (path("/v1.0/{tenant}"), scope(path="/v1x0/acme"), None),
        (jwt_claim("tenant"), bearer({"tenant": "acme"}), "acme"),
        (jwt_claim("tenant"), bearer({"tenant": 42}), "42"),
        (jwt_claim("tenant"), bearer({"tenant": True}), None),
        (jwt_claim("tenant"), bearer({"tenant": ["acme"]}), None),
        (jwt_claim("tenant"), bearer(["acme"]), None),
        (jwt_claim("org", "id"), bearer({"org": {"id": "acme"}}), "acme"),
        (jwt_claim("org", "id"), bearer({"org": "acme"}), None),
        (jwt_claim("tenant"), bearer({"tenant": "x", "pad": "y" * TOKEN_CHARS_MAX}), None),
        (jwt_claim("tenant"), scope([("authorization", "Basic abc")]), None),
        (jwt_claim("tenant"), scope([("authorization", "Bearer a.!!!.c")]), None),
        (jwt_claim("t", header_name="x-token"), scope([("x-token", token({"t": "acme"}))]), "acme"),
        (constant("acme"), scope(), "acme"),
        (first_of(header("x-tenant"), query("tenant")), scope(query_string="tenant=q"), "q"),
        (first_of(header("x-tenant"), constant("last")), scope([("x-tenant", "h")]), "h"),
        (first_of(failing, constant("last")), scope(), "last"),
        (first_of(header("x-tenant"), query("tenant")), scope(), None),
    ],
)
def test_a_request_says_whose_it_is(
    resolver: Resolver, request_scope: dict[str, Any], expected: str | None
) -> None:
    assert resolver(request_scope) == expected


def test_the_context_around_is_asked_too() -> None:
    with context(tenant_id="acme"):
        assert first_of(header("x-tenant"), from_context)(scope()) == "acme"


def test_a_function_that_raises_is_counted_and_says_nothing() -> None:
    before = mishaps.counts()["resolver_failed"]
    assert resolved(failing, scope()) is None
    assert mishaps.counts()["resolver_failed"] == before + 1


@pytest.mark.parametrize("pattern", ["/tenants", "/{a}/{b}", ""])
def test_a_pattern_has_one_part_in_braces(pattern: str) -> None:
    with pytest.raises(ValueError, match="one part in braces"):
        path(pattern)


@pytest.mark.parametrize("name", ["", "x tenant", "x-tenant:", "x-tenant-ü", None])
def test_a_header_has_a_name(name: Any) -> None:
    with pytest.raises(ValueError, match="a header's name is made of"):
        header(name)


def test_a_claim_and_a_resolver_are_named() -> None:
    with pytest.raises(ValueError, match="name a claim of the token"):
        jwt_claim()
    for resolvers in ((), ("x-tenant",)):
        with pytest.raises(ValueError, match="name resolvers to be asked in turn"):
            first_of(*resolvers)


@given(st.binary(max_size=200), st.text(max_size=50), st.binary(max_size=50))
def test_whatever_a_client_sends_nothing_raises(value: bytes, path_: str, query_: bytes) -> None:
    headers = [(b"authorization", value), (b"authorization", b"Bearer a." + value + b".c")]
    asked = {"headers": headers[:1], "path": path_, "query_string": query_}
    before = mishaps.counts()["resolver_failed"]
    for resolver in (header("authorization"), jwt_claim("t"), query("t"), path("/{t}")):
        resolved(resolver, asked)
        resolved(resolver, {**asked, "headers": headers[1:]})
    # A query of more fields than anybody needs is refused by the standard library's own reader.
    assert mishaps.counts()["resolver_failed"] == before
