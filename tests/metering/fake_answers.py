"""What the fake provider answers, in each API's own words: whole, and as the bytes of a stream's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

REASONING_TOKENS = 7
CREATED = 1_770_000_000

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its id, its model, and the words that were read and are said."""

    response_id: str
    model: str
    input_tokens: int
    words: tuple[str, ...]

    @classmethod
    def of(cls, response_id: str, body: Body) -> Answer:
        """The answer to a request."""
        asked = body.get("messages") or body.get("input") or ""
        count = body.get("max_tokens") or body.get("max_output_tokens") or 5
        return cls(response_id, body["model"], len(words_in(asked)), tuple(f"word{n} " for n in range(count)))

    @classmethod
    def again(cls, response_id: str, model: str, input_tokens: int) -> Answer:
        """An answer that is fetched."""
        return cls(response_id, model, input_tokens, tuple(f"word{n} " for n in range(5)))

    @property
    def output_tokens(self) -> int:
        """With the reasoning; embeddings have no output."""
        return len(self.words) + REASONING_TOKENS if self.response_id else 0

    @property
    def text(self) -> str:
        """All that it says."""
        return "".join(self.words)


def words_in(value: object) -> list[str]:
    """The words of all contents of messages, or of whatever input."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        return [word for one in value for word in words_in(one)]
    return words_in(value.get("content", value.get("text"))) if isinstance(value, dict) else []


def _event(data: Body, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


class _Chat:
    """OpenAI's Chat Completions."""

    def __call__(self, answer: Answer, _body: Body) -> Body:
        said = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        return {**self._head(answer, "chat.completion"), "choices": [choice], "usage": self._usage(answer)}

    def stream(self, answer: Answer, body: Body) -> Iterator[bytes]:
        head = self._head(answer, "chat.completion.chunk")
        is_told = bool((body.get("stream_options") or {}).get("include_usage"))
        null: Body = {"usage": None} if is_told else {}
        deltas: list[Body] = [
            {"role": "assistant", "content": ""},
            *({"content": word} for word in answer.words),
        ]
        for delta in deltas:
            yield _event({**head, **null, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield _event({**head, **null, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if is_told:
            yield _event({**head, "choices": [], "usage": self._usage(answer)})
        yield b"data: [DONE]\n\n"

    def _head(self, answer: Answer, kind: str) -> Body:
        return {"id": answer.response_id, "object": kind, "created": CREATED, "model": answer.model}

    def _usage(self, answer: Answer) -> Body:
        return {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.input_tokens + answer.output_tokens,
            "completion_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
        }


class _Response:
    """OpenAI's Responses."""

    def __call__(self, answer: Answer, body: Body) -> Body:
        if body.get("background"):
            return {**self._head(answer, "queued"), "background": True, "output": [], "usage": None}
        part = {"type": "output_text", "text": answer.text, "annotations": []}
        item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
        return {
            **self._head(answer, "completed"),
            "background": bool(body.get("fetched")),
            "output": [item],
            "usage": {
                "input_tokens": answer.input_tokens,
                "output_tokens": answer.output_tokens,
                "total_tokens": answer.input_tokens + answer.output_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
            },
        }

    def stream(self, answer: Answer, body: Body) -> Iterator[bytes]:
        begun = {**self._head(answer, "in_progress"), "output": [], "usage": None}
        item: Body = {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        part: Body = {"type": "output_text", "text": "", "annotations": []}
        at: Body = {"item_id": "m", "output_index": 0, "content_index": 0}
        events: list[Body] = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", **at, "part": part},
            *({"type": "response.output_text.delta", **at, "delta": w, "logprobs": []} for w in answer.words),
            {"type": "response.completed", "response": self(answer, body)},
        ]
        for number, event in enumerate(events):
            yield _event({**event, "sequence_number": number}, event["type"])

    def _head(self, answer: Answer, status: str) -> Body:
        return {
            "id": answer.response_id,
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "model": answer.model,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }


class _Message:
    """Anthropic's Messages."""

    def __call__(self, answer: Answer, _body: Body) -> Body:
        usage = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
        content = [{"type": "text", "text": answer.text}]
        return {**self._head(answer), "content": content, "stop_reason": "end_turn", "usage": usage}

    def stream(self, answer: Answer, _body: Body) -> Iterator[bytes]:
        begun = {"input_tokens": answer.input_tokens, "output_tokens": 1}
        head = {**self._head(answer), "content": [], "stop_reason": None, "usage": begun}
        events: list[Body] = [
            {"type": "message_start", "message": head},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in answer.words
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": answer.output_tokens},
            },
            {"type": "message_stop"},
        ]
        for event in events:
            yield _event(event, event["type"])

    def _head(self, answer: Answer) -> Body:
        return {
            "id": answer.response_id,
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "stop_sequence": None,
        }


def embeddings(answer: Answer, _body: Body) -> Body:
    """OpenAI's embeddings: no id, no output."""
    return {
        "object": "list",
        "model": answer.model,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens},
    }


chat, response, message = _Chat(), _Response(), _Message()
