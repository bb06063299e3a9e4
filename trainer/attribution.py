"""Which features act differently in different domains: DSFM's offline attribution (arXiv 2405.12892, section "domain-sensitive
feature attribution").

Integrated Gradients of a shared base model's logit, from the zero baseline in 5 right Riemann steps, give every row and
feature an effect; effect-weighted distributions of each feature are compared between all pairs of domains. A histogram
needs non-negative weights, so the effect is |a_ij|.

Finite samples: two histograms of a high-cardinality feature over small domains lie far apart without any shift. The same
distance under permuted domain labels (same sizes) measures that; `corrected` is the distance minus it, and what features are
ranked by. What is exchanged is the entity a feature belongs to, not the single row: all impressions of a user stay
together, or an id of users would seem sensitive merely because every user has favourite domains. Context values may hang on
users as well (a session, a device): they are exchanged between users too, row for row, among users of about as many rows.
In the demo world a random id of five devices a user stands .85 over chance where single rows are exchanged, .00 so.

Scales: Jensen-Shannon (categorical) and Wasserstein (numeric) have different units and are ranked apart, as in the paper. To pick
the top n over all kinds, `divergence` is the corrected Jensen-Shannon sum of every feature, over bins where it is numeric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.errors import BadInput
from contracts.files import aside
from contracts.schema import AD_ID, BLOCK_SIDES, PAD, USER_ID, FeatureSchema, Kind, ModelField, Side
from trainer.layers import FieldEmbedding, Inputs
from trainer.tables import Tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
STEPS = 5
_SUPPORT = 64  # support points of a standardised number's distribution
_FEWEST_ROWS = 100  # a sampled domain below this is in no pair: its histogram says nothing, and the sum would be mostly noise
_PEERS = 10  # users of about as many rows, among whom context values are exchanged
_MANY = 10  # from so many features on the memory holds 5, below it 1 (the paper's choice for its two kinds of data)


class Attributable(Protocol):
    """A ranker that is a function of its tokens, such as SharedDNN."""

    embedding: FieldEmbedding

    def logit(self, tokens_BFE: Tensor) -> Tensor: ...

    def eval(self) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True)
class DomainSensitivity:
    """One feature. raw, permuted: DS_j, the distance summed over domain pairs (nats, or deviations where numeric), and its mean
    under permuted labels; corrected = raw - permuted; rank: 0 the most sensitive among the same kind; divergence: see the
    module."""

    name: str
    kind: Kind
    raw: float
    permuted: float
    corrected: float
    rank: int
    divergence: float


@dataclass(frozen=True)
class Sample:
    """N rows of the log. effect_NF: |a_ij| by token; inputs: the rows' codes; user_N, ad_N: row numbers of the entities."""

    effect_NF: NDArray[np.float32]
    inputs: Inputs
    user_N: NDArray[np.int64]
    ad_N: NDArray[np.int64]

    @property
    def domain_N(self) -> NDArray[np.int64]:
        domain: NDArray[np.int64] = self.inputs.domain.numpy()
        return domain

    def entity_N(self, side: Side) -> NDArray[np.int64]:
        """Which entity a feature of this side belongs to in each row, numbered without gaps; the user for context."""
        owner = self.ad_N if side.startswith("ad") else self.user_N
        key = owner * (self.domain_N.max() + 1) + self.domain_N if side.endswith("domain") else owner
        number: NDArray[np.int64] = np.unique(key, return_inverse=True)[1]
        return number


def effects(model: Attributable, inputs: Inputs) -> Tensor:
    """a_BF, signed: Integrated Gradients of the logit over the tokens, summed over embedding dimensions.

    What is differentiated is the batch's sum of logits, in which each row's gradient is its own: Captum walks over outputs one
    by one in Python, and that was half of an attribution's time.
    """
    from captum.attr import IntegratedGradients  # here: it brings Matplotlib along, two seconds of every command's start

    tokens_BFE = model.embedding(inputs).detach()
    gradients = IntegratedGradients(lambda tokens_BFE: model.logit(tokens_BFE).sum()[None], multiply_by_inputs=True)
    effect_BFE: Tensor = gradients.attribute(tokens_BFE, baselines=0.0, n_steps=STEPS, method="riemann_right")
    return effect_BFE.sum(dim=2)


def attribute(
    model: Attributable,
    tables: Tables,
    split: str = "train",
    rows_limit: int = 50_000,
    permutations: int = 5,
    seed: int = 0,
    batch_rows: int = 1024,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[DomainSensitivity]:
    """Every feature of the model, the most domain-sensitive first. At most `rows_limit` random rows of the split are held.
    permutations: that chance is averaged over; 0: the distance as the paper has it, nothing taken off."""
    rng = np.random.default_rng(seed)
    size = tables.split_size(split)
    rows = np.sort(rng.permutation(size)[:rows_limit])
    if len(rows) == 0:
        raise BadInput(f"no rows in split {split!r} to attribute", "attribute a split that has events")
    model.eval()
    batches = [tables.batch(split, rows[start : start + batch_rows]) for start in range(0, len(rows), batch_rows)]
    where = next(model.parameters()).device
    found = []
    for batch in batches:
        found.append(effects(model, batch.to(where).inputs).abs().cpu().numpy().astype(np.float32))
        progress(len(batch.label))
    columns = list(zip(*(batch.inputs for batch in batches), strict=True))[:-1]
    user, ad = (torch.cat([getattr(batch, one) for batch in batches]).numpy() for one in ("user_row", "ad_row"))
    sample = Sample(np.concatenate(found), Inputs(*(torch.cat(column) for column in columns)), user, ad)
    return measure(tables.schema, model.embedding.names, sample, permutations, rng)


def measure(
    schema: FeatureSchema, names: Sequence[str], sample: Sample, permutations: int, rng: np.random.Generator
) -> list[DomainSensitivity]:
    """The distances of every feature as observed and under permuted labels. names: of the effect columns."""
    sizes = np.bincount(sample.domain_N, minlength=len(schema.domains))
    big = sizes >= _FEWEST_ROWS if (sizes >= _FEWEST_ROWS).sum() > 1 else sizes > 0
    entity_of = {side: sample.entity_N(side) for sides in BLOCK_SIDES.values() for side in sides}
    measured = []
    for block in BLOCK_SIDES:
        for field in (one for one in schema.block(block).fields if one.name in names):
            number_NW, support = _numbered(schema, field, *(one.numpy() for one in sample.inputs.block(block)))
            effect_N = sample.effect_NF[:, names.index(field.name)].astype(np.float64)
            cases = [(number_NW, effect_N)]
            exchanged = _between_peers if field.side == "context" else _permuted
            cases += [exchanged(number_NW, effect_N, entity_of[field.side], rng) for _ in range(permutations)]
            masses = [distributions(*case, sample.domain_N, len(big), len(support))[big] for case in cases]
            divergences = [js_sum(one) for one in masses]
            distances = [wasserstein_sum(one, support) for one in masses] if field.kind == "numeric" else divergences
            measured.append((field, distances[0], _mean(distances[1:]), divergences[0] - _mean(divergences[1:])))
    report = []
    for field, raw, permuted, divergence in measured:
        better = sum(other.kind == field.kind and a - b > raw - permuted for other, a, b, _ in measured)
        report.append(DomainSensitivity(field.name, field.kind, raw, permuted, raw - permuted, better, divergence))
    return sorted(report, key=lambda one: -one.divergence)


def select(report: Sequence[DomainSensitivity], n: int | None = None, mode: Literal["top", "last", "all"] = "top") -> list[str]:
    """Feature names for DSFM's memory. n: 5 by default where features are many, 1 where they are few. The user's and the ad's own
    ids are only part of `all`: their histograms are apart because different people visit different domains."""
    ordered = sorted(report, key=lambda one: -one.divergence)
    if mode == "all":
        return [one.name for one in ordered]
    names = [one.name for one in ordered if one.name not in (USER_ID, AD_ID)] or [one.name for one in ordered]
    kept = (5 if len(names) >= _MANY else 1) if n is None else n
    return names[:kept] if mode == "top" else names[-kept:]


def distributions(number_NW: NDArray[Any], effect_N: Array, domain_N: NDArray[Any], domains: int, values: int) -> Array:
    """P~_DV: effect-weighted shares of the values in each domain, a sequence's elements with a / L each; all zero where a domain
    has no effect at all. number_NW: values by number, -1 for none."""
    row, at = np.nonzero(number_NW >= 0)
    weight = effect_N[row] / (number_NW >= 0).sum(axis=1)[row]
    mass = np.bincount(domain_N[row] * values + number_NW[row, at], weight, domains * values).reshape(domains, values)
    total = mass.sum(axis=1, keepdims=True)
    shares: Array = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    return shares


def js_sum(mass_DV: Array) -> float:
    """Jensen-Shannon divergence in nats, summed over all pairs of domains; a domain without mass is in no pair."""
    mass_DV = mass_DV[mass_DV.sum(axis=1) > 0]
    entropy_D = _entropy(mass_DV)
    total = 0.0
    for first in range(len(mass_DV) - 1):
        middle = (mass_DV[first] + mass_DV[first + 1 :]) / 2
        total += float((_entropy(middle) - (entropy_D[first] + entropy_D[first + 1 :]) / 2).sum())
    return total


def wasserstein_sum(mass_DV: Array, support_V: Array) -> float:
    """1-Wasserstein distance with the L1 ground metric, summed over all pairs of domains that have mass."""
    import ot  # here: it takes a second, and most commands attribute nothing

    mass_DV = mass_DV[mass_DV.sum(axis=1) > 0]
    total = 0.0
    for first in range(len(mass_DV) - 1):
        others_VP = np.ascontiguousarray(mass_DV[first + 1 :].T)
        where_VP = np.repeat(support_V[:, None], others_VP.shape[1], axis=1)
        own_VP = np.repeat(mass_DV[first][:, None], others_VP.shape[1], axis=1)
        total += float(np.sum(ot.wasserstein_1d(where_VP, where_VP, own_VP, others_VP, p=1)))
    return total


def figure(report: Sequence[DomainSensitivity]) -> Figure:
    """A bar a feature, most sensitive on top: the distance, and the part of it that permuted labels show as well. One panel for
    distributions of values, one for numbers, whose unit differs."""
    from matplotlib.figure import Figure  # only who draws needs it, and it is slow to import

    panels = [
        ("Jensen-Shannon, nats over domain pairs", [one for one in report if one.kind != "numeric"]),
        ("Wasserstein, deviations over domain pairs", [one for one in report if one.kind == "numeric"]),
    ]
    shown = [(title, sorted(part, key=lambda one: one.corrected)) for title, part in panels if part]
    heights = [len(part) + 2 for _, part in shown]
    drawn = Figure(figsize=(9, 0.28 * sum(heights) + 1), layout="constrained")
    axes = drawn.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, part) in zip(axes, shown, strict=True):
        names = [one.name for one in part]
        axis.barh(names, [one.raw for one in part], color="#3b6ea5", label="measured")
        axis.barh(names, [one.permuted for one in part], color="#c9d3de", height=0.5, label="under permuted domains")
        axis.set_xlabel(title)
        axis.legend(loc="lower right", frameon=False)
    return drawn


def plot(report: Sequence[DomainSensitivity], path: Path) -> None:
    """The figure as a file; the format follows the path's suffix."""
    with aside(path) as temporary:
        figure(report).savefig(temporary, format=path.suffix.lstrip(".") or "png")


def _numbered(schema: FeatureSchema, field: ModelField, codes_NI: NDArray[Any], dense_NJ: NDArray[Any]) -> tuple[Any, Array]:
    """number_NW: the values of each row numbered 0..V-1, -1 where a sequence has none; support_V: in deviations if numeric."""
    if field.matrix == "dense":
        x = dense_NJ[:, field.start].astype(np.float64)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, _SUPPORT + 1)[1:-1]))
        number = np.unique(np.searchsorted(edges, x, side="right"), return_inverse=True)[1]
        return number[:, None], np.bincount(number, x) / np.bincount(number)
    codes_NW = codes_NI[:, field.columns]
    seen, number = np.unique(codes_NW, return_inverse=True)
    number_NW = number.reshape(codes_NW.shape)
    if field.kind == "sequence":
        number_NW = np.where(codes_NW == PAD, -1, number_NW)
    return number_NW, _bin_centres(schema, field)[seen] if field.kind == "numeric" else np.arange(len(seen), dtype=np.float64)


def _permuted(
    number_NW: NDArray[Any], effect_N: Array, entity_N: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[Any], Array]:
    """Each entity's rows, and with them its domains, handed to another entity with its values and its mean effect."""
    row_of = np.unique(entity_N, return_index=True)[1]
    mean_effect = np.bincount(entity_N, effect_N) / np.bincount(entity_N)
    other_N = rng.permutation(len(row_of))[entity_N]
    return number_NW[row_of[other_N]], mean_effect[other_N]


def _between_peers(
    number_NW: NDArray[Any], effect_N: Array, entity_N: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[Any], Array]:
    """Each user's rows get values and effects of the rows of a peer, in random order, again from the first where the peer has
    fewer. Peers have about as many rows, or values would repeat that had been met once, and chance would look larger."""
    rows_E = np.bincount(entity_N)
    by_rows = np.lexsort((rng.random(len(rows_E)), rows_E))
    peer_E = np.empty(len(rows_E), dtype=np.int64)
    peer_E[by_rows] = by_rows[np.lexsort((rng.random(len(rows_E)), np.arange(len(rows_E)) // _PEERS))]
    order = np.lexsort((rng.random(len(entity_N)), entity_N))  # each entity's rows side by side
    first_E = np.cumsum(rows_E) - rows_E
    peer_N = peer_E[entity_N[order]]
    taken = np.empty(len(entity_N), dtype=np.int64)
    taken[order] = order[first_E[peer_N] + (np.arange(len(order)) - first_E[entity_N[order]]) % rows_E[peer_N]]
    return number_NW[taken], effect_N[taken]


def _bin_centres(schema: FeatureSchema, field: ModelField) -> Array:
    """By code, in deviations from the mean: the middle of each bin, the outer bins at their edge, a missing value at the mean."""
    frozen = schema.numerics[field.name]
    edges = np.asarray(frozen.edges, dtype=np.float64)
    if len(edges) == 0:
        return np.zeros(field.cardinality)
    middles = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
    scaled: Array = np.concatenate([[0.0, 0.0], (middles - frozen.mean) / frozen.deviation])
    return scaled


def _mean(values: Sequence[float]) -> float:
    """0 of none: without permutations nothing is taken off."""
    return float(np.mean(values)) if values else 0.0


def _entropy(mass_DV: Array) -> Array:
    logs = np.log(mass_DV, out=np.zeros_like(mass_DV), where=mass_DV > 0)
    total: Array = -(mass_DV * logs).sum(axis=-1)
    return total
