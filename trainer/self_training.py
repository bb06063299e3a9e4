"""Self-training of ADI (arXiv 2206.09672, section 3.5): what a user took in one domain may be a positive of another.

Every training positive (u, v) of domain i is scored under each other domain j by the model as it stands; the top p percent
of j's candidates become pseudo-positives of j for one epoch, and p grows by dp each epoch.

Beyond the paper: a domain takes at most as many pseudo-positives as it has positives, chosen among at most 20 times as many.
Without that bound, guesses outnumber a small domain's own clicks a hundredfold, and an epoch over KuaiRand's 15 tabs took 150 s
instead of 8.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.sampling import Entities, Pairs
from trainer.two_tower import TwoTower

_CHUNK = 8192
_SCORED_PER_POSITIVE = 20


def percent_of(epoch: int, first_epoch: int, percent: float, step: float) -> float:
    """p of an epoch (from 0): nothing before first_epoch, then percent, percent + step, ... up to 100."""
    return 0.0 if epoch < first_epoch else min(100.0, percent + step * (epoch - first_epoch))


def candidates(tables: Entities, pairs: Pairs, target: int) -> Pairs:
    """What could be a pseudo-positive of the target: distinct pairs of the other domains whose ad is eligible there, without
    the pairs that are positives there already. Users need not be of the target: where domains share ads and no users, what
    its ads have in common is still to be learned. -> Pairs, domain all `target`."""
    own, other = pairs.domain == target, pairs.domain != target
    other &= np.isin(pairs.ad_row, tables.eligible(target))
    base = int(pairs.ad_row.max(initial=0)) + 1
    key = pairs.user_row * base + pairs.ad_row
    key = np.setdiff1d(key[other], key[own])
    return Pairs(key // base, key % base, np.full(len(key), target, dtype=np.int64))


def pseudo_positives(model: TwoTower, tables: Entities, pairs: Pairs, percent: float) -> Pairs:
    """The top `percent` of each domain's candidates by the frozen model's score; ties by user and ad row."""
    domains = range(len(tables.schema.domains))
    chosen = [Pairs(*(np.empty(0, dtype=np.int64) for _ in Pairs._fields))]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for target in domains:
            own = int(np.count_nonzero(pairs.domain == target))
            found = _drawn(candidates(tables, pairs, target), _SCORED_PER_POSITIVE * own, seed=target)
            keep = min(own, round(len(found.user_row) * percent / 100.0))
            if keep:
                score = np.concatenate(list(_scores(model, tables, found, target)))
                top = np.sort(np.argsort(-score, kind="stable")[:keep])
                chosen.append(Pairs(*(column[top] for column in found)))
    model.train(was_training)
    return Pairs.concat(chosen)


def _drawn(found: Pairs, most: int, seed: int) -> Pairs:
    """At most `most` of them, the same ones every epoch, so that p percent mean the same candidates."""
    if len(found.user_row) <= most:
        return found
    kept = np.sort(np.random.default_rng(seed).choice(len(found.user_row), most, replace=False))
    return Pairs(*(column[kept] for column in found))


def _scores(model: TwoTower, tables: Entities, found: Pairs, target: int) -> Iterator[NDArray[np.float32]]:
    device = next(model.parameters()).device

    def block(arrays: tuple[NDArray[np.int32], NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        codes, dense = (torch.from_numpy(np.array(one)).to(device) for one in arrays)
        return codes, dense

    for start in range(0, len(found.user_row), _CHUNK):
        part = slice(start, start + _CHUNK)
        users = model.user_embedding(*block(tables.user_block(found.user_row[part], target)), target)
        ads = model.ad_embedding(*block(tables.ad_block(found.ad_row[part], target)), target)
        yield (users * ads).sum(1).cpu().numpy()
