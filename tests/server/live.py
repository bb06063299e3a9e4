"""A gateway as users meet it: real uvicorn on loopback, real Redis, real bundles."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.gateway import Gateway
from server.settings import Settings


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `condition`, looked at until the deadline."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        tick.wait(0.01)


class Running:
    """One worker and a client that talks to it."""

    def __init__(self, app: FastAPI, url: str, client: httpx.Client) -> None:
        self.app, self.url, self.client = app, url, client

    @property
    def gateway(self) -> Gateway:
        return self.app.state.gateway  # type: ignore[no-any-return]

    def recommend(self, user: str = "u1", domain: str = "search", **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/recommend", json={"user_id": user, "domain": domain, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ready(self) -> dict[str, Any]:
        return self.client.get("/readyz").json()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples that have these labels."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            if not line.startswith((f"{name}{{", f"{name} ")):
                continue
            series, value = line.rsplit(" ", 1)
            if all(f'{key}="{one}"' in series for key, one in labels.items()):
                total += float(value)
        return total


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", loop="uvloop"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        assert server.started, "the gateway did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Running(app, f"http://127.0.0.1:{port}", client)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the gateway did not stop"


def fresh(method: str, url: str, **options: Any) -> httpx.Response:
    """One request over a connection of its own, so that any worker may be the one that is asked. verify: no certificates are read
    for a loopback address, which would cost more than the request."""
    return httpx.request(method, url, verify=False, **options)


@contextmanager
def workers(home: Path, redis_url: str, **settings: str) -> Iterator[str]:
    """The real command with two workers in processes of their own: their URL. settings: further MDREC_* of the environment."""
    process, url = started(home, redis_url, **settings)
    try:
        yield url
    finally:
        process.terminate()
        assert process.wait(30) == 0


def started(home: Path, redis_url: str, **settings: str) -> tuple[subprocess.Popen[bytes], str]:
    """As `workers`, for who ends the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from server.app import serve; from server.settings import Settings; serve(Settings())"
    environment = {
        **os.environ,
        "MDREC_HOME": str(home),
        "MDREC_REDIS_URL": redis_url,
        "MDREC_REDIS_TIMEOUT_MS": "2000",
        "MDREC_PORT": str(port),
        "MDREC_WORKERS": "2",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return fresh("GET", f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(ready, 240)  # on a busy machine their imports alone take a minute
    except BaseException:
        process.terminate()
        raise
    return process, url


def stream(store: redis.Redis, kind: str) -> list[dict[str, Any]]:
    """Events of one kind, oldest first."""
    events = [json.loads(fields[b"e"]) for _, fields in store.xrange("events")]
    return [one for one in events if one["kind"] == kind]
