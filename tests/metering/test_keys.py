"""Keys are made once and never twice the same."""

import uuid

from metering.keys import random_key


def test_a_key_without_a_response_id_is_a_uuid_of_version_7() -> None:
    key = uuid.UUID(random_key(0x0123456789AB, bytes(range(240, 250))))
    assert (key.version, key.variant) == (7, uuid.RFC_4122)
    assert key.int >> 80 == 0x0123456789AB


def test_a_clock_that_stands_still_makes_no_key_twice() -> None:
    keys = {random_key(1, number.to_bytes(10, "big")) for number in range(1000)}
    assert len(keys) == 1000  # the low 62 bits are all random
