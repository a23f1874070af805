"""Background responses, and such as are fetched: metered once, for whom they were created."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from metering import background, mishaps
from metering.contexts import context
from metering.instrumentation import instrument
from tests.metering.asking import ASK_RESPONSE, TEXT, said
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_answers import CREATED
from tests.metering.fake_provider import FakeProvider


def test_a_background_response_is_metered_when_it_is_fetched_and_once_by_its_key(
    client: Any, meter: CollectingMeter
) -> None:
    made = client.responses.create(**ASK_RESPONSE, background=True)
    assert meter.records == []
    client.responses.retrieve(made.id)
    client.responses.cancel(made.id)
    first, again = meter.events()
    assert (first.idempotency_key, first.output_tokens) == (f"{made.id}-1", 12)
    assert first.timestamp_ms == CREATED * 1000
    assert again.model_copy(update={"latency_ms": first.latency_ms}) == first


@pytest.mark.parametrize("on_missing_tenant", ["anonymous", "reject", "skip"])
@pytest.mark.parametrize("is_created_here", [True, False])
def test_a_background_response_is_for_whom_it_was_created(
    provider: FakeProvider, on_missing_tenant: Any, is_created_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = CollectingMeter()
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, on_missing_tenant=on_missing_tenant, provider="openai")
        with context(tenant_id="acme", feature_id="chat"):
            made = client.responses.create(**ASK_RESPONSE, background=True)
        if not is_created_here:
            monkeypatch.setattr(background, "_created", {})
        before = mishaps.counts()["missing_tenant"]
        client.responses.retrieve(made.id)
        with context(tenant_id="acme", feature_id="poll"):
            client.responses.retrieve(made.id)
    found = [(event.tenant_id, event.feature_id) for event in meter.events()]
    assert found == ([("acme", "chat")] * 2 if is_created_here else [("acme", "poll")])
    assert mishaps.counts()["missing_tenant"] == before + (not is_created_here)


def test_what_is_remembered_of_background_responses_has_a_bound(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "CREATED_MAX", 2)
    monkeypatch.setattr(background, "_created", {})
    made = [client.responses.create(**ASK_RESPONSE, background=True).id for _ in range(3)]
    assert list(background._created) == made[1:]  # noqa: SLF001  # the bound is the point


def test_a_response_that_is_fetched_again_is_no_second_one(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    made = client.responses.create(**ASK_RESPONSE)
    assert client.responses.retrieve(made.id).output_text == TEXT
    assert len(said(provider, meter)) == 1


def test_a_response_that_is_fetched_as_a_stream_is_counted(client: Any, meter: CollectingMeter) -> None:
    made = client.responses.create(**ASK_RESPONSE, background=True)
    before = mishaps.counts()["endpoint_not_metered"]
    client.responses.retrieve(made.id, stream=True).close()
    assert mishaps.counts()["endpoint_not_metered"] == before + 1
    assert meter.records == []
