"""The clock and the one record of a call, on a clock that the test turns."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from metering import mishaps, observe
from metering.call import Call
from metering.observe import OngoingCall
from metering.seen import AsItIsNow
from metering.streams import watched
from metering.usage import Usage
from tests.metering.collecting import CollectingMeter
from tests.metering.recording import ROOT
from tests.metering.stream_sources import CHUNKS
from tests.metering.turned_clock import Clock

CALL = Call(tenant_id="acme", model="gpt-4o", started_ms=1_770_000_000_000, provider="openai")
TOLD = Usage(model="gpt-4o", response_id="r", input_tokens=10, output_tokens=5)


def test_the_first_token_is_the_first_that_says_something(clock: Clock) -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL)
    for chunk in CHUNKS:
        clock.now += 0.25
        call.chunk(chunk)
    call.stopped()
    event = meter.event()
    assert event.latency_ms == 250 * len(CHUNKS)
    assert (event.attributes or {})["first_token_latency_ms"] == "500"  # the first chunk names a role alone


def test_where_no_chunk_says_anything_the_first_chunk_stands_in(clock: Clock) -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL)
    clock.now += 0.5
    call.chunk(CHUNKS[-1])
    clock.now += 0.5
    call.stopped()
    assert (meter.event().attributes or {})["first_token_latency_ms"] == "500"


def test_a_whole_answer_has_no_first_token(clock: Clock) -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL)
    clock.now += 1.5
    call.used([TOLD])
    assert (meter.event().latency_ms, meter.event().attributes) == (1500, {})


def test_a_clock_that_goes_back_makes_no_negative_time(clock: Clock) -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL)
    clock.now -= 5
    call.used([TOLD])
    assert meter.event().latency_ms == 0


def test_a_call_that_is_forgotten_is_recorded_as_one_of_which_nothing_is_known() -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL)
    del call
    gc.collect()
    assert [fields["output_tokens"] for fields in meter.fields()] == [None]


def test_what_was_told_stays_where_an_error_comes_after_it() -> None:
    class Overloaded(Exception):
        status_code = 529

    def source() -> Any:
        yield from CHUNKS
        raise Overloaded

    meter = CollectingMeter()
    with pytest.raises(Overloaded):
        list(watched(source(), OngoingCall(meter, CALL)))
    event = meter.event()
    assert (event.status, event.input_tokens, event.output_tokens) == ("error", 10, 5)


def test_what_was_asked_is_held_only_where_it_has_to_be_counted() -> None:
    meter = CollectingMeter()
    for usage in (TOLD, Usage(input_tokens=1), Usage()):
        OngoingCall(meter, CALL, lambda: {"model": "m"}).used([usage])
    assert [record.asked is not None for record in meter.records] == [False, True, True]


def test_no_text_is_in_a_records_repr() -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL, AsItIsNow({"messages": [{"role": "user", "content": "secret"}]}))
    call.end([Usage()], "secret", "success")
    assert "secret" not in repr(meter.records)
    assert (meter.records[0].output_text, meter.records[0].asked is None) == ("secret", False)


def test_a_record_that_is_expanded_twice_gives_the_same_key() -> None:
    meter = CollectingMeter()
    OngoingCall(meter, CALL).used([Usage(input_tokens=1, output_tokens=1)])
    assert meter.fields() == meter.fields()


KEYS_ON_BOTH_SIDES_OF_A_FORK = """
import os
from metering.call import Call, Ending
from metering.seen import Seen

def keys():
    call = Call(tenant_id="acme", model="m", started_ms=1)
    return [Seen(call, (), None, Ending(latency_ms=1), "").key_bytes.hex() for _ in range(1000)]

child = os.fork()
if child:
    os.waitpid(child, 0)
print("\\n".join(keys()), flush=True)
"""


def test_no_two_records_have_one_key_not_even_across_a_fork() -> None:
    command = [sys.executable, "-c", KEYS_ON_BOTH_SIDES_OF_A_FORK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(set(done.stdout.split())) == 2000


def test_what_cannot_be_read_is_counted_and_the_event_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    def asked() -> Any:
        raise RuntimeError("secret")

    before = mishaps.counts()["request_unread"]
    meter = CollectingMeter()
    with caplog.at_level(logging.DEBUG):
        OngoingCall(meter, CALL, asked).used([])
        assert len(meter.fields()) == 1
    assert mishaps.counts()["request_unread"] == before + 1
    assert "secret" not in caplog.text


def test_the_span_is_that_in_which_the_call_was_made() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("mine"):
        call = OngoingCall(CollectingMeter(), CALL)
        with tracer.start_as_current_span("of somebody else"):
            call.used([TOLD])
    OngoingCall(CollectingMeter(), CALL).used([TOLD])  # without a span nothing happens
    found = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    assert found["of somebody else"] == {}
    assert found["mine"]["gen_ai.usage.input_tokens"] == 10
    assert not trace.get_current_span().is_recording()


def read_one(call: OngoingCall) -> Any:
    stream = watched(iter(CHUNKS), call)
    next(stream)
    return stream


def in_a_block(call: OngoingCall) -> Any:
    class Stream:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return CHUNKS[0]

    def chunks() -> Any:
        with watched(Stream(), call) as stream:
            yield from stream

    source = chunks()
    next(source)
    return source


@pytest.mark.parametrize("begin", [lambda call: [call], read_one, in_a_block])
def test_a_call_that_is_forgotten_while_its_span_is_being_told_something_holds_nobody_up(begin: Any) -> None:
    tracer = TracerProvider().get_tracer("test")
    meter = CollectingMeter()

    def run() -> None:
        with tracer.start_as_current_span("mine") as span:
            held = [begin(OngoingCall(meter, CALL))]
            with span._lock:  # type: ignore[attr-defined]  # noqa: SLF001  # as `set_attributes` does
                held.clear()  # as the garbage collector, which comes at any moment
                gc.collect()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(meter.fields()) == 1


def test_of_many_threads_that_end_a_call_one_records_it() -> None:
    meter = CollectingMeter()
    for _ in range(50):
        call, barrier = OngoingCall(meter, CALL), threading.Barrier(4)

        def end(call: OngoingCall = call, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            call.used([TOLD])

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(meter.records) == 50


FORKING_PROGRAM = """
import os, sys
from metering.call import Call
from metering.observe import OngoingCall
from metering.streams import watched
class Meter:
    def record(self, seen):
        print(f"{seen.call.tenant_id} in the {place}", flush=True)
place = "parent"
stream = watched(iter([1, 2]), OngoingCall(Meter(), Call("parent's", "m", 1)))
next(stream)
child = os.fork()
if child == 0:
    place = "child"
    list(watched(iter([1, 2]), OngoingCall(Meter(), Call("child's", "m", 1))))
    sys.exit(0)
os.waitpid(child, 0)
"""


def test_a_forked_child_records_its_own_calls_and_leaves_the_parents_to_the_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING_PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["child's in the child", "parent's in the parent"]
    assert (done.returncode, done.stderr) == (0, "")


# What is recorded after the meter has closed is lost; the meter is there first, so that it closes last.
PROGRAM = """
import atexit
from metering.call import Call
from metering.observe import OngoingCall
from metering.streams import watched
class Meter:
    records, is_open = [], True
    def record(self, seen):
        if self.is_open:
            [event] = seen.events()
            print(event["status"], event["attributes"]["stream"])
    def close(self):
        self.is_open = False
meter = Meter()
atexit.register(meter.close)
stream = watched(iter([1, 2]), OngoingCall(meter, Call("acme", "m", 1)))
next(stream)
"""


def test_a_program_that_ends_in_the_middle_of_a_stream_loses_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "success cut\n", "")


MULTIPROCESSING_PROGRAM = """
import multiprocessing, sys
from metering.call import Call
from metering.meter import Meter
from metering.observe import OngoingCall
from metering.streams import watched
def work(place):
    meter = Meter(f"file://{place}")
    held.append(watched(iter([1, 2]), OngoingCall(meter, Call("of the child", "m", 1))))
    next(held[0])
held = []
if __name__ == "__main__":
    work(sys.argv[1] + ".parent")
    child = multiprocessing.get_context(sys.argv[2]).Process(target=work, args=(sys.argv[1],))
    child.start()
    child.join()
"""


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_child_of_multiprocessing_that_ends_in_the_middle_of_a_stream_loses_nothing(
    way: str, tmp_path: Path
) -> None:
    program, place = tmp_path / "program.py", tmp_path / "events"
    program.write_text(MULTIPROCESSING_PROGRAM)
    command = [sys.executable, str(program), str(place), way]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stderr.count("Error")) == (0, 0), done.stderr
    for file in (place, tmp_path / "events.parent"):
        assert [json.loads(line)["attributes"]["stream"] for line in file.read_text().splitlines()] == ["cut"]


def test_calls_may_begin_and_end_while_the_process_does() -> None:
    meter, ended = CollectingMeter(), threading.Event()

    def begin_and_end() -> None:
        while not ended.is_set():
            for call in [OngoingCall(meter, CALL) for _ in range(5)]:
                call.forget()

    threads = [threading.Thread(target=begin_and_end) for _ in range(3)]
    for thread in threads:
        thread.start()
    held = [OngoingCall(meter, CALL) for _ in range(20_000)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            observe.end_open_calls()
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        for thread in threads:
            thread.join()
    assert all(call.is_over for call in held)


def read_later(call: OngoingCall) -> None:
    call.end(lambda: ([TOLD], "", True), "", "success")


@pytest.mark.parametrize("end", [read_later, read_one, lambda _: None])
def test_of_an_answer_that_is_read_later_or_left_the_span_bears_the_mark_alone(end: Any) -> None:
    provider = TracerProvider()
    with provider.get_tracer("test").start_as_current_span("mine") as span:
        end(OngoingCall(CollectingMeter(), CALL))
    assert dict(getattr(span, "attributes", {})) == {"meterline.recorded": True}
