"""What a request is made of, measured alone on a live bundle: one user row, one search, one ranking. One thread, one table.

    python -m loadtests.kernels          reads MDREC_HOME and its champion
    python -m loadtests.kernels rankers  needs no bundle: the forms of a ranker side by side (loadtests/ranker_forms.py)

Medians over rounds that alternate between the kernels, so that a slow spell of the machine hits all of them alike.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from contracts.aliases import Aliases
from contracts.errors import BadInput
from contracts.user_row import UserRow
from loadtests import ranker_forms
from server.bundle import Bundle
from server.features import read_row, served_vectors, stranger

CANDIDATES = 500
REQUESTS = 200
ROUNDS = 9
SECONDS_A_ROUND = 0.3


def main() -> None:
    """Print median, spread and share of the sum for each kernel."""
    bundle = live_bundle(Path(os.environ.get("MDREC_HOME") or ".mdrec"))
    measured = kernels(bundle)
    microseconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(ROUNDS):
        for name, kernel in measured.items():
            microseconds[name].append(one_round(kernel))
    medians = {name: float(np.median(values)) for name, values in microseconds.items()}
    print(f"{bundle.bundle_id}, one thread, median [min, max] of {ROUNDS} alternating rounds")
    for name, values in microseconds.items():
        share = medians[name] / sum(medians.values())
        print(f"{name:<34} {medians[name]:9.1f} us  [{min(values):.1f}, {max(values):.1f}]  {share:5.1%}")


def live_bundle(home: Path) -> Bundle:
    """The champion's. Raises BadInput when there is none."""
    aliases = Aliases(home)
    alias = aliases.get(aliases.champion() or "")
    if alias is None:
        raise BadInput("no bundle is live under MDREC_HOME", "run `make run` or `mdrec nightly` first")
    return Bundle(aliases.bundle_directory(alias.bundle_id), cache=home / "kernels")


def kernels(bundle: Bundle) -> dict[str, Callable[[], object]]:
    """The largest domain's kernels. Each call takes the next of REQUESTS drawn ones, ranking what that user's search finds: one
    request over and over would find its lists, rows and embeddings in the cache, which no gateway's next request does."""
    model = max(bundle.domains.values(), key=lambda one: len(one.ads))
    row = stranger(bundle, "stranger")
    packed = row.pack()
    rng = np.random.default_rng(0)
    count = min(CANDIDATES, len(model.ads))
    users = [_drawn_user(bundle, rng) for _ in range(REQUESTS)]
    queries = [model.user_tower.run(user) for user in users]
    by_user, by_query = cycle(users), cycle(queries)
    found: dict[str, Callable[[], object]] = {
        "unpack one user row": lambda: read_row(bundle, packed),
        "user tower, one row": lambda: model.user_tower.run(next(by_user)),
        f"search, {len(model.ads):,} ads, k = {count}": lambda: model.index.search(next(by_query), count),
    }
    if bundle.ranker is not None:
        ranker, ads = bundle.ranker, model.ads
        context = bundle.schema.encode("context", {}, 1)
        shared = {"context_codes": context.codes, "context_dense": context.dense, "domain": np.array([model.number])}
        vectors = served_vectors(bundle, UserRow.unpack(packed))
        if vectors is not None:
            shared["user_vectors"] = vectors
        asked = []
        for user, query in zip(users, queries, strict=True):
            rows = model.index.search(query, count).rows[0]
            asked.append({**shared, **user, "ad_codes": ads.codes[rows], "ad_dense": ads.dense[rows]})
        by_request = cycle(asked)
        found[f"rank {count} candidates"] = lambda: ranker.run(next(by_request))
    return found


def _drawn_user(bundle: Bundle, rng: np.random.Generator) -> dict[str, Any]:
    block = bundle.schema.block("user")
    codes = np.zeros((1, block.code_width), dtype=np.int32)
    for one in block.fields:
        if one.matrix == "codes":
            codes[:, one.columns] = rng.integers(0, one.cardinality, (1, one.width))
    return {"user_codes": codes, "user_dense": rng.standard_normal((1, block.dense_width), dtype=np.float32)}


def one_round(kernel: Callable[[], object]) -> float:
    """Microseconds a call."""
    kernel()
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SECONDS_A_ROUND:
        kernel()
        calls += 1
    return 1e6 * spent / calls


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["rankers"]:
            ranker_forms.main()
        else:
            main()
    except BadInput as error:
        sys.exit(f"error {error}")
