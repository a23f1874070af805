"""Keys are made once and never twice the same."""

import itertools
import uuid

import pytest

from metering.keys import is_unique, process_key, response_key


@pytest.mark.parametrize(
    ("response_id", "expected"),
    [
        # Of providers.
        ("chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", True),  # OpenAI
        ("resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b", True),
        ("msg_01XFDUDYJgAACzvnptvVoYEL", True),  # Anthropic
        ("msg_bdrk_01XFDUDYJgAACzvnptvVoYEL", True),
        ("msg_vrtx_01XFDUDYJgAACzvnptvVoYEL", True),
        ("0b2a9e2c-6f1d-4c55-9d7e-3a2b1c0d9e8f", True),  # Converse's request ids, DeepSeek, xAI
        ("mAitaLmkHPPlz7IPvtfUqQ4", True),  # Gemini
        ("e5cc70bb28c444948073e77776eb30ef", True),  # Mistral
        ("8f1c2a3b4d5e6f70", True),  # Together
        # Of gateways and servers.
        ("gen-1770000000-AbCdEfGhIjKlMnOpQrSt", True),  # OpenRouter
        ("chatcmpl-0b2a9e2c-6f1d-4c55-9d7e-3a2b1c0d9e8f", True),  # LiteLLM, Groq
        ("chatcmpl-e5cc70bb28c444948073e77776eb30ef", True),  # vLLM
        ("chatcmpl-XyQ1cOJ7mDmM4fGq3mVb0Tt2sWn9aLkE", True),  # llama.cpp
        ("chatcmpl-1770000000123456789", True),  # text-generation-webui: nanoseconds
        # Of servers that count, draw from a few, or take the time.
        ("chatcmpl-998", False),  # Ollama
        ("resp_999999", False),
        ("msg_7", False),
        ("chatcmpl-1770000000", False),
        ("chatcmpl-1770000000123", False),
        ("chat_completion-1770000000", False),
        ("chatcmpl-A1", False),
        ("0", False),
        ("", False),
        # On both sides of the bound.
        ("x" * 16, True),
        ("x" * 15, False),
        ("req-" + "x" * 16, True),
        ("req-" + "x" * 15, False),
    ],
)
def test_an_id_is_unique_if_it_is_long(response_id: str, expected: bool) -> None:
    assert is_unique(response_id) is expected


def test_whatever_an_id_ends_in_no_other_has_its_keys() -> None:
    ids = ["a", "a-1", "a-1-1", "a/1", "a-1/1", "a/1-1"]
    keys = [response_key(*part) for part in itertools.product(ids, (1, 2), (0, 1, 2))]
    assert len(set(keys)) == len(keys)


def test_a_key_without_a_response_id_is_a_uuid_of_version_7() -> None:
    key = uuid.UUID(process_key(0x0123456789AB, bytes(range(240, 250))))
    assert (key.version, key.variant) == (7, uuid.RFC_4122)
    assert key.int >> 80 == 0x0123456789AB


def test_a_clock_that_stands_still_makes_no_key_twice() -> None:
    keys = {process_key(1, number.to_bytes(10, "big")) for number in range(1000)}
    assert len(keys) == 1000  # all of the low 62 bits are the number's
