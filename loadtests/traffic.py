"""Requests that look like a dataset's own traffic: one logged event drawn at random gives user, domain and context together,
so users come by their activity, domains by each user's mix, and contexts as they occur."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import yaml

STRANGERS = 0.02  # share of requests from users nobody has seen
SCORED_ADS = 50  # ads in one score request
_KEPT_EVENTS = 500_000  # enough for any mix, small enough to hold
_COLUMNS = ("user_id", "domain", "ad_id")

T = TypeVar("T")


def dataset_directory() -> Path:
    """MDREC_LOAD_DATASET, by default the demo dataset under MDREC_HOME."""
    chosen = os.environ.get("MDREC_LOAD_DATASET")
    return Path(chosen) if chosen else Path(os.environ.get("MDREC_HOME") or ".mdrec") / "data" / "demo"


@dataclass(frozen=True)
class Traffic:
    """Events to draw from, row by row: users, domains, contexts; ads_of: domain -> ads seen there."""

    users: list[str]
    domains: list[str]
    contexts: list[dict[str, Any]]
    ads_of: dict[str, list[str]]
    random: np.random.Generator

    @classmethod
    def read(cls, directory: Path, seed: int | None = None) -> Traffic:
        """One pass over a canonical dataset's events. Raises FileNotFoundError naming what is missing."""
        spec = yaml.safe_load((directory / "dataset.yaml").read_text(encoding="utf-8"))
        files = sorted((directory / "events").glob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"{directory / 'events'} holds no .parquet file")
        context = [one["name"] for one in spec.get("features", []) if one["side"] == "context"]
        wanted = [pl.col(spec[name]).cast(pl.String).alias(name) for name in _COLUMNS]
        parts = [pl.scan_parquet(file).select(*wanted, *context) for file in files]
        events = pl.concat(parts, how="diagonal_relaxed").drop_nulls(_COLUMNS).collect(engine="streaming")
        seen = events.select("domain", "ad_id").unique().sort("domain", "ad_id").group_by("domain", maintain_order=True)
        ads_of = {str(domain): frame["ad_id"].to_list() for (domain,), frame in seen}
        kept = events.sample(min(_KEPT_EVENTS, len(events)), seed=seed)
        contexts = [{name: value for name, value in row.items() if value is not None} for row in _plain(kept.select(context))]
        return cls(kept["user_id"].to_list(), kept["domain"].to_list(), contexts, ads_of, np.random.default_rng(seed))

    def recommend(self, k: int = 10) -> dict[str, Any]:
        """The body of one /v1/recommend."""
        row = int(self.random.integers(len(self.users)))
        return {"user_id": self._visitor(row), "domain": self.domains[row], "k": k, "context": self.contexts[row]}

    def score(self) -> dict[str, Any]:
        """The body of one /v1/score: up to SCORED_ADS of the domain's ads."""
        row = int(self.random.integers(len(self.users)))
        ads = self.ads_of[self.domains[row]]
        chosen = self.random.choice(len(ads), size=min(SCORED_ADS, len(ads)), replace=False)
        body = {"user_id": self._visitor(row), "domain": self.domains[row], "context": self.contexts[row]}
        return {**body, "ad_ids": [ads[one] for one in chosen]}

    def feedback(self, user_id: str, answer: dict[str, Any]) -> dict[str, Any]:
        """The body of one /v1/feedback for an answer: an impression of every ad, a click by its own p_click (none where
        there is no ranker and so no p_click)."""
        shared = {"request_id": answer["request_id"], "user_id": user_id, "domain": answer["domain"]}
        events = []
        for ad in answer["ads"]:
            clicked = ad["p_click"] is not None and self.random.random() < ad["p_click"]
            for kind in ("impression", "click") if clicked else ("impression",):
                outcome = {"event_id": self.random.bytes(16).hex(), "type": kind}
                events.append({**shared, **outcome, "ad_id": ad["ad_id"], "position": ad["position"]})
        return {"events": events}

    def _visitor(self, row: int) -> str:
        if self.random.random() < STRANGERS:
            return f"stranger-{self.random.bytes(8).hex()}"
        return self.users[row]


def _plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values: what JSON does not know travels as text."""
    known = (pl.String, pl.Boolean)
    text = [name for name, dtype in frame.schema.items() if dtype not in known and not dtype.is_numeric()]
    return frame.with_columns(pl.col(name).cast(pl.String) for name in text).to_dicts() if frame.width else [{}] * len(frame)
