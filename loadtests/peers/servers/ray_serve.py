"""Ray Serve: one proxy, one replica, an async handler, its switch for throughput; no dashboard, no usage statistics, no request
log. A cluster of this process alone, on loopback."""

from __future__ import annotations

import os
import signal
import threading

# Read when ray is imported.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_SERVE_THROUGHPUT_OPTIMIZED="1")

import ray
import redis.asyncio
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import JSONResponse

from loadtests.peers.engine import PORT, REDIS_URL, Engine


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Recommend:
    def __init__(self) -> None:
        self.engine = Engine.from_environment()
        self.rows = redis.asyncio.Redis.from_url(os.environ[REDIS_URL])

    async def __call__(self, request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse(self.engine.recommend(body, await self.rows.get(self.engine.key(body))))


def main() -> None:
    ray.init(
        _node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ[PORT])})
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.run(Recommend.options(logging_config=quiet).bind(), route_prefix="/v1/recommend")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
