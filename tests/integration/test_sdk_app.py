"""The application of the README, under load: what the provider says it served is what `usage` holds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from dataflows.supervise import free_addresses
from tests.integration.running import ROOT, Place, until
from tests.integration.topics import make_topic
from tests.metering.fake_provider import FakeProvider

REQUESTS = 200
TENANTS = 7


def app_of_the_readme() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [app] = re.findall(r"(?ms)^```python\n(# app\.py\n.*?)^```$", readme)
    return str(app)


@contextmanager
def serving(directory: Path, provider: FakeProvider, events: str) -> Iterator[str]:
    (directory / "app.py").write_text(app_of_the_readme())
    [address] = free_addresses(1)
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": provider.openai_url,
        "OPENAI_API_KEY": "none",
        "METERLINE_EVENTS": events,
        "METERLINE_SPOOL_DIR": str(directory / "spool"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", address.rpartition(":")[2]]
    with (directory / "app.log").open("wb") as log:
        app = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: answers(f"http://{address}"), "the application is not up")
            yield f"http://{address}"
        finally:
            app.send_signal(signal.SIGTERM)
            app.wait(20)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 400  # without a tenant
    except httpx.TransportError:
        return False


def ask(client: httpx.Client, url: str, number: int) -> int:
    headers = {"x-tenant": f"tenant-{number % TENANTS}"} if number % 20 else {}
    text = "what is metered " * (number % 5 + 1)
    with client.stream("POST", f"{url}/chat", json={"text": text}, headers=headers) as answer:
        body = answer.read()
    assert (answer.status_code == 200) == bool(headers), body
    return answer.status_code


def test_the_totals_are_those_that_the_provider_served(
    tmp_path: Path, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    topic = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    with FakeProvider() as provider:
        with (
            serving(tmp_path, provider, topic) as url,
            httpx.Client(timeout=30) as client,
            ThreadPoolExecutor(20) as pool,
        ):
            codes = Counter(pool.map(lambda number: ask(client, url, number), range(REQUESTS)))
        served = {
            f"{one.response_id}-1": (one.model, one.input_tokens, one.output_tokens)
            for one in provider.ledger
        }
    refused = REQUESTS // 20
    assert (codes, len(served)) == ({200: REQUESTS - refused, 400: refused}, REQUESTS - refused)
    place = Place(tmp_path)
    code, stderr = place.run(topic, "--to-end")
    assert code == 0, stderr
    rows = place.ask("SELECT idempotency_key, model, input_tokens, output_tokens FROM usage")
    assert {row[0]: row[1:] for row in rows} == served
    found = place.ask(
        "SELECT uniqExact(tenant_id), any(feature_id), any(usage_source), any(provider) FROM usage"
    )
    assert found == [(TENANTS, "chat", "provider", "openai")]
