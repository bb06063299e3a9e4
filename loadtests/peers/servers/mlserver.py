"""MLServer: the model in the server's own process (no parallel workers), behind a route of its own, which passes over the tensors
of the Open Inference Protocol; no batching, cache, metrics or compression."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import redis.asyncio
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.handlers import custom_handler
from pydantic import BaseModel

from loadtests.peers.engine import PORT, REDIS_URL, Engine


class Request(BaseModel):
    user_id: str
    domain: str
    k: int = 10
    context: dict[str, str | int | float | None] = {}


class Recommend(MLModel):
    async def load(self) -> bool:
        self.engine = Engine.from_environment()
        self.rows = redis.asyncio.Redis.from_url(os.environ[REDIS_URL])
        return True

    @custom_handler(rest_path="/v1/recommend")
    async def recommend(self, asked: Request) -> dict[str, Any]:
        body = asked.model_dump()
        return self.engine.recommend(body, await self.rows.get(self.engine.key(body)))


async def main() -> None:
    ports = {"http_port": int(os.environ[PORT]), "grpc_port": _free_port()}
    plain = {"parallel_workers": 0, "metrics_endpoint": None, "gzip_enabled": False, "debug": False}
    server = MLServer(Settings(host="127.0.0.1", **ports, **plain))
    await server.start([ModelSettings(name="recommend", implementation=Recommend)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    asyncio.run(main())
