"""The service that one writes first: FastAPI with a plain `def` handler, pydantic both ways, torch eager, exact FAISS search,
blocking Redis. The user's row is repeated for every candidate, as in training."""

from __future__ import annotations

import os
from typing import Any

import faiss
import numpy as np
import redis
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from safetensors.torch import load_file

from contracts.schema import FeatureSchema
from loadtests.peers.engine import PORT, REDIS_URL, Array, Engine
from loadtests.peers.made_up import retriever_of
from trainer.dsfm import DSFM, industrial
from trainer.layers import Inputs


class Request(BaseModel):
    user_id: str
    domain: str
    k: int = 10
    context: dict[str, str | int | float | None] = {}


class Ad(BaseModel):
    ad_id: str
    position: int
    p_click: float
    rank_score: float
    retrieval_score: float
    bid: float


class Answer(BaseModel):
    request_id: str
    domain: str
    bundle_id: str
    arms: list[str]
    ads: list[Ad]
    degraded: list[str]
    timings_ms: dict[str, float]


class TorchEngine(Engine):
    """Both models in torch, eager, and an exact index."""

    def open_models(self) -> None:
        torch.set_num_threads(1)
        schema = FeatureSchema.load(self.bundle / "schema")
        self._retriever = retriever_of(schema)
        self._retriever.load_state_dict(load_file(self.home / "peers/retriever.safetensors"))
        self._torch_ranker = DSFM(schema, industrial(), self.facts["sensitive"])
        self._torch_ranker.load_state_dict(load_file(self.home / "peers/ranker.safetensors"))
        self._retriever.eval()
        self._torch_ranker.eval()
        self._flat = faiss.read_index(str(self.home / "peers/flat.faiss"))

    @torch.no_grad()
    def embed(self, domain: int, user_codes: Array) -> Array:
        codes = torch.from_numpy(user_codes)
        embedding: Array = self._retriever.user_embedding(codes, torch.zeros((1, 0)), 0).numpy()  # domains share the first's
        return embedding

    def search(self, domain: int, query_1E: Array) -> tuple[Array, Array]:
        scores, rows = self._flat.search(query_1E, self.k)
        return scores[0], rows[0]

    @torch.no_grad()
    def rank(self, domain: int, user_codes: Array, context_codes: Array, ad_codes: Array) -> Array:
        count = len(ad_codes)
        none = torch.zeros((count, 0))
        blocks = [torch.from_numpy(np.repeat(one, count, axis=0)) for one in (user_codes, context_codes)]
        inputs = Inputs(blocks[0], none, blocks[1], none, torch.from_numpy(ad_codes), none, torch.full((count,), domain))
        p_click: Array = torch.sigmoid(self._torch_ranker.calibrated(inputs)).numpy()
        return p_click


def create_app() -> FastAPI:
    app = FastAPI()
    engine = TorchEngine.from_environment()
    rows = redis.Redis.from_url(os.environ[REDIS_URL])

    @app.post("/v1/recommend", response_model=Answer)
    def recommend(asked: Request) -> Any:
        body = asked.model_dump()
        return engine.recommend(body, rows.get(engine.key(body)))

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), host="127.0.0.1", port=int(os.environ[PORT]), access_log=False)
