"""In which order training rows are read: shuffled blocks, domains in turn, sampled negatives.

Everything drawn in an epoch follows from (seed, epoch), so a run that is killed and resumed at an epoch's start reads the
same rows. Only a window of row numbers is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.schema import AD_ID, UNKNOWN, USER_ID
from trainer.layers import Inputs
from trainer.tables import Batch, Tables

_BLOCK_ROWS = 4_096
_WINDOW_BLOCKS = 256  # about a million rows are shuffled together
Rows = NDArray[np.int64]


def shuffled(rows: range, batch_rows: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Every row once, in ceil(rows / batch_rows) batches: blocks in random order, shuffled within a window of blocks. The last
    batches share what is left evenly, so that none is a tiny remainder."""
    blocks = rng.permutation(-(-len(rows) // _BLOCK_ROWS))
    carried = np.empty(0, dtype=np.int64)
    for start in range(0, len(blocks), _WINDOW_BLOCKS):
        firsts = rows.start + blocks[start : start + _WINDOW_BLOCKS] * _BLOCK_ROWS
        window = np.concatenate([carried, *(np.arange(first, min(first + _BLOCK_ROWS, rows.stop)) for first in firsts)])
        rng.shuffle(window)
        if start + _WINDOW_BLOCKS >= len(blocks):
            yield from np.array_split(window, -(-len(window) // batch_rows))
            return
        whole = len(window) // batch_rows * batch_rows
        yield from window[:whole].reshape(-1, batch_rows)
        carried = window[whole:]


def epoch_rows(tables: Tables, split: str, batch_rows: int, domain_pure: bool, rng: np.random.Generator) -> Iterator[Rows]:
    """The row numbers of each batch of one epoch.

    domain_pure: each batch holds one domain, and the domains take turns, evenly interleaved over the epoch. A domain has as
    many turns as it has batches, so every row counts once and a tiny domain (one short batch) is never over-weighted.
    """
    if not domain_pure:
        yield from shuffled(range(tables.split_size(split)), batch_rows, rng)
        return
    ranges = [tables.domain_range(split, domain) for domain in range(len(tables.domains))]
    streams = [shuffled(rows, batch_rows, np.random.default_rng(rng.integers(2**63))) for rows in ranges]
    counts = [-(-len(rows) // batch_rows) for rows in ranges]
    moments = np.concatenate([(np.arange(count) + rng.random()) / max(1, count) for count in counts])
    domain_of = np.repeat(np.arange(len(ranges)), counts)
    for turn in np.argsort(moments, kind="stable"):
        yield next(streams[domain_of[turn]])


def with_negatives(tables: Tables, batch: Batch, negatives: int, rng: np.random.Generator) -> Batch:
    """Positives -> the positives, then `negatives` ads for each, drawn uniformly from the domain's eligible ads, for the same
    user, context and moment.

    Uniform draws need no correction: the logit is then log P(ad | user, domain) plus a constant of the domain, which is what
    ranking needs. p_click on such data is relative to the sampling (1 : negatives), not a rate of clicks.
    """
    domain_B = batch.inputs.domain.numpy()
    drawn = np.empty((negatives, len(domain_B)), dtype=np.int64)
    for domain in np.unique(domain_B):
        eligible, rows = tables.eligible(int(domain)), domain_B == domain
        pool = eligible if len(eligible) else np.unique(batch.ad_row.numpy()[rows])
        drawn[:, rows] = rng.choice(pool, (negatives, int(rows.sum())))
    ad_row = np.concatenate([batch.ad_row.numpy(), drawn.ravel()])
    codes, dense = tables.ad_block(ad_row, np.tile(domain_B, 1 + negatives))
    repeated = {
        name: getattr(batch.inputs, name).repeat(1 + negatives, *([1] * (getattr(batch.inputs, name).dim() - 1)))
        for name in ("user_codes", "user_dense", "context_codes", "context_dense", "domain")
    }
    inputs = Inputs(ad_codes=torch.from_numpy(codes), ad_dense=torch.from_numpy(dense), **repeated)
    label = torch.cat([batch.label, torch.zeros(drawn.size)])
    tiled = {name: getattr(batch, name).repeat(1 + negatives) for name in ("user_row", "time")}
    return replace(batch, inputs=inputs, label=label, ad_row=torch.from_numpy(ad_row), **tiled)


def with_strangers(tables: Tables, batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """A `share` of the rows has its user taken for a stranger, and another its ad: an id is learned by heart within one pass
    where it has few rows, and what is served to strangers and new ads is learned beside it. The rest of a row stays."""
    codes = {name: getattr(batch.inputs, f"{name}_codes").clone() for name in ("user", "ad")}
    for name, key in (("user", USER_ID), ("ad", AD_ID)):
        column = next(one.start for one in tables.schema.block(name).fields if one.name == key)  # type: ignore[arg-type]
        codes[name][torch.from_numpy(rng.random(len(codes[name])) < share), column] = UNKNOWN
    return replace(batch, inputs=batch.inputs._replace(user_codes=codes["user"], ad_codes=codes["ad"]))


def joined(parts: Sequence[Batch]) -> Batch:
    """The rows of all parts, one part after the other."""
    blocks = zip(*(one.inputs for one in parts), strict=True)
    inputs = Inputs(*(None if found[0] is None else torch.cat(found) for found in blocks))  # type: ignore[arg-type]
    rest = {name: torch.cat([getattr(one, name) for one in parts]) for name in ("label", "user_row", "ad_row", "time")}
    return Batch(inputs, **rest)
