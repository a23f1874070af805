"""Whose call it is: tenant, feature, model and attributes, carried along by context variables.

    with context(tenant_id="acme", feature_id="chat"):
        client.chat.completions.create(...)

What an inner context does not say, the outer one does; attributes are merged. Threads and tasks that are
started inside inherit it as the standard library has it: tasks, `asyncio.to_thread` and the thread pools of
Starlette and Litestar do, a bare `threading.Thread` does not.

What is said at the call wins over the context, and that over what was said at set-up.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

from metering.call import Call
from metering.event import ATTRIBUTE_VALUE_CHARS_MAX, ATTRIBUTES_MAX, LABEL_CHARS_MAX
from metering.generators import stepped, stepped_async
from metering.mishaps import note

Function = TypeVar("Function", bound=Callable[..., Any])

OnMissingTenant = Literal["anonymous", "reject", "skip"]
"""What becomes of a call that nobody has said the tenant of. There is no default: somebody pays for it.

`anonymous`: it is metered, for the tenant of that name. `reject`: it does not take place: `MissingTenant` is
raised (the middleware answers 400 instead). `skip`: it takes place and is not metered, which is counted and
logged.
"""

ANONYMOUS = "anonymous"

APP_ATTRIBUTES_MAX = ATTRIBUTES_MAX - 24
"""Of an application's own attributes: the rest of the contract's 64 is for units, and for what the SDK
adds."""


class MissingTenant(LookupError):
    """Nobody said whose call this is, and such calls were to be rejected (`on_missing_tenant="reject"`)."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Whose call, and what for. `None` means that it was not said."""

    tenant_id: str | None = None
    feature_id: str | None = None
    model: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def over(self, other: Labels) -> Labels:
        """These, and where they say nothing, the other's."""
        if other is NOTHING_SAID:
            return self
        if self is NOTHING_SAID:
            return other
        return Labels(
            self.tenant_id if self.tenant_id is not None else other.tenant_id,
            self.feature_id if self.feature_id is not None else other.feature_id,
            self.model if self.model is not None else other.model,
            {**other.attributes, **self.attributes} if self.attributes else other.attributes,
        )


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is said here, who said it, and what held around it."""

    said: Labels
    owner: object
    outer: _Frame | None


_current: ContextVar[_Frame | None] = ContextVar("metering_labels", default=None)
NOTHING_SAID = Labels()
"""As `labels()` gives it: there is one, for `over` to know."""


def labels(
    tenant_id: object = None,
    feature_id: object = None,
    model: object = None,
    attributes: Mapping[str, object] | None = None,
) -> Labels:
    """Labels within the contract's lengths, of whatever an application has at hand. Never raises.

    A string, an integer or a UUID is a label; None and the empty string say nothing. One that is too long is
    replaced by its SHA-256, so that spend stays with whom it belongs to.
    """
    if tenant_id is feature_id is model is attributes is None:
        return NOTHING_SAID
    return Labels(
        label(tenant_id, "tenant_id"),
        label(feature_id, "feature_id"),
        label(model, "model"),
        _attributes(attributes) if attributes else {},
    )


def label(value: object, name: str) -> str | None:
    """One label, or None where none was said. Never raises."""
    if type(value) is str and 0 < len(value) <= LABEL_CHARS_MAX:
        return value
    if isinstance(value, (int, UUID)) and not isinstance(value, bool):
        value = _text(value) or value
    if value is None or (isinstance(value, str) and not value):
        return None
    if not isinstance(value, str):
        note("label_unreadable", f"a {name} was no string, integer or UUID that can be written")
        return None
    if len(value) > LABEL_CHARS_MAX:
        note("label_too_long", f"a {name} of {len(value)} characters is named by its SHA-256")
        return "sha256-" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return value


def _text(value: object) -> str:
    """Its text; "" for a number of thousands of digits, which Python does not write, and where it raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # an application's own object
        return ""


def _attributes(attributes: object) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        # Another thread may change it meanwhile: a dictionary is copied in one step.
        said = dict(attributes) if isinstance(attributes, Mapping) else None
    except Exception as error:  # noqa: BLE001  # an application's own mapping
        note("attribute_left_out", "attributes could not be read", error)
        return found
    if said is None:
        note("attribute_left_out", "attributes were no mapping")
        return found
    for key, value in said.items():
        if value is None:
            continue
        text = _text(value) if isinstance(value, (str, int, float, UUID)) else ""
        fits = isinstance(key, str) and 1 <= len(key) <= LABEL_CHARS_MAX and text
        if not fits or len(text) > ATTRIBUTE_VALUE_CHARS_MAX or len(found) >= APP_ATTRIBUTES_MAX:
            note("attribute_left_out", "an attribute was too long, no text or number, or one too many")
            continue
        found[key] = text
    return found


def current() -> Labels:
    """What the contexts around the code that asks have said."""
    frame = _current.get()
    return frame.said if frame is not None else NOTHING_SAID


class context:  # noqa: N801  # read as a statement: with context(...)
    """Says whose calls these are: `with context(tenant_id="acme"):`, or as a decorator.

    As a decorator it takes functions, async functions, and generators of both kinds, which see it at each of
    their steps while the code that they yield to does not.
    """

    __slots__ = ("_labels",)

    def __init__(
        self,
        *,
        tenant_id: object = None,
        feature_id: object = None,
        model: object = None,
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        self._labels = labels(tenant_id, feature_id, model, attributes)

    @classmethod
    def of(cls, said: Labels) -> context:
        """A context of labels that are in order already."""
        made = cls()
        made._labels = said  # of its own kind
        return made

    def __enter__(self) -> Labels:
        outer = _current.get()
        said = self._labels.over(outer.said) if outer is not None else self._labels
        _current.set(_Frame(said, self, outer))
        return said

    def __exit__(self, *_: object) -> None:
        # No token is kept: one object may be entered in many tasks at a time, and left, when a forgotten
        # generator is closed, in a task that never entered it.
        frame = _current.get()
        if frame is not None and frame.owner is self:
            _current.set(frame.outer)

    def __call__(self, function: Function) -> Function:
        """The function, with this context around each of its runs."""
        said = self._labels
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            def stepping_async(*args: Any, **kwargs: Any) -> Any:
                return stepped_async(function(*args, **kwargs), lambda: context.of(said))

            return cast(Function, stepping_async)
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def stepping(*args: Any, **kwargs: Any) -> Any:
                return stepped(function(*args, **kwargs), lambda: context.of(said))

            return cast(Function, stepping)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaiting(*args: Any, **kwargs: Any) -> Any:
                with context.of(said):
                    return await function(*args, **kwargs)

            return cast(Function, awaiting)

        @functools.wraps(function)
        def calling(*args: Any, **kwargs: Any) -> Any:
            with context.of(said):
                return function(*args, **kwargs)

        return cast(Function, calling)


@dataclass(frozen=True, slots=True)
class Policy:
    """What was said at set-up: labels for calls that say none, and what to do where there is no tenant."""

    defaults: Labels
    on_missing_tenant: OnMissingTenant

    @classmethod
    def of(cls, defaults: Labels, on_missing_tenant: OnMissingTenant | None) -> Policy:
        """Checked, once, at set-up.

        Raises:
            ValueError: it is open what a call without a tenant is.
        """
        if on_missing_tenant is None and defaults.tenant_id is not None:
            on_missing_tenant = "reject"  # never asked: there is a tenant
        if on_missing_tenant not in ("anonymous", "reject", "skip"):
            raise ValueError(
                "say what becomes of a call without a tenant: on_missing_tenant is "
                '"anonymous", "reject" or "skip" (or name a tenant_id for all)'
            )
        return cls(defaults, on_missing_tenant)

    def call(self, said: Labels, *, model: str, provider: str, started_ms: int) -> Call | None:
        """The call that is about to begin; None where it is not to be metered.

        Args:
            said: What was said at the call itself, by nobody else.
            model: As the request has it; "" where it says none.
            started_ms: Now, in epoch milliseconds.

        Raises:
            MissingTenant: and only where the policy is to reject.
        """
        found = said.over(current()).over(self.defaults)
        tenant_id = found.tenant_id
        if tenant_id is None:
            if self.on_missing_tenant == "reject":
                raise MissingTenant(
                    "nobody said whose call this is: use `with context(tenant_id=...)`, or name one at set-up"
                )
            if self.on_missing_tenant == "skip":
                note("missing_tenant", "a call without a tenant is not metered")
                return None
            note("missing_tenant", f"a call without a tenant is metered for the tenant {ANONYMOUS!r}")
            tenant_id = ANONYMOUS
        return Call(
            tenant_id=tenant_id,
            model=label(model, "model") or found.model or "",
            started_ms=started_ms,
            feature_id=found.feature_id or "unknown",
            provider=provider,
            attributes=found.attributes,
        )
