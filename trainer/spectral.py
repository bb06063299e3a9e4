"""The graph of users and ads as a part of two towers: where the ads of a user's history stand in its leading eigenspace.

R (U, A) says who took what; N = Du^-a R Da^-a ~ P S Q', its truncated singular value decomposition, D the degrees. Ad a has the
row x_a = Da^-a (Q S^p)_a, in the pooled graph of all domains and in each domain's own. A user is the sum of the rows of the ads
taken: N Q S^p = P S^(p+1) is where the decomposition has the user's id, and a user it never met stands there as well. In training
a row's own ad is left out of its history, so that what the graph says of the row is not what it was told.

A pair's inner product is the cosine in the pooled space and in the domain's own, over a temperature, and what a convolution
(trainer/convolution.py) and a factorisation (trainer/factors.py) of the pooled graph say of it. Nothing is learned on top of the
rows, only beside them, so `fit` can replace them by those of a newer graph, whose space is turned.

Shapes: B rows, L history length, A ad codes, K columns of the pooled rows, J of a domain's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackError, svds
from torch import Tensor, nn
from torch.nn import functional

from contracts.schema import AD_ID, FeatureSchema
from trainer.convolution import convolved_rows
from trainer.factors import factored_rows
from trainer.graph import id_fields, interactions
from trainer.sampling import Entities, training_pairs

# Validation Recall of the graph and the popularity alone, XMarket @10 among 99 uniform ads of the market / EDDA Ali-CCP d0, d2
# @50 of all: a .5 .637 / .044, .029 (inner products); a .4, p 1.5, T .1 .664 / .136, .115; p 2, T .08 .670 / .135, .115; p 3,
# T .07 .668 / .135, .114. Inner products instead of cosines: .636 / .108, .091. 128 columns: .665 / .128, .110.
# All that stands here, XMarket @50 of all, @10 among 99 / EDDA d0, d2: 256 pooled columns without factors .529, .663 / .137,
# .119, with 128 factors .533, .664 / .142, .123; 128 columns with 128 factors .532, .668 / .142, .123, with 256 .533, .668 /
# .142, .127. With towers trained beside, factors that weigh .64 have .528, .666, of .32 .528, .669, of .16 .528, .672.
DEGREE_POWER = 0.4  # a
_SPECTRUM_POWER = 2.0  # p
_NOTHING = 1e-4  # of the typical row's norm: shorter ones are rounding
_SEED = 20_220_628
_WHOLE_ADS = 2_048  # up to here a dense decomposition takes 2 s at most
STRENGTHS = (1.0, 0.5, 0.25, 0.1, 0.0)
_FITTED: dict[bytes, dict[str, Tensor]] = {}
_FITTED_KEPT = 4  # with and without the held-out split, of two configurations


@dataclass(frozen=True)
class GraphConfig:
    """own_weight: of the domain's own graph against the pooled one, for a user all of whose history is of the domain.
    convolved_weight, factored_weight: of the learned cosine, and of the factors, against those two together."""

    pooled_width: int = 128
    own_width: int = 128
    own_weight: float = 0.5
    convolved_width: int = 64
    convolved_weight: float = 0.2
    factored_width: int = 128
    factored_weight: float = 0.16
    temperature: float = 0.08


class GraphPart(nn.Module):
    """user(codes, domain) and ad(codes, domain) -> (B, width), to stand beside what the towers say. Needs a history of ads among
    the user's features. own_width 0: the pooled graph alone. strength: one number that everything it says is scaled by."""

    strength: Tensor
    pooled_AK: Tensor
    has_edges_AG: Tensor  # float32: in the pooled graph, then in each domain's
    past_AW: Tensor  # what a history is summed from, where ads stand at convolved_AW (trainer/convolution.py)
    convolved_AW: Tensor
    past_AF: Tensor  # the same for the factors (trainer/factors.py)
    factored_AF: Tensor

    def __init__(self, schema: FeatureSchema, config: GraphConfig) -> None:
        super().__init__()
        history = history_columns(schema)
        if history is None:
            raise ValueError("no history of ads to know a user by")
        self.history, self.config = history, config
        _, ad = id_fields(schema)
        self.ad_id_column = ad.start
        self.width = config.pooled_width + config.own_width + config.convolved_width + config.factored_width
        self.register_buffer("strength", torch.ones(()))
        self.register_buffer("pooled_AK", torch.zeros(ad.cardinality, config.pooled_width))
        self.register_buffer("has_edges_AG", torch.zeros(ad.cardinality, 1 + len(schema.domains)))
        for name in ("past_AW", "convolved_AW") if config.convolved_width else ():
            self.register_buffer(name, torch.zeros(ad.cardinality, config.convolved_width))
        for name in ("past_AF", "factored_AF") if config.factored_width else ():
            self.register_buffer(name, torch.zeros(ad.cardinality, config.factored_width))
        for domain in range(len(schema.domains) if config.own_width else 0):  # apart: an exported tower holds its domain's alone
            self.register_buffer(f"own_{domain}", torch.zeros(ad.cardinality, config.own_width))

    @torch.no_grad()
    def fit(self, tables: Entities) -> None:
        """Take the rows of the training positives' graph: no draw and no seed decides them, so a process that fits many models to
        the same positives decomposes them once."""
        key = hashlib.sha256(b"".join(one.tobytes() for one in training_pairs(tables)))
        key.update(repr((self.config, {name: tuple(one.shape) for name, one in self.named_buffers()})).encode())
        if key.digest() not in _FITTED:
            self._fit(tables)
            _FITTED[key.digest()] = {name: one.clone() for name, one in self.named_buffers() if name != "strength"}
            while len(_FITTED) > _FITTED_KEPT:
                del _FITTED[next(iter(_FITTED))]
        self.load_state_dict(_FITTED[key.digest()], strict=False)

    def _fit(self, tables: Entities) -> None:
        graphs = [interactions(tables), *(interactions(tables, domain) for domain in range(len(tables.schema.domains)))]
        self.has_edges_AG.copy_(torch.from_numpy(np.stack([one.sum(axis=0) > 0 for one in graphs], axis=1)))
        self.pooled_AK.copy_(torch.from_numpy(ad_rows(graphs[0], self.config.pooled_width)))
        for domain, graph in enumerate(graphs[1:] if self.config.own_width else []):
            self._own(domain).copy_(torch.from_numpy(ad_rows(graph, self.config.own_width)))
        if self.config.convolved_width:
            past_AW, convolved_AW = convolved_rows(tables, self.history, self.config.convolved_width)
            self.past_AW.copy_(torch.from_numpy(past_AW))
            self.convolved_AW.copy_(torch.from_numpy(convolved_AW))
        if self.config.factored_width:
            past_AF, factored_AF = factored_rows(graphs[0], self.config.factored_width)
            self.past_AF.copy_(torch.from_numpy(past_AF))
            self.factored_AF.copy_(torch.from_numpy(factored_AF))

    def user(self, codes: Tensor, domain: int) -> Tensor:
        """The own part counts for as much of the history as the domain's graph knows: where half of what users take is of
        other domains (EDDA Ali-CCP), their own graph alone is the poorer one."""
        history_BL = codes[:, self.history]
        parts = [_unit(_sum(self.pooled_AK, history_BL))]
        if self.config.own_width:
            known_BG = _sum(self.has_edges_AG, history_BL)
            weight_B1 = self.config.own_weight * known_BG[:, 1 + domain, None] / known_BG[:, :1].clamp(min=1.0)
            own_BJ = _unit(_sum(self._own(domain), history_BL))
            parts = [parts[0] * (1.0 - weight_B1), own_BJ * weight_B1]
        if self.config.convolved_width:
            parts.append(self.config.convolved_weight * _unit(_sum(self.past_AW, history_BL)))
        if self.config.factored_width:
            parts.append(self.config.factored_weight * _unit(_sum(self.past_AF, history_BL)))
        return torch.cat(parts, dim=1) * (self.strength / self.config.temperature)

    def ad(self, codes: Tensor, domain: int) -> Tensor:
        """Cosines but for the factors: how long an ad's are says how often it is taken where it is."""
        code_B = codes[:, self.ad_id_column]
        tables = [self.pooled_AK, *([self._own(domain)] if self.config.own_width else [])]
        tables += [self.convolved_AW] if self.config.convolved_width else []
        parts = [_unit(functional.embedding(code_B, one)) for one in tables]
        parts += [functional.embedding(code_B, self.factored_AF)] if self.config.factored_width else []
        return torch.cat(parts, dim=1)

    def _own(self, domain: int) -> Tensor:
        return self.get_buffer(f"own_{domain}")


def settle(graphs: Sequence[GraphPart], measure: Callable[[], float | None]) -> None:
    """Gives all of them the strength with the best measure, the strongest of equals; full strength where there is no measure.
    Before the towers learn, so that they learn beside it. What people take together tells little where they take what is shown:
    on the demo the whole graph has Recall@50 .17 where the popular ads have .22."""
    found: dict[float, float] = {}
    for strength in STRENGTHS:
        for graph in graphs:
            graph.strength.fill_(strength)
        value = measure()
        if value is None:
            break
        found[strength] = value
    best = max(found, key=lambda one: found[one]) if len(found) == len(STRENGTHS) else STRENGTHS[0]
    for graph in graphs:
        graph.strength.fill_(best)


def history_columns(schema: FeatureSchema) -> slice | None:
    """Where the first sequence of ads stands in the user codes."""
    sequences = [one for one in schema.block("user").fields if one.kind == "sequence" and one.table == AD_ID]
    return sequences[0].columns if sequences else None


def ad_rows(taken_UA: sparse.csr_array, width: int, power: float = _SPECTRUM_POWER) -> NDArray[np.float32]:
    """x (A, width) float32, of mean square norm 1, power: p; zero for an ad nobody took, and in columns beyond the graph's rank.
    The same for the same graph: Lanczos from a seeded start. A randomised decomposition of 3 passes lost a quarter of the recall
    on EDDA, whose spectrum is flat; one of 16 lost 2% and took 18 s, Lanczos 12."""
    user, ad = (np.flatnonzero(np.asarray(taken_UA.sum(axis=axis))) for axis in (1, 0))
    rows_AK = np.zeros((taken_UA.shape[1], width), dtype=np.float32)
    if not len(ad):
        return rows_AK
    taken = taken_UA[user][:, ad]
    of_user, of_ad = (np.asarray(taken.sum(axis=axis)) ** -DEGREE_POWER for axis in (1, 0))
    scaled = sparse.diags_array(of_user) @ taken @ sparse.diags_array(of_ad)
    spectrum, right = _leading(scaled, width)
    kept = np.argsort(-spectrum)[:width]
    found = of_ad[:, None] * right[kept].T * spectrum[kept] ** power
    rows_AK[ad, : len(kept)] = found / np.sqrt(np.square(found).sum(axis=1).mean())
    return rows_AK


def _leading(matrix_UA: sparse.csr_array, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The leading singular values and the right vectors, a row each. Small graphs by the whole eigendecomposition: their
    spectrum has runs of equal values (ads of one user each), where Lanczos may stop with an error (seen once on the demo's)."""
    ads = matrix_UA.shape[1]
    if ads <= _WHOLE_ADS:
        squares, right_AK = eigh((matrix_UA.T @ matrix_UA).toarray(), subset_by_index=[max(0, ads - width), ads - 1])
        return np.sqrt(np.maximum(squares, 0.0)), right_AK.T
    if width >= min(matrix_UA.shape) // 2:  # few users: Lanczos wants more columns than asked for
        _, spectrum, right = np.linalg.svd(matrix_UA.toarray(), full_matrices=False)
        return spectrum, right
    start = np.random.default_rng(_SEED).standard_normal(min(matrix_UA.shape))
    asked: dict[str, Any] = {"k": width, "v0": start, "return_singular_vectors": "vh"}
    try:
        _, spectrum, right = svds(matrix_UA, **asked)
    except ArpackError:  # a run of equal values around the last one asked for: a larger basis tells them apart
        _, spectrum, right = svds(matrix_UA, ncv=min(4 * width, min(matrix_UA.shape)), **asked)
    return spectrum, right


def _sum(rows_AK: Tensor, history_BL: Tensor) -> Tensor:
    """The sum (B, K) of the rows of each history; padding and the unknown ad have zeros. A graph that is exported has no bag, and
    gathers what a batch would need .4 GB for."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return functional.embedding(history_BL, rows_AK).sum(dim=1)
    return functional.embedding_bag(history_BL, rows_AK, mode="sum")


def _unit(rows_BK: Tensor) -> Tensor:
    return functional.normalize(rows_BK, dim=1, eps=_NOTHING)
