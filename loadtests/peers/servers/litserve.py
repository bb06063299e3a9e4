"""LitServe: one HTTP process, one worker that computes, its faster queue between them."""

from __future__ import annotations

import os
from typing import Any

import litserve
import redis

from loadtests.peers.engine import PORT, REDIS_URL, Engine


class Recommend(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.engine = Engine.from_environment()
        self.rows = redis.Redis.from_url(os.environ[REDIS_URL])

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.engine.recommend(body, self.rows.get(self.engine.key(body)))


if __name__ == "__main__":
    api = Recommend(api_path="/v1/recommend")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=30)
    port = int(os.environ[PORT])
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False)
