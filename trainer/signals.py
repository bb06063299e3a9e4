"""Signals: a small network over what the graph of users and ads says of a pair, for data where who took what is all there is.

An inner product of two towers adds what the ads of a history say one by one; what the network reads besides is not additive: the
closest ad of the history, a soft count of close ones, the cosine at several depths of the spectrum, each to be believed more or
less by how long the history and how popular the ad is.

The network learns from training pairs that were withheld from the graph (trainer/withheld.py), where only positives are known
against ads drawn uniformly from the domain; then the graph is made of everything. So no row is told of itself. An ad of the
history is looked at without its own place in it.

Shapes: B rows, R users (B, or 1 for all), L history length, A ad codes, D domains, K columns of a space, S signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.errors import BadInput
from contracts.schema import PAD, FeatureSchema
from trainer.batches import with_negatives
from trainer.fit import FitSettings
from trainer.graph import id_fields, interactions
from trainer.layers import MLP, Inputs, Ranker
from trainer.propagation import propagated_rows
from trainer.spectral import DEGREE_POWER, ad_rows, history_columns
from trainer.tables import Tables
from trainer.two_tower import device_of
from trainer.withheld import Withheld

_NOTHING = 1e-4  # a norm below it is rounding
_CLOSE = 0.1  # of the soft count: log sum exp(cosine / _CLOSE)
_FAINT = 1e-3  # its value for an empty history
_POOLED_COUNTS = 0.1  # pseudo-counts an ad, spread as all domains take it, in the smoothed popularity
_WITHHELD = 0.1
_READ_EVENTS, _READ_ROWS = 2_048, 8_192
_MOST_EVENTS = 200_000


@dataclass(frozen=True)
class SignalsConfig:
    """deep_width: columns of the pooled space at p = 1, where what is rare shows; pooled_width: those of it that are read at p =
    2 as well, shallow_width: the first of these, read once more alone. drawn: negatives a positive that are read; they weigh as
    much as the settings' negatives, which p_click is relative to. batch_events: positives a step, with all they are
    compared with."""

    deep_width: int = 512
    pooled_width: int = 256
    shallow_width: int = 64
    own_width: int = 128
    propagated_width: int = 64
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.1
    decay: float = 1e-3
    drawn: int = 50
    batch_events: int = 128


VARIANTS: dict[str, dict[str, Any]] = {}


class Signals(Ranker):
    deep_AK: Tensor  # p = 1
    pooled_AK: Tensor  # p = 2
    own_FK: Tensor  # (D * A, K), domain by domain
    past_AW: Tensor
    propagated_AW: Tensor
    log_count_F3: Tensor  # (D * A, 3): of the domain, of all, smoothed
    mean_S: Tensor
    deviation_S: Tensor

    def __init__(self, schema: FeatureSchema, config: SignalsConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        history = history_columns(schema)
        if history is None:
            raise BadInput("signals ranks by the ads of a user's history, and there is none", "choose another ranker")
        self.history, self.config = history, config
        self.ad_id_column, ads = id_fields(schema)[1].start, id_fields(schema)[1].cardinality
        self.ads, self.domains = ads, len(schema.domains)
        signals = 15
        sizes = {
            "deep_AK": (ads, config.deep_width),
            "pooled_AK": (ads, config.pooled_width),
            "own_FK": (self.domains * ads, config.own_width),
            "past_AW": (ads, config.propagated_width),
            "propagated_AW": (ads, config.propagated_width),
            "log_count_F3": (self.domains * ads, 3),
            "mean_S": (signals,),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("deviation_S", torch.ones(signals))
        self.linear = nn.Linear(signals, 1)
        self.network = MLP(signals + self.domains, config.hidden, config.dropout, output=1)

    def forward(self, inputs: Inputs) -> Tensor:
        domain_BD = functional.one_hot(inputs.domain, self.domains).float().expand(inputs.rows, -1)
        return self._logit((self.signals(inputs) - self.mean_S) / self.deviation_S, domain_BD)

    def signals(self, inputs: Inputs) -> Tensor:
        """(B, S), as they are: log counts (of the domain, of all, smoothed), log length of the history, its mean log count; inner
        product in the propagated space; cosines of user and ad in the propagated, the deep, the shallow, the pooled and the
        domain's own space; the closest ad of the history and the soft count of close ones in the last two."""
        history_RL = inputs.user_codes[:, self.history].long()
        ad_B = inputs.ad_codes[:, self.ad_id_column].long()
        first_R = inputs.domain * self.ads
        own_RL, own_B = history_RL + first_R[:, None], ad_B + first_R
        other_BL = (history_RL != PAD) & (history_RL != ad_B[:, None])
        inside_B1 = (history_RL == ad_B[:, None]).any(dim=1, keepdim=True).float()
        length_B1 = other_BL.sum(dim=1, keepdim=True).float()
        count_B3 = functional.embedding(own_B, self.log_count_F3)
        past_RL = functional.embedding(own_RL, self.log_count_F3)[:, :, 1]
        popular_B1 = (past_RL * other_BL).sum(dim=1, keepdim=True) / length_B1.clamp(min=1.0)
        propagated = _sums(self.past_AW, self.propagated_AW, history_RL, ad_B, inside_B1)
        deep = _sums(self.deep_AK, self.deep_AK, history_RL, ad_B, inside_B1)
        pooled = _sums(self.pooled_AK, self.pooled_AK, history_RL, ad_B, inside_B1)
        own = _sums(self.own_FK, self.own_FK, own_RL, own_B, inside_B1)
        shallow = tuple(one[:, : self.config.shallow_width] for one in pooled)
        inner_B1 = (propagated[0] * propagated[1]).sum(dim=1, keepdim=True) * length_B1.clamp(min=1.0) ** -0.5
        parts = [count_B3, length_B1.log1p(), popular_B1, inner_B1]
        parts += [_cosine(one) for one in (propagated, deep, shallow, pooled, own)]
        parts += _closest(self.pooled_AK, history_RL, ad_B, other_BL)
        parts += _closest(self.own_FK, own_RL, own_B, other_BL)
        return torch.cat(parts, dim=1)

    def fit_whole(self, tables: Tables, settings: FitSettings) -> None:
        """The network from withheld pairs; then the graph of everything."""
        known = Withheld(tables, _WITHHELD, self.history, settings.seed)
        self._take_graph(known)
        self._learn(known, tables, settings)
        self._take_graph(tables)

    @torch.no_grad()
    def _take_graph(self, tables: Any) -> None:
        graphs = [interactions(tables, domain) for domain in range(self.domains)]
        pooled = interactions(tables)
        deep_AK = ad_rows(pooled, self.config.deep_width, power=1.0)
        degree_A = np.asarray(pooled.sum(axis=0))
        spectrum_K = np.sqrt(
            np.square(deep_AK * degree_A[:, None] ** DEGREE_POWER).sum(axis=0)
        )  # of columns that were orthonormal
        own = [ad_rows(one, self.config.own_width) for one in graphs]
        past_AW, propagated_AW = propagated_rows(tables, self.config.propagated_width)
        count_DA, total_A = np.stack([np.asarray(one.sum(axis=0)) for one in graphs]), degree_A + 1.0
        smoothed_DA = count_DA + _POOLED_COUNTS * len(total_A) * total_A / total_A.sum()
        counts = (count_DA + 0.5, np.broadcast_to(degree_A + 0.5, count_DA.shape), smoothed_DA)
        found = {
            "deep_AK": deep_AK,
            "pooled_AK": (deep_AK * spectrum_K / max(spectrum_K.max(), _NOTHING))[:, : self.config.pooled_width],
            "own_FK": np.concatenate(own),
            "past_AW": past_AW,
            "propagated_AW": propagated_AW,
            "log_count_F3": np.log(np.stack(counts, axis=2)).reshape(-1, 3),
        }
        for name, rows in found.items():
            self.get_buffer(name).copy_(torch.from_numpy(rows.astype(np.float32)))

    def _learn(self, known: Withheld, tables: Tables, settings: FitSettings) -> None:
        torch.manual_seed(settings.seed)
        for one in (self.linear, *self.network.linears):
            one.reset_parameters()
        given = self._read(known, tables, settings)
        if not len(given.label):
            return
        self.mean_S.copy_(given.signals.mean(dim=0))
        self.deviation_S.copy_(given.signals.std(dim=0, correction=0).clamp(min=_NOTHING))
        optimizer = torch.optim.AdamW(self.parameters(), lr=settings.learning_rate, weight_decay=self.config.decay)
        events = int(given.event.max()) + 1
        steps = -(-events // self.config.batch_events)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.epochs * steps)
        order = torch.argsort(given.event, stable=True)
        sizes = torch.bincount(given.event, minlength=events)
        start = sizes.cumsum(0) - sizes
        rng = np.random.default_rng(settings.seed)
        self.train()
        for _ in range(settings.epochs):
            for part in np.array_split(rng.permutation(events), steps):
                rows = torch.cat([order[start[one] : start[one] + sizes[one]] for one in part])
                logit = self._logit((given.signals[rows] - self.mean_S) / self.deviation_S, given.domain[rows])
                loss = functional.binary_cross_entropy_with_logits(logit, given.label[rows], given.weight[rows], reduction="sum")
                optimizer.zero_grad()
                (loss / len(part)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        self.eval()

    @torch.no_grad()
    def _read(self, known: Withheld, tables: Tables, settings: FitSettings) -> _Given:
        """The withheld events, of positives only with drawn negatives; of those the user has taken none."""
        self.eval()
        where = device_of(self)
        rng = np.random.default_rng(settings.seed)
        drawn = self.config.drawn if tables.positives_only else 0
        rows = known.rows[
            np.arange(min(len(known.rows), _MOST_EVENTS)) * len(known.rows) // max(1, min(len(known.rows), _MOST_EVENTS))
        ]
        parts: list[tuple[Tensor, ...]] = []
        for begin in range(0, len(rows), _READ_EVENTS):
            batch = tables.batch("train", rows[begin : begin + _READ_EVENTS])
            if drawn:
                batch = with_negatives(tables, batch, drawn, rng)
            whole = torch.from_numpy(tables.user_block(batch.user_row.numpy(), batch.inputs.domain.numpy())[0][:, self.history])
            taken = (whole == batch.inputs.ad_codes[:, self.ad_id_column, None]).any(dim=1) & (batch.label == 0)
            codes = known.forgotten(batch.inputs.user_codes.numpy(), batch.user_row.numpy())
            inputs = batch.inputs._replace(user_codes=torch.from_numpy(codes))
            event = begin + torch.arange(len(batch.label)) % min(_READ_EVENTS, len(rows) - begin)
            weight = torch.where(batch.label > 0, 1.0, settings.negatives / drawn if drawn else 1.0)
            domain = functional.one_hot(inputs.domain, self.domains).float()
            for piece in torch.split(torch.arange(len(event))[~taken | (drawn == 0)], _READ_ROWS):
                some = Inputs(*(None if one is None else one[piece].to(where) for one in inputs))  # type: ignore[arg-type]
                parts.append((self.signals(some), domain[piece], batch.label[piece], weight[piece], event[piece]))
        return _Given(*(torch.cat(column).to(where) for column in zip(*parts, strict=True)))

    def _logit(self, standard_BS: Tensor, domain_BD: Tensor) -> Tensor:
        found_B1: Tensor = self.linear(standard_BS) + self.network(torch.cat([standard_BS, domain_BD], dim=1))
        return found_B1.squeeze(1)


class _Given(NamedTuple):
    """What the network learns from, an impression a row; event: which of the withheld events it belongs to."""

    signals: Tensor
    domain: Tensor
    label: Tensor
    weight: Tensor
    event: Tensor


def _sums(past_AK: Tensor, rows_AK: Tensor, history_RL: Tensor, ad_B: Tensor, inside_B1: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the rows of the history, the ad's own left out, and the row of the ad: (B, K) each."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # a graph that is exported has no bag
        sum_RK = functional.embedding(history_RL, past_AK).sum(dim=1)
    else:
        sum_RK = functional.embedding_bag(history_RL, past_AK, mode="sum")
    return sum_RK - inside_B1 * functional.embedding(ad_B, past_AK), functional.embedding(ad_B, rows_AK)


def _cosine(pair: tuple[Tensor, ...]) -> Tensor:
    """(B, 1); 0 where there is nothing to compare."""
    user_BK, ad_BK = (functional.normalize(one, dim=1, eps=_NOTHING) for one in pair)
    return (user_BK * ad_BK).sum(dim=1, keepdim=True)


def _closest(rows_AK: Tensor, history_RL: Tensor, ad_B: Tensor, other_BL: Tensor) -> list[Tensor]:
    """The cosine of the ad and the closest ad of the history, and the soft count of close ones: (B, 1) each."""
    ad_BK = functional.normalize(functional.embedding(ad_B, rows_AK), dim=1, eps=_NOTHING)
    if history_RL.shape[0] == 1:
        cosine_BL = ad_BK @ functional.normalize(functional.embedding(history_RL[0], rows_AK), dim=1, eps=_NOTHING).T
    else:  # most places of most histories are empty
        row, place = other_BL.nonzero(as_tuple=True)
        past_PK = functional.normalize(functional.embedding(history_RL[row, place], rows_AK), dim=1, eps=_NOTHING)
        cosine_BL = torch.zeros(other_BL.shape, device=ad_BK.device)
        cosine_BL[row, place] = (past_PK * ad_BK[row]).sum(dim=1)
    largest_B1 = torch.where(other_BL, cosine_BL, -1.0).max(dim=1, keepdim=True).values
    count_B1 = ((cosine_BL / _CLOSE).exp() * other_BL).sum(dim=1, keepdim=True)
    return [largest_B1, (count_B1 + _FAINT).log()]
