"""The outbox beside a dictionary that does the same, over any order of calls."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sinks.outbox import Outbox, OutboxCounts
from tests.sinks.outbox_messages import message


@dataclass
class Expected:
    """One delivery as a plain value: the oracle of the state machine below."""

    state: Literal["pending", "delivered", "given_up"] = "pending"
    attempts: int = 0
    next_attempt_ms: int = 0
    webhook: bool = True


@dataclass
class Oracle:
    deliveries: dict[tuple[str, str], Expected] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)


NAMES = st.sampled_from(["a", "b", "c"])
ENDPOINTS = st.sampled_from(["ops", "billing", "kafka:caps"])


class OutboxAgreesWithADictionary(RuleBasedStateMachine):
    """Any order of calls, with the file closed and opened in between, behaves like a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "outbox.sqlite3"
        self.outbox = Outbox.open(self.path)
        self.oracle = Oracle()

    def teardown(self) -> None:
        self.outbox.close()
        self.directory.cleanup()

    @rule(names=st.lists(NAMES, max_size=3), endpoints=st.lists(ENDPOINTS, max_size=3))
    def put(self, names: list[str], endpoints: list[str]) -> None:
        self.outbox.put([message(name) for name in names], endpoints)
        for name in names:
            for endpoint in endpoints:
                state: Literal["pending", "given_up"] = (
                    "given_up" if endpoint in self.oracle.disabled else "pending"
                )
                self.oracle.deliveries.setdefault(
                    (message(name).id, endpoint), Expected(state, webhook=not endpoint.startswith("kafka:"))
                )

    @rule(name=NAMES, endpoint=ENDPOINTS)
    def deliver(self, name: str, endpoint: str) -> None:
        self.outbox.record_delivered(message(name).id, endpoint, 5)
        delivery = self.oracle.deliveries.get((message(name).id, endpoint))
        if delivery is not None and delivery.state != "delivered":
            delivery.state = "delivered"
            delivery.attempts += 1

    @rule(name=NAMES, endpoint=ENDPOINTS, next_attempt_ms=st.none() | st.integers(1, 50))
    def fail(self, name: str, endpoint: str, next_attempt_ms: int | None) -> None:
        self.outbox.record_failed(message(name).id, endpoint, 5, next_attempt_ms, "HTTP 500")
        delivery = self.oracle.deliveries.get((message(name).id, endpoint))
        if delivery is not None and delivery.state == "pending":
            delivery.state = "given_up" if next_attempt_ms is None else "pending"
            delivery.next_attempt_ms = next_attempt_ms or 0
            delivery.attempts += 1

    @rule(endpoint=ENDPOINTS)
    def disable(self, endpoint: str) -> None:
        self.outbox.disable_endpoint(endpoint, 5, "HTTP 410")
        self.oracle.disabled.add(endpoint)
        for (_, name), delivery in self.oracle.deliveries.items():
            if name == endpoint and delivery.state == "pending":
                delivery.state = "given_up"

    @rule(endpoint=ENDPOINTS)
    def enable(self, endpoint: str) -> None:
        self.outbox.enable_endpoint(endpoint)
        self.oracle.disabled.discard(endpoint)

    @rule()
    def retry(self) -> None:
        self.outbox.retry_given_up()
        for (_, endpoint), delivery in self.oracle.deliveries.items():
            if delivery.state == "given_up" and endpoint not in self.oracle.disabled:
                delivery.state, delivery.attempts, delivery.next_attempt_ms = "pending", 0, 0

    @rule()
    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = Outbox.open(self.path)

    @invariant()
    def everything_agrees(self) -> None:
        expected = self.oracle.deliveries
        for endpoint in ("ops", "billing", "kafka:caps"):
            for now_ms in (0, 25, 50):
                due = {(due.message.id, due.attempts) for due in self.outbox.due(endpoint, now_ms, 99)}
                assert due == {
                    (name, delivery.attempts)
                    for (name, of), delivery in expected.items()
                    if of == endpoint and delivery.state == "pending" and delivery.next_attempt_ms <= now_ms
                }
        assert {(given.message_id, given.endpoint, given.attempts) for given in self.outbox.given_up(99)} == {
            (*key, delivery.attempts) for key, delivery in expected.items() if delivery.state == "given_up"
        }
        states = [delivery.state for delivery in expected.values()]
        assert self.outbox.counts() == OutboxCounts(
            states.count("pending"), states.count("delivered"), states.count("given_up"),
            len(self.oracle.disabled),
        )  # fmt: skip


TestOutboxAgreesWithADictionary = OutboxAgreesWithADictionary.TestCase
TestOutboxAgreesWithADictionary.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
