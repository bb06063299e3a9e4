"""Who is compared: how each server is started, what its environment holds, how it takes a request.

Each has the best settings that we know of for one core: one process that computes, one thread in ONNX Runtime, FAISS and BLAS,
no access log, and no batches: on a core, two requests' 1,000 candidates cost what they cost one after the other, and wait.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.open_loop import MDREC, Dialect
from loadtests.peers.engine import HOME, PORT, REDIS_URL

ROOT = Path(__file__).parents[2]
MDREC_NAME = "mdrec"
_QUICK_LOOP = ("uvloop==0.23.0", "httptools==0.9.0")
_COMPUTING = ("numpy==2.4.6", "onnxruntime==1.31.1", "faiss-cpu==1.15.1", "redis==8.1.0", "hiredis==3.5.0")
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NO_PROXY": "127.0.0.1",
}


@dataclass(frozen=True)
class Peer:
    """requirements: of an environment of its own; without any, the project's has all it needs, at the project's versions.
    ready: path that answers 200 once it can serve."""

    name: str
    what: str
    requirements: tuple[str, ...] = ()
    ready: str = "/docs"
    dialect: Dialect = MDREC

    def python(self, environments: Path) -> Path:
        return environments / self.name / "bin" / "python" if self.requirements else Path(sys.executable)

    def installed(self, environments: Path) -> bool:
        """Its environment is whole: the installer leaves a mark when it has finished."""
        return not self.requirements or (environments / self.name / "installed").is_file()

    def command(self, environments: Path, port: int, workers: int = 1) -> list[str]:
        if self.name == MDREC_NAME:
            return [sys.executable, "-m", "deploy.cli", "serve", "--port", str(port), "--workers", str(workers)]
        return [str(self.python(environments)), "-m", f"loadtests.peers.servers.{self.name}"]

    def environment(self, world: Path, redis_url: str, port: int) -> Mapping[str, str]:
        """What is set beside this process's own. Only servers of this Python see where it finds its modules."""
        found = os.environ.get("PYTHONPATH") if not self.requirements else None
        common = {**_ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(ROOT), *([found] if found else [])])}
        if self.name == MDREC_NAME:
            return {**common, "MDREC_HOME": str(world), "MDREC_REDIS_URL": redis_url}
        return {**common, HOME: str(world), REDIS_URL: redis_url, PORT: str(port)}


def _as_tensor(body: bytes) -> bytes:
    """A request of the Open Inference Protocol with the JSON text as its only tensor."""
    tensor = {"name": "request", "shape": [1], "datatype": "BYTES", "data": [body.decode()]}
    return json.dumps({"inputs": [tensor]}).encode()


def _from_tensor(content: bytes) -> Any:
    return json.loads(json.loads(content)["outputs"][0]["data"][0])


PEERS: dict[str, Peer] = {
    one.name: one
    for one in (
        Peer(MDREC_NAME, "`mdrec serve`, one worker", ready="/readyz"),
        Peer("naive", "FastAPI `def` handler, pydantic both ways, torch eager, FAISS Flat"),
        Peer("fastapi_ort", "FastAPI async, uvloop, ONNX Runtime"),
        Peer("litserve", "LitServe, one worker", ("litserve==0.2.19", *_COMPUTING), ready="/health"),
        Peer(
            "bentoml",
            "BentoML, one worker, async",
            ("bentoml==1.4.40", *_QUICK_LOOP, *_COMPUTING),
            ready="/readyz",
        ),
        Peer("mlserver", "MLServer, no parallel workers", ("mlserver==1.7.1", *_COMPUTING), ready="/v2/health/ready"),
        Peer("ray_serve", "Ray Serve, one replica", ("ray[serve]==2.60.0", *_COMPUTING), ready="/-/healthz"),
        Peer(
            "pytriton",
            "Triton by PyTriton, JSON in a tensor",
            ("nvidia-pytriton==0.7.0", "numpy==1.26.4", *_COMPUTING[1:]),
            ready="/v2/models/recommend/ready",
            dialect=Dialect("/v2/models/recommend/infer", _as_tensor, _from_tensor),
        ),
    )
}
