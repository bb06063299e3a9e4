"""BentoML: one worker, an async endpoint, no request logging, metrics or traces."""

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml
import redis.asyncio

from loadtests.peers.engine import PORT, REDIS_URL, Engine

_QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, traffic={"timeout": 30}, metrics={"enabled": False}, logging=_QUIET)
class Recommend:
    def __init__(self) -> None:
        self.engine = Engine.from_environment()
        self.rows = redis.asyncio.Redis.from_url(os.environ[REDIS_URL])

    @bentoml.api(route="/v1/recommend")
    async def recommend(self, user_id: str, domain: str, k: int = 10, context: dict[str, Any] | None = None) -> dict[str, Any]:
        body = {"user_id": user_id, "domain": domain, "k": k, "context": context or {}}
        return self.engine.recommend(body, await self.rows.get(self.engine.key(body)))


if __name__ == "__main__":
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    service = "loadtests.peers.servers.bentoml:Recommend"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", os.environ[PORT]]
    os.execv(sys.executable, command)
