"""Triton through PyTriton: the JSON text of a request as one tensor of bytes, the model in this process, Triton's own beside it;
no batching, no metrics."""

from __future__ import annotations

import json
import os
import socket
import sysconfig
from typing import Any

import numpy as np
import redis
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtests.peers.engine import PORT, REDIS_URL, Engine


def main() -> None:
    engine = Engine.from_environment()
    rows = redis.Redis.from_url(os.environ[REDIS_URL])

    def infer(requests: list[Any]) -> list[dict[str, Any]]:
        answers = []
        for one in requests:
            body = json.loads(one.data["request"].item())
            answer = engine.recommend(body, rows.get(engine.key(body)))
            answers.append({"answer": np.array([json.dumps(answer).encode()], dtype=object)})
        return answers

    # Triton embeds an interpreter: this one, not another of the same minor version that the machine may have.
    known = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(one for one in known if one)
    ports = {"http_port": int(os.environ[PORT]), "grpc_port": _free_port()}
    with Triton(config=TritonConfig(http_address="127.0.0.1", grpc_address="127.0.0.1", allow_metrics=False, **ports)) as triton:
        request, answer = (Tensor(name=name, dtype=bytes, shape=(1,)) for name in ("request", "answer"))
        triton.bind("recommend", infer, inputs=[request], outputs=[answer], config=ModelConfig(batching=False))
        triton.serve()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
