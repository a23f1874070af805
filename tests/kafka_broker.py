"""A real Apache Kafka for tests and development: one KRaft node on loopback, made of the jars in pom.xml.

python -m tests.kafka_broker serve [--port N]    until Ctrl-C
python -m tests.kafka_broker run -- COMMAND...   while COMMAND runs, with METERLINE_TEST_KAFKA set for it

Topics are created on first use with four partitions, as librdkafka's mock cluster does, so that a test
means the same on both. Nothing is kept: the data directory is new at each start and removed at the end.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

BOOTSTRAP_VARIABLE = "METERLINE_TEST_KAFKA"

_ROOT = Path(__file__).resolve().parents[1]
_POM = _ROOT / "tests" / "pom.xml"
_CACHE = _ROOT / ".kafka"

JAVA_MAJOR_MIN = 17  # Kafka 4's brokers run on nothing older
HEAP_MB = 512
PROPERTIES = "server.properties"
RESOLVE_SECONDS_MAX = 900  # 45 MB of jars, once, over a slow line
FORMAT_SECONDS_MAX = 60
START_SECONDS_MAX = 60  # a start takes 3 s; two busy cores stretch that
STOP_SECONDS_MAX = 20  # an orderly stop takes 1 s; after this it is killed, and nothing of value is lost
LOG_LINES_SHOWN_MAX = 30


class BrokerUnavailable(Exception):
    """The broker cannot run here; the message is one sentence for the reader."""


@dataclass
class Broker:
    """A broker with a data directory, which it keeps when it is killed and started again."""

    data: Path
    jars: Path
    port: int
    controller_port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def bootstrap(self) -> str:
        """Its address, "127.0.0.1:PORT"."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its Java process."""
        return self._running().pid

    def start(self) -> None:
        """Return once it answers a metadata request.

        Raises:
            BrokerUnavailable: it does not.
        """
        log = self.data / "broker.log"
        with log.open("ab") as output:
            # A session of its own keeps Ctrl-C from reaching Java before the tests have finished with it.
            self._process = subprocess.Popen(
                [*_java(self.jars), "kafka.Kafka", str(self.data / PROPERTIES)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait_until_it_answers(self._process, self.bootstrap, log)

    def kill(self) -> None:
        """`kill -9`."""
        self._running().kill()
        self._running().wait()

    def stop(self) -> None:
        """End it, in order if it can be."""
        if self._process is not None:
            _stop(self._process)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process


@contextmanager
def running_broker(port: int | None = None) -> Iterator[Broker]:
    """Start a broker, yield it once it answers, and stop it at the end.

    Args:
        port: Where it listens on 127.0.0.1; a free port by default.

    Raises:
        BrokerUnavailable: no Java, no Maven, jars that do not resolve, or a broker that does not start.
    """
    jars = _resolve_jars()
    data = Path(tempfile.mkdtemp(prefix="meterline-kafka-"))
    try:
        broker_port, controller_port = _free_ports(port)
        _format_storage(jars, _write_properties(data, broker_port, controller_port))
        broker = Broker(data, jars, broker_port, controller_port)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _java(jars: Path) -> list[str]:
    return [
        "java",
        f"-Xmx{HEAP_MB}m",
        "-XX:+UseSerialGC",  # one small node beside the tests: fewer threads matter more than pauses
        "-Djava.awt.headless=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{jars}/*",
    ]


def _resolve_jars() -> Path:
    """The directory of the broker's jars, from the cache or through Maven."""
    _require_tools()
    jars = _CACHE / hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]
    if jars.is_dir():
        return jars
    _CACHE.mkdir(exist_ok=True)
    print("Maven resolves the broker's jars (once)", file=sys.stderr, flush=True)
    # Filled beside its place and then renamed, so that an interrupted download never looks complete.
    with tempfile.TemporaryDirectory(dir=_CACHE, prefix="resolving-") as unfinished:
        copied = Path(unfinished) / "jars"
        command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={copied}"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=RESOLVE_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerUnavailable(
                f"Maven did not resolve tests/pom.xml in {RESOLVE_SECONDS_MAX} s."
            ) from error
        if done.returncode != 0:
            raise BrokerUnavailable(
                f"Maven could not resolve tests/pom.xml:\n{_last_lines(done.stdout + done.stderr)}"
            )
        if not jars.is_dir():  # another process may have been faster
            copied.rename(jars)
    return jars


def _require_tools() -> None:
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if missing:
        raise BrokerUnavailable(
            f"Apache Kafka needs Java {JAVA_MAJOR_MIN} or newer and Maven on the path; "
            f"not found: {', '.join(missing)}."
        )
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if found is None or int(found[1]) < JAVA_MAJOR_MIN:
        raise BrokerUnavailable(
            f"Apache Kafka needs Java {JAVA_MAJOR_MIN} or newer; "
            f"the one on the path is {found[1] if found else 'unusable'}."
        )


def _free_ports(port: int | None) -> tuple[int, int]:
    """Two ports of 127.0.0.1 that nobody listens on: the broker's (`port` if given) and the controller's."""
    with socket.socket() as broker, socket.socket() as controller:
        # As the broker itself does: a port whose last connections are still in TIME_WAIT is free.
        broker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            broker.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise BrokerUnavailable(f"Port {port} of 127.0.0.1 is taken: {error.strerror}.") from error
        controller.bind(("127.0.0.1", 0))
        return broker.getsockname()[1], controller.getsockname()[1]


def _write_properties(data: Path, broker_port: int, controller_port: int) -> Path:
    properties = data / PROPERTIES
    properties.write_text(
        f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data / "log"}
auto.create.topics.enable=true
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
""",
        encoding="utf-8",
    )
    return properties


def _format_storage(jars: Path, properties: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
    # One word with its option: an id may begin with a dash.
    command = [
        *_java(jars),
        "kafka.tools.StorageTool",
        "format",
        f"--cluster-id={cluster_id}",
        f"--config={properties}",
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FORMAT_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(f"Kafka did not format its storage in {FORMAT_SECONDS_MAX} s.") from error
    if done.returncode != 0:
        raise BrokerUnavailable(
            f"Kafka could not format its storage:\n{_last_lines(done.stdout + done.stderr)}"
        )


def _wait_until_it_answers(process: subprocess.Popen[bytes], bootstrap: str, log: Path) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrokerUnavailable(
                f"Kafka stopped while starting:\n{_last_lines(log.read_text(errors='replace'))}"
            )
        try:
            if admin.list_topics(timeout=1).brokers:
                return
        except KafkaException:
            time.sleep(0.1)
    raise BrokerUnavailable(
        f"Kafka did not answer in {START_SECONDS_MAX} s:\n{_last_lines(log.read_text(errors='replace'))}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES_SHOWN_MAX:])


def _serve(port: int) -> int:
    with running_broker(port) as broker:
        print(f"Apache Kafka answers at {broker.bootstrap} (nothing is kept). Ctrl-C stops it.", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("\nStopping Kafka", flush=True)
    return 0


def _run(command: list[str]) -> int:
    with running_broker() as broker:
        environment = {**os.environ, BOOTSTRAP_VARIABLE: broker.bootstrap}
        return subprocess.run(command, env=environment, check=False).returncode


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that every `finally` runs and no Java is left behind.
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Run one of the commands above; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kafka_broker")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="start a broker and keep it until Ctrl-C")
    serve.add_argument("--port", type=int, default=9092)
    run = commands.add_parser("run", help=f"run a command with {BOOTSTRAP_VARIABLE} set to a new broker")
    run.add_argument("argv", nargs="+", metavar="COMMAND")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        return _serve(chosen.port) if chosen.command == "serve" else _run(chosen.argv)
    except BrokerUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
