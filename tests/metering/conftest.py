"""Instrumented clients of both SDKs, their fake provider, meter and clock; and a directory for a spool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from metering import observe
from metering.instrumentation import instrument
from metering.spool_directory import destination_directory
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider
from tests.metering.turned_clock import Clock


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: FakeProvider) -> FakeProvider:
    shared_provider.faults.clear()
    shared_provider.ledger.clear()
    shared_provider.asked.clear()
    return shared_provider


@pytest.fixture
def meter() -> CollectingMeter:
    return CollectingMeter()


@pytest.fixture
def client(provider: FakeProvider, meter: CollectingMeter) -> Iterator[Any]:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as made:
        yield instrument(made, meter, tenant_id="acme", provider="openai")


@pytest.fixture
def claude(provider: FakeProvider, meter: CollectingMeter) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=provider.url, api_key="none") as made:
        yield instrument(made, meter, tenant_id="acme", provider="anthropic")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return destination_directory(tmp_path / "spool", "topic@broker")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(observe, "time", made)
    return made
