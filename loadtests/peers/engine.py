"""What every peer computes, without mdrec's own code: user row, user tower, the same index, the ranker's graph as exported.

This is what one writes with numpy, FAISS and ONNX Runtime at hand: one thread each, memory read at the start, everything of a
request in one call. Of mdrec only the formats are used: how a user's row is packed, how arrays and ids are stored. It runs in the
environments of all peers, so it imports little.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime as ort

from contracts.ids import IdTable
from contracts.keys import user_row
from contracts.user_row import UserRow

HOME, REDIS_URL, PORT = "PEERS_WORLD", "PEERS_REDIS_URL", "PEERS_PORT"  # how a peer is told what to serve and where
PAD, UNKNOWN, FIRST = 0, 1, 2

Array = np.ndarray[Any, Any]
Body = Mapping[str, Any]


class Engine:
    """One process's models of the world in `home`, loaded once."""

    def __init__(self, home: Path) -> None:
        faiss.omp_set_num_threads(1)
        self.home = home
        self.facts = json.loads((home / "peers/world.json").read_text())
        self.bundle, self.k = home / self.facts["bundle"], int(self.facts["k"])
        self.number = {name: at for at, name in enumerate(self.facts["domains"])}
        ads = [self.bundle / f"domains/{at}/ads" for at in range(len(self.number))]
        self.ad_ids = [list(IdTable.load(one / "ids")) for one in ads]
        self.ad_codes = [np.load(one / "codes.npy") for one in ads]
        self.bids = [np.load(one / "bid.npy") for one in ads]
        self.context = {
            name: {str(value): FIRST + value for value in range(self.facts["levels"])} for name in self.facts["context"]
        }
        self._stranger = np.full((1, np.load(self.bundle / "golden.npz")["ranker/in/user_codes"].shape[1]), PAD, dtype=np.int32)
        self._stranger[0, 0] = UNKNOWN
        self.open_models()

    @classmethod
    def from_environment(cls) -> Engine:
        return cls(Path(os.environ[HOME]))

    def open_models(self) -> None:
        self._towers = [_session(self.bundle / f"domains/{at}/user_tower.onnx") for at in range(len(self.number))]
        self._indices = [self._index(at) for at in range(len(self.number))]
        self._ranker = _session(self.home / "peers/ranker_tiled.onnx")
        self._ranker_inputs = {one.name for one in self._ranker.get_inputs()}

    def key(self, body: Body) -> str:
        """Where Redis has the user's row."""
        return user_row(self.facts["namespace"], body["user_id"])

    def recommend(self, body: Body, packed: Any) -> dict[str, Any]:
        """The answer to a request. packed: the bytes that Redis has under `key(body)`, None for a user nobody
        knows."""
        domain = self.number[body["domain"]]
        user_codes = self._stranger if packed is None else UserRow.unpack(packed).block(domain)[0]
        scores, rows = self.search(domain, self.embed(domain, user_codes))
        given = body["context"]
        context = [known.get(str(given[name]), UNKNOWN) if name in given else PAD for name, known in self.context.items()]
        p_click = self.rank(domain, user_codes, np.array([context], dtype=np.int32), self.ad_codes[domain][rows])
        rank_scores = p_click * self.bids[domain][rows]
        best = np.argsort(-rank_scores, kind="stable")[: body.get("k", 10)]
        ads = [
            {
                "ad_id": self.ad_ids[domain][rows[at]],
                "position": position,
                "p_click": float(p_click[at]),
                "rank_score": float(rank_scores[at]),
                "retrieval_score": float(scores[at]),
                "bid": float(self.bids[domain][rows[at]]),
            }
            for position, at in enumerate(best)
        ]
        named = {"request_id": uuid.uuid4().hex, "domain": body["domain"], "bundle_id": self.facts["bundle_id"]}
        return {**named, "arms": [], "ads": ads, "degraded": [], "timings_ms": {}}

    def embed(self, domain: int, user_codes: Array) -> Array:
        """(1, I) int32 -> (1, E) float32."""
        embedding: Array = self._towers[domain].run(None, {"user_codes": user_codes})[0]
        return embedding

    def search(self, domain: int, query_1E: Array) -> tuple[Array, Array]:
        """(scores (C,), rows (C,)), best first."""
        scores, rows = self._indices[domain].search(query_1E, self.k)
        return scores[0][rows[0] >= 0], rows[0][rows[0] >= 0]

    def rank(self, domain: int, user_codes: Array, context_codes: Array, ad_codes: Array) -> Array:
        """p_click (C,) float32: user and context repeated for each of the C ads."""
        count = len(ad_codes)
        feeds = {
            "user_codes": np.repeat(user_codes, count, axis=0),
            "context_codes": np.repeat(context_codes, count, axis=0),
            "ad_codes": ad_codes,
            "domain": np.array([domain]),
        }
        p_click: Array = self._ranker.run(None, {name: feeds[name] for name in self._ranker_inputs})[0]
        return p_click

    def _index(self, domain: int) -> Any:
        """The fastest of FAISS that meets mdrec's recall; all domains have the same ads."""
        entry = self.facts["peers_index"]
        if entry["kind"] == "exact":
            return faiss.read_index(str(self.home / "peers/flat.faiss"))
        index: Any = faiss.read_index(str(self.home / "peers/lists.faiss"))
        index.nprobe = entry["nprobe"]
        return index


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
