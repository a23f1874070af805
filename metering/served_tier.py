"""The tier that served an answer, in the words of rate cards: what was billed, never what was asked for."""

from __future__ import annotations

_ASKED_ONLY = "auto"
"""A request says so to leave the tier to its project's settings; no answer is billed by it."""

_PLAIN = ("", "default", "standard")
"""What providers call the tier, and the speed, that nobody asked for. Cards know all three."""


def openai_tier(said: str) -> str:
    """The tier of an answer in OpenAI's words; "" where it does not say.

    `fast` and `priority` ask for one tier, which answers call `priority` (openai 3.57.0, `ServiceTier`).
    """
    if said == _ASKED_ONLY:
        return ""
    return "priority" if said == "fast" else said


def tier_with_speed(tier: str, speed: str) -> str:
    """One name for a tier and a speed that both have a price: `fast`, or the two where both are special."""
    if speed in _PLAIN:
        return tier
    return speed if tier in _PLAIN else f"{tier}-{speed}"
