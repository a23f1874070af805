"""Who a request is for: read from its header, token, path or query, or from wherever an application knows it.

A resolver takes an ASGI scope and gives a label, or None. `first_of` asks several in order. None of them may
fail the request: what raises, or is said twice with two values, is as if it were absent, and counted.

What is no UTF-8 is read as latin-1, in which any bytes are a text, so that no two tenants become one.

A tenant that a client may name freely is a tenant that it may bill at will: use `header`, `query` and `path`
behind a gateway that sets them, and `jwt_claim` behind code that has verified the token.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from metering.contexts import current
from metering.mishaps import note

Scope = Mapping[str, Any]
Resolver = Callable[[Scope], str | None]

TOKEN_CHARS_MAX = 16 * 1024
"""A longer token is not read. Servers take some 8 to 64 KB of headers in all."""

QUERY_FIELDS_MAX = 100
"""A query of more fields is not read."""


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110, 5.1."""


def header(name: str) -> Resolver:
    """A request header, of any case; None if it is absent, empty, or sent twice with two values.

    Raises:
        ValueError: no header has such a name.
    """
    said: object = name
    if not isinstance(said, str) or not _HEADER_NAME.fullmatch(said):
        raise ValueError(f"a header's name is made of letters, digits and -: {name!r}")
    wanted, what = name.lower().encode(), f"the header {name}"

    def resolve(scope: Scope) -> str | None:
        found: str | None = None
        for key, value in scope.get("headers", ()):
            if key.lower() != wanted or not (text := _decoded(value.strip())):
                continue
            if found is not None and found != text:
                _note_ambiguous(what)
                return None
            found = text
        return found

    return resolve


def query(name: str) -> Resolver:
    """A field of the query, decoded; None if it is absent, empty, or there twice with two values."""

    def resolve(scope: Scope) -> str | None:
        text = scope.get("query_string", b"").decode("latin-1")
        # One character for each byte, whether it is written as it is or as %C3.
        pairs = parse_qsl(text, max_num_fields=QUERY_FIELDS_MAX, encoding="latin-1")
        found = {_text(value) for key, value in pairs if _text(key) == name} - {""}
        if len(found) > 1:
            _note_ambiguous(f"the query's {name}")
            return None
        return next(iter(found), None)

    return resolve


def path(pattern: str) -> Resolver:
    """A part of the path: `path("/tenants/{tenant}/*")`.

    `{…}`, of which there is one, stands for one segment, `*` for anything, and the pattern for the whole
    path.

    Raises:
        ValueError: the pattern has not one such part.
    """
    parts = re.split(r"(\{[^}/]*\}|\*)", pattern)
    if sum(part.startswith("{") for part in parts) != 1:
        raise ValueError(f"a pattern has one part in braces, such as /tenants/{{tenant}}/*: {pattern!r}")
    regex = re.compile(
        "".join("([^/]+)" if part[:1] == "{" else ".*" if part == "*" else re.escape(part) for part in parts),
        re.DOTALL,
    )

    def resolve(scope: Scope) -> str | None:
        """None for a path that does not fit, and for one that the server could not read."""
        match = regex.fullmatch(scope.get("path", ""))
        if match and _UNREADABLE in match[1]:
            note("label_unreadable", "the server could not read a path that tells a label")
            return None
        return match[1] if match else None

    return resolve


def jwt_claim(*claim: str, header_name: str = "authorization") -> Resolver:
    """A claim of the JSON web token in a header, with or without `Bearer` before it.

    THE TOKEN IS NOT VERIFIED HERE. Its payload is only decoded: your application, or the gateway before it,
    must have verified the signature before this request got here. Otherwise anybody can name any tenant.

    Args:
        claim: The claim's name; several go down into objects: `jwt_claim("org", "id")`.

    Raises:
        ValueError: no claim is named.
    """
    if not claim:
        raise ValueError('name a claim of the token: jwt_claim("tenant")')
    token_of = header(header_name)

    def resolve(scope: Scope) -> str | None:
        """None for what is no token, and for one without the claim."""
        token = (token_of(scope) or "").removeprefix("Bearer ").removeprefix("bearer ").strip()
        parts = token.split(".")
        if len(parts) != 3 or len(token) > TOKEN_CHARS_MAX:
            return None
        try:
            value = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (ValueError, RecursionError):
            return None
        for name in claim:
            value = value.get(name) if isinstance(value, dict) else None
        return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None

    return resolve


def from_context(scope: Scope) -> str | None:  # noqa: ARG001  # a `Resolver`
    """The tenant that a `context` around the request says."""
    return current().tenant_id


def constant(value: str) -> Resolver:
    """Always the same."""
    return lambda _scope: value


def first_of(*resolvers: Resolver) -> Resolver:
    """The first that has an answer.

    Raises:
        ValueError: there is none to ask.
    """
    if not resolvers or not all(callable(resolver) for resolver in resolvers):
        raise ValueError('name resolvers to be asked in turn: first_of(header("x-tenant"), query("tenant"))')

    def resolve(scope: Scope) -> str | None:
        for resolver in resolvers:
            found = resolved(resolver, scope)
            if found:
                return found
        return None

    return resolve


def resolved(resolver: Resolver | None, scope: Scope) -> str | None:
    """What a resolver says; None where there is none, or it raises."""
    if resolver is None:
        return None
    try:
        return resolver(scope)
    except Exception as error:  # noqa: BLE001  # an application's own function must not fail its request
        note("resolver_failed", "a function that tells a tenant, feature or model raised", error)
        return None


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _text(value: str) -> str:
    """Of a character for each byte."""
    return _decoded(value.encode("latin-1"))


_UNREADABLE = "\ufffd"
"""What a server puts in a path for bytes that are no UTF-8: of two tenants it may make one."""


def _note_ambiguous(what: str) -> None:
    note("ambiguous_label", f"{what} came twice, with two values: as if it were absent")
