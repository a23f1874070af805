"""The outbox: what waits, what is remembered, what a crash leaves, and what its bounds let go of."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sinks import outbox as outbox_module
from sinks.outbox import GivenUpDelivery, Outbox, OutboxCounts, OutboxError, OutboxMessage, Pruned

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def message(name: str, body: bytes = b"{}") -> OutboxMessage:
    return OutboxMessage(id=f"alert_{name}", type="cap.threshold_reached", timestamp_ms=1_000, body=body)


def due_ids(outbox: Outbox, endpoint: str, now_ms: int = 10**13) -> list[str]:
    return [delivery.message.id for delivery in outbox.due(endpoint, now_ms, 100)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    outbox = Outbox.open(path)
    yield outbox
    outbox.close()


def test_a_message_is_due_at_every_endpoint_that_it_was_put_for(outbox: Outbox) -> None:
    outbox.put([message("a"), message("b")], ["ops", "billing"])

    assert due_ids(outbox, "ops") == ["alert_a", "alert_b"]
    assert due_ids(outbox, "billing") == ["alert_a", "alert_b"]
    assert due_ids(outbox, "somebody-else") == []
    assert [delivery.message for delivery in outbox.due("ops", 0, limit=1)] == [message("a")]


def test_putting_again_adds_only_what_is_new_and_the_first_body_stays(outbox: Outbox) -> None:
    outbox.put([message("a", b"first")], ["ops"])
    outbox.record_delivered("alert_a", "ops", 5)

    outbox.put([message("a", b"second"), message("b")], ["ops", "billing"])

    assert due_ids(outbox, "ops") == ["alert_b"]
    assert [delivery.message.body for delivery in outbox.due("billing", 0, 9)] == [b"first", b"{}"]


def test_what_nobody_is_to_receive_is_not_kept(outbox: Outbox) -> None:
    outbox.put([message("a")], [])
    outbox.put([message("a")], ["ops"])

    assert due_ids(outbox, "ops") == ["alert_a"]


def test_a_failed_delivery_waits_for_its_next_attempt_and_then_comes_before_newer_ones(
    outbox: Outbox,
) -> None:
    outbox.put([message("a")], ["ops"])
    outbox.record_failed("alert_a", "ops", 1_000, 6_000, "HTTP 500")
    outbox.put([message("b")], ["ops"])
    outbox.record_failed("alert_b", "ops", 1_000, 7_000, "HTTP 500")

    assert due_ids(outbox, "ops", 5_999) == []
    assert due_ids(outbox, "ops", 6_000) == ["alert_a"]
    assert due_ids(outbox, "ops", 7_000) == ["alert_a", "alert_b"]
    assert [delivery.attempts for delivery in outbox.due("ops", 7_000, 9)] == [1, 1]


def test_given_up_is_listed_and_can_be_sent_again_from_the_first_attempt_on(outbox: Outbox) -> None:
    outbox.put([message("a")], ["ops"])
    outbox.record_failed("alert_a", "ops", 1_000, 2_000, "HTTP 500")
    outbox.record_failed("alert_a", "ops", 3_000, None, "HTTP 503")

    assert outbox.given_up(10) == [GivenUpDelivery("alert_a", "ops", 2, 3_000, "HTTP 503")]
    assert due_ids(outbox, "ops") == []
    assert outbox.counts() == OutboxCounts(pending=0, delivered=0, given_up=1, disabled_endpoints=0)

    assert outbox.retry_given_up() == 1
    assert [(due.message.id, due.attempts) for due in outbox.due("ops", 0, 9)] == [("alert_a", 0)]
    assert outbox.given_up(10) == []


def test_a_delivery_that_arrives_after_all_counts_as_delivered(outbox: Outbox) -> None:
    outbox.put([message("a")], ["ops"])
    outbox.record_failed("alert_a", "ops", 1_000, None, "no answer")
    outbox.record_delivered("alert_a", "ops", 2_000)
    outbox.record_failed("alert_a", "ops", 3_000, 4_000, "an answer that came too late")

    assert outbox.counts() == OutboxCounts(pending=0, delivered=1, given_up=0, disabled_endpoints=0)


def test_a_disabled_endpoint_gets_nothing_and_nothing_of_it_is_lost(outbox: Outbox) -> None:
    outbox.put([message("a")], ["ops", "billing"])
    outbox.disable_endpoint("ops", 1_000, "HTTP 410")
    outbox.put([message("b")], ["ops", "billing"])

    assert due_ids(outbox, "ops") == []
    assert due_ids(outbox, "billing") == ["alert_a", "alert_b"]
    assert outbox.disabled_endpoints() == {"ops": "HTTP 410"}
    assert outbox.counts() == OutboxCounts(pending=2, delivered=0, given_up=2, disabled_endpoints=1)
    assert {(given.message_id, given.reason) for given in outbox.given_up(9)} == {
        ("alert_a", "HTTP 410"),
        ("alert_b", "HTTP 410"),
    }
    assert outbox.retry_given_up() == 0

    outbox.enable_endpoint("ops")
    assert outbox.retry_given_up() == 2
    assert due_ids(outbox, "ops") == ["alert_a", "alert_b"]


def test_what_waits_for_an_endpoint_that_left_the_configuration_is_given_up(outbox: Outbox) -> None:
    outbox.put([message("a"), message("b")], ["old", "ops"])

    assert outbox.retire_unconfigured(["ops"], 9_000) == 2
    assert outbox.retire_unconfigured(["ops"], 9_000) == 0
    assert due_ids(outbox, "ops") == ["alert_a", "alert_b"]
    assert {given.reason for given in outbox.given_up(9)} == {"the endpoint is no longer configured"}


@pytest.mark.parametrize(
    ("endpoints", "delivered_to", "reported"),
    [
        (["ops"], [], []),
        (["ops"], [("ops", 5)], [("alert_a", 5)]),
        (["ops", "billing"], [("ops", 5)], []),
        (["ops", "billing"], [("ops", 5), ("billing", 8)], [("alert_a", 8)]),
        (["ops", "kafka:caps"], [("ops", 5)], [("alert_a", 5)]),
        (["ops", "kafka:caps"], [("kafka:caps", 5)], []),
        (["kafka:caps"], [("kafka:caps", 5)], []),
    ],
    ids=lambda value: str(value).replace("'", ""),
)
def test_a_message_is_reported_when_the_last_webhook_has_it(
    outbox: Outbox, endpoints: list[str], delivered_to: list[tuple[str, int]], reported: list[tuple[str, int]]
) -> None:
    outbox.put([message("a")], endpoints)
    for endpoint, at_ms in delivered_to:
        outbox.record_delivered("alert_a", endpoint, at_ms)

    assert outbox.unrecorded_deliveries(10) == reported


def test_a_delivery_is_reported_until_it_is_marked(outbox: Outbox) -> None:
    outbox.put([message("a"), message("b"), message("c")], ["ops"])
    outbox.record_delivered("alert_b", "ops", 7)
    outbox.record_delivered("alert_a", "ops", 8)

    assert outbox.unrecorded_deliveries(1) == [("alert_a", 8)]
    assert outbox.unrecorded_deliveries(9) == [("alert_a", 8), ("alert_b", 7)]
    outbox.mark_recorded(["alert_a", "alert_c", "alert_unheard_of"])
    assert outbox.unrecorded_deliveries(9) == [("alert_b", 7)]
    outbox.record_delivered("alert_c", "ops", 9)
    assert outbox.unrecorded_deliveries(9) == [("alert_b", 7), ("alert_c", 9)]


def test_only_what_everybody_has_and_what_is_reported_leaves_and_only_after_seven_days(
    outbox: Outbox,
) -> None:
    outbox.put([message("done"), message("unreported"), message("half"), message("late")], ["ops", "billing"])
    outbox.put([message("state")], ["kafka:caps"])
    for name, endpoint, at_ms in [
        ("done", "ops", 0), ("done", "billing", 0), ("unreported", "ops", 0), ("unreported", "billing", 0),
        ("half", "ops", 0), ("late", "ops", 0), ("late", "billing", DAY_MS), ("state", "kafka:caps", 0),
    ]:  # fmt: skip
        outbox.record_delivered(f"alert_{name}", endpoint, at_ms)
    outbox.mark_recorded(["alert_done", "alert_late"])

    assert outbox.prune(7 * DAY_MS - 1) == Pruned(delivered=0, given_up=0)
    assert outbox.prune(7 * DAY_MS) == Pruned(delivered=2, given_up=0)
    assert outbox.prune(8 * DAY_MS) == Pruned(delivered=1, given_up=0)
    assert outbox.counts() == OutboxCounts(pending=1, delivered=3, given_up=0, disabled_endpoints=0)
    assert outbox.unrecorded_deliveries(9) == [("alert_unreported", 0)]


def test_given_up_is_kept_whatever_its_age_and_only_the_bound_lets_go_of_it(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "GIVEN_UP_MAX", 2)
    monkeypatch.setattr(outbox_module, "_PRUNE_STEP", 2)
    outbox.put([message("waits")], ["ops", "billing"])
    outbox.put([message("1"), message("2")], ["ops"])
    for name in ("waits", "1", "2"):
        outbox.record_failed(f"alert_{name}", "ops", 0, None, "HTTP 500")
    outbox.prune(1_000 * DAY_MS)
    assert [given.message_id for given in outbox.given_up(9)] == ["alert_2", "alert_1", "alert_waits"]

    outbox.put([message("3")], ["ops"])
    outbox.record_failed("alert_3", "ops", 0, None, "HTTP 500")

    assert outbox.prune(0) == Pruned(delivered=0, given_up=1)
    assert [given.message_id for given in outbox.given_up(9)] == ["alert_3", "alert_2", "alert_waits"]
    assert "let go of the 1 oldest" in caplog.text


def test_what_a_full_outbox_cannot_let_wait_is_given_up_and_listed(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "PENDING_MAX", 2)
    outbox.put([message("1"), message("2")], ["ops"])
    outbox.put([message("1"), message("3")], ["ops", "billing"])

    assert due_ids(outbox, "ops") == ["alert_1", "alert_2"]
    assert due_ids(outbox, "billing") == ["alert_1", "alert_3"]
    assert outbox.given_up(9) == [GivenUpDelivery("alert_3", "ops", 0, 1_000, "2 messages already waited")]


def test_everything_is_still_there_after_a_kill(path: Path) -> None:
    child = """
import os, signal, sys
from sinks.outbox import Outbox, OutboxMessage
outbox = Outbox.open(sys.argv[1])
outbox.put([OutboxMessage(f"alert_{i}", "t", 0, b"body") for i in range(3)], ["ops"])
outbox.record_delivered("alert_0", "ops", 5)
outbox.record_failed("alert_1", "ops", 6, 7, "HTTP 500")
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(outbox_module.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", child, str(path)], cwd=root, check=False).returncode == -9

    outbox = Outbox.open(path)
    assert due_ids(outbox, "ops", 6) == ["alert_2"]
    assert due_ids(outbox, "ops", 7) == ["alert_2", "alert_1"]
    assert outbox.unrecorded_deliveries(9) == [("alert_0", 5)]
    outbox.close()


def test_every_commit_is_synced(outbox: Outbox) -> None:
    settings_of_file = [
        outbox._connection.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: SLF001 - nothing else shows them
        for name in ("journal_mode", "synchronous")
    ]
    assert settings_of_file == ["wal", 2]


def test_a_second_process_may_open_the_same_file(path: Path, outbox: Outbox) -> None:
    other = Outbox.open(path)
    outbox.put([message("a")], ["ops"])
    other.record_delivered("alert_a", "ops", 5)
    assert outbox.unrecorded_deliveries(9) == [("alert_a", 5)]
    other.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)


def _damage(path: Path) -> None:
    outbox = Outbox.open(path)
    outbox.put([message(str(number), b"x" * 500) for number in range(200)], ["ops"])
    outbox.close()
    content = bytearray(path.read_bytes())
    content[8_192:40_960] = b"\xa5" * (40_960 - 8_192)
    path.write_bytes(content)


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE somebody_elses (column)")
    connection.close()


def _newer(path: Path) -> None:
    Outbox.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_garbage, "is damaged"),
        (_damage, "is damaged"),
        (_foreign, "is a database of something else"),
        (_newer, "was written by a newer Meterline"),
        (_directory, "cannot be used: unable to open database file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_sentence(
    path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(path)

    with pytest.raises(OutboxError, match=sentence) as raised:
        Outbox.open(path)
    assert str(path) in str(raised.value)


def test_a_closed_outbox_says_so(path: Path) -> None:
    outbox = Outbox.open(path)
    outbox.close()
    outbox.close()
    with pytest.raises(OutboxError, match="closed database"):
        outbox.due("ops", 0, 1)
    with pytest.raises(OutboxError, match="closed database"):
        outbox.put([message("a")], ["ops"])


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
