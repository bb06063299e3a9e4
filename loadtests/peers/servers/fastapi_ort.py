"""FastAPI as its users write it who have read about latency: an async handler, async Redis, ONNX Runtime, uvloop."""

from __future__ import annotations

import os
from typing import Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from loadtests.peers.engine import PORT, REDIS_URL, Engine


class Request(BaseModel):
    user_id: str
    domain: str
    k: int = 10
    context: dict[str, str | int | float | None] = {}


def create_app() -> FastAPI:
    app = FastAPI()
    engine = Engine.from_environment()
    rows = redis.asyncio.Redis.from_url(os.environ[REDIS_URL])

    @app.post("/v1/recommend", response_model=None)
    async def recommend(asked: Request) -> dict[str, Any]:
        body = asked.model_dump()
        return engine.recommend(body, await rows.get(engine.key(body)))

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), host="127.0.0.1", port=int(os.environ[PORT]), access_log=False, loop="uvloop", http="httptools")
