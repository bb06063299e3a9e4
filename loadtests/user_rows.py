"""User rows in Redis: what a million of them take, and how long one read is.

    python -m loadtests.user_rows [--users 200000]

Six domains x 32-d vectors of rectified units and 20 features, as ids and as numbers; all six domains kept, as many as users of
real logs have (drawn: 1 + binomial, mean 2), and as many with impressions of today folded into one of them. Memory is Redis' own
(used_memory, before and after); reads go one after another through the gateway's RowReader, from another process's Redis on
loopback, over TCP.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import redis

from contracts.keys import user_row
from contracts.user_row import UserRow
from deploy.redis_local import LocalRedis
from server.redis_door import RowReader

DOMAINS, WIDTH, FEATURES = 6, 32, 20
READS = 20_000
_NAMESPACE = "kuairand.20261127"
_BATCH = 2_000
_NUMBERS = 4  # of the features, dense values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    users = parser.parse_args().users
    for kept in ("all", "drawn", "drawn and folded"):
        with tempfile.TemporaryDirectory() as home:
            server = LocalRedis(Path(home) / "redis").start()
            try:
                with redis.Redis.from_url(server.url) as client:
                    before = int(client.info("memory")["used_memory"])
                    size = _fill(client, users, kept == "all", folded=kept == "drawn and folded")
                    taken = int(client.info("memory")["used_memory"]) - before
                per_million = taken / users * 1e6 / 2**30
                each = f"rows of {size:.0f} bytes, {taken / users:.0f} bytes a user"
                print(f"{kept} domains kept: {each}, {per_million:.2f} GiB a million users")
                milliseconds = asyncio.run(_read(server.url, users))
                p50, p99 = np.percentile(milliseconds, [50, 99])
                print(f"{kept} domains kept: {READS:,} reads one after another, p50 {p50:.3f} ms, p99 {p99:.3f} ms")
            finally:
                server.stop()


def _fill(client: redis.Redis, users: int, all_kept: bool, folded: bool) -> float:
    """Mean bytes of a row."""
    random = np.random.default_rng(0)
    total = 0
    for start in range(0, users, _BATCH):
        rows = {}
        for user in range(start, min(start + _BATCH, users)):
            kept = DOMAINS if all_kept else 1 + random.binomial(DOMAINS - 1, 0.2)
            counts = np.zeros(DOMAINS, np.float32)
            counts[random.permutation(DOMAINS)[:kept]] = 1 + random.geometric(0.1, kept)
            row = UserRow(
                day=20_784,
                counts=counts,
                vectors=random.standard_normal((DOMAINS, WIDTH), dtype=np.float32).clip(0),
                codes=random.integers(0, 100_000, FEATURES - _NUMBERS, dtype=np.int32),
                dense=random.standard_normal(_NUMBERS, dtype=np.float32),
                domain_codes=np.zeros((DOMAINS, 0), np.int32),
                domain_dense=np.zeros((DOMAINS, 0), np.float32),
            )
            if folded:
                domain = int(np.argmax(counts))
                row = row.folded(domain, random.standard_normal(WIDTH, dtype=np.float32).clip(0), row.day)
            packed = row.pack()
            rows[user_row(_NAMESPACE, str(10_000_000 + user))] = packed
            total += len(packed)
        client.mset(rows)
    return total / users


async def _read(url: str, users: int) -> list[float]:
    """Milliseconds of each read."""
    reader, found = RowReader(url), []
    random = np.random.default_rng(1)
    for user in random.integers(0, users, READS):
        started = perf_counter()
        row = await reader.get(user_row(_NAMESPACE, str(10_000_000 + int(user))), 1.0)
        found.append(1e3 * (perf_counter() - started))
        assert row is not None
    reader.close()
    return found


if __name__ == "__main__":
    main()
