"""`meterline clickhouse` as a child process: ClickHouse over HTTP, which tests may kill and start again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
STOP_SECONDS_MAX = 30

_ANNOUNCED = re.compile(r"http://127\.0\.0\.1:(\d+)")


@contextmanager
def running_clickhouse(directory: Path) -> Iterator[ClickHouseProcess]:
    """A server that answers, until the end of the block."""
    process = ClickHouseProcess(directory)
    process.start()
    try:
        yield process
    finally:
        process.stop()


@dataclass
class ClickHouseProcess:
    """One database directory. The port of the first start is kept by those that follow."""

    directory: Path
    port: int = 0
    _child: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Return when requests are answered."""
        flags = ["--path", str(self.directory), "--port", str(self.port)]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "dataflows.cli", "clickhouse", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout
        found = _ANNOUNCED.search(self._child.stdout.readline())
        assert found, "the server said why on standard error"
        self.port = int(found.group(1))

    def kill(self) -> None:
        """`kill -9`."""
        assert self._child
        self._child.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._child
        self._child.terminate()
        return self._reap()

    def cpu_seconds(self) -> float:
        """User and system time of the process so far; 0 where the system does not tell (macOS)."""
        assert self._child
        stat = Path(f"/proc/{self._child.pid}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def url(self, port: int = 0) -> str:
        """The address for `--clickhouse`, perhaps by way of a proxy's port."""
        return f"clickhouse://127.0.0.1:{port or self.port}/meterline"

    def _reap(self) -> int:
        assert self._child
        assert self._child.stdout
        code = self._child.wait(STOP_SECONDS_MAX)
        self._child.stdout.close()
        return code
