"""The outbox: what waits, what is remembered, and what its bounds let go of."""

from __future__ import annotations

import pytest

from sinks import outbox as outbox_module
from sinks.outbox import GivenUpDelivery, Outbox, OutboxCounts, Pruned
from tests.sinks.outbox_messages import DAY_MS, due_ids, message


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
