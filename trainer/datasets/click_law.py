"""The simulator's people, ads and click law: planted domain-sensitive features beside neutral ones and decoys.

logit p(click | user u, ad a, domain d) =
    base_d + interest_d[interest_u] + topic_d . mean(recent_topics_u) + gap_d * gap_ud + age[age_u]         the user in the domain
  + format_d[slot_format_ad] + quality_ad + price * price_a + drift_ad * (day / days - 1/2)                 the ad in the domain
  + match * [interest_u = category_a] + (turn_d * taste_u) . style_a                                         the pair
  + hour[h] - position * log(1 + position)                                                                  the impression
Whatever has an index d differs by domain: `interest` and `slot_format` (categorical), `days_since_visit` (numeric),
`recent_topics` (sequence); their distributions differ by domain too. device_id, advertiser_id and session_id are random ids.

Four domains have written coefficients; where there are more, the others' are drawn and the k-th has 1 / k of the first's traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DOMAINS = ("feed", "search", "story", "video")
SHARES = (0.50, 0.25, 0.17, 0.08)  # of the impressions
CATEGORIES, FORMATS, AGES, TASTES = 12, 6, 7, 6
SENSITIVE = {"categorical": ["interest", "slot_format"], "numeric": ["days_since_visit"], "sequence": ["recent_topics"]}
DECOYS = ["device_id", "advertiser_id", "session_id"]
NEUTRAL = ["age_band", "tenure_days", "watch_seq", "category", "creative_size", "price", "hour", "network"]

_BASE = (-2.6, -1.5, -2.9, -1.9)
_GAP_EFFECT = (0.6, -0.6, 0.3, -0.3)
_GAP_CENTRE = (0.2, 1.8, 1.0, 2.6)  # log days
_BID = (0.6, 1.2, 0.4, 0.9)
_MATCH, _PRICE, _POSITION = 0.8, -0.15, 0.35
_MAX_TOPICS, _MAX_WATCHED = 20, 20


@dataclass(frozen=True)
class Sizes:
    """decoys: how many values device_id, advertiser_id and session_id are each drawn from; None: one device a user, three
    advertisers for four ads, 20,000 sessions."""

    users: int = 3_000
    ads: int = 2_000
    impressions: int = 120_000
    days: int = 10
    domains: int = len(DOMAINS)
    decoys: int | None = None

    @property
    def domain_names(self) -> tuple[str, ...]:
        return (*DOMAINS, *(f"domain{number}" for number in range(len(DOMAINS) + 1, self.domains + 1)))[: self.domains]

    @property
    def shares(self) -> Array:
        """Of the impressions, by domain."""
        return np.asarray(SHARES) if self.domains == len(DOMAINS) else _normalised(1.0 / np.arange(1, self.domains + 1))

    @property
    def sessions(self) -> int:
        return self.decoys or 20_000


class World:
    """Everything that holds still, drawn from one seed. U users, A ads, D domains; row numbers are the ids' numbers."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self.sizes = sizes
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self._draw_law(rng)
        self._draw_users(rng)
        self._draw_ads(rng)

    def click_probability(
        self, user: Array, ad: Array, domain: Array, day: Array | float, hour: Array | int, position: Array | int
    ) -> Array:
        """The law above. Row numbers and context of broadcastable shape (N,) -> (N,) float64. day: 0 .. days, fractions too."""
        logit = self.user_logit_UD[user, domain] + self.ad_logit_AD[ad, domain]
        logit = logit + self.drift_AD[ad, domain] * (np.asarray(day) / self.sizes.days - 0.5)
        logit = logit + self.affinity(user, ad, domain)
        logit = logit + self.hour_H[hour] - _POSITION * np.log1p(np.asarray(position, dtype=np.float64))
        return np.asarray(1.0 / (1.0 + np.exp(-logit)))

    def affinity(self, user: Array, ad: Array, domain: Array) -> Array:
        """The pair's part of the logit."""
        taste = (self.turn_DK[domain] * self.taste_UK[user] * self.style_AK[ad]).sum(axis=-1)
        return np.asarray(_MATCH * (self.interest_U[user] == self.category_A[ad]) + taste)

    def coefficients(self) -> dict[str, Any]:
        """The law's numbers by domain, for the truth file."""
        return {
            "base": self._by_domain(self.base_D),
            "interest": self._by_domain(self.interest_DC),
            "recent_topics": self._by_domain(self.topic_DC),
            "slot_format": self._by_domain(self.format_DF),
            "days_since_visit": self._by_domain(self.gap_effect_D),
            "match": _MATCH,
            "price": _PRICE,
            "position": _POSITION,
        }

    def _by_domain(self, values: Array) -> dict[str, Any]:
        return dict(zip(self.sizes.domain_names, values.tolist(), strict=True))

    def _draw_law(self, rng: np.random.Generator) -> None:
        domains = self.sizes.domains
        more, n = np.random.default_rng([self.seed, 3]), max(0, domains - len(DOMAINS))
        self.base_D = np.concatenate([_BASE, more.normal(-2.2, 0.5, n)])[:domains]
        self.gap_effect_D = np.concatenate([_GAP_EFFECT, more.uniform(0.3, 0.6, n) * more.choice([-1.0, 1.0], n)])[:domains]
        self.gap_centre_D = np.concatenate([_GAP_CENTRE, more.uniform(0.2, 2.6, n)])[:domains]
        self.bid_D = np.concatenate([_BID, more.uniform(0.4, 1.2, n)])[:domains]
        self.interest_DC = rng.normal(0, 0.7, (domains, CATEGORIES))
        self.topic_DC = rng.normal(0, 0.9, (domains, CATEGORIES))
        self.format_DF = rng.normal(0, 0.6, (domains, FORMATS))
        self.format_share_DF = rng.dirichlet(np.full(FORMATS, 0.5), domains)
        self.age_effect = rng.normal(0, 0.2, AGES)
        self.hour_H = 0.25 * np.sin((np.arange(24) - 13) * np.pi / 12)
        # Half of the tastes hold everywhere, the others turn from domain to domain.
        self.turn_DK = np.where(np.arange(TASTES) < TASTES // 2, 1.0, rng.choice([-1.0, 1.0], (domains, TASTES)))

    def _draw_users(self, rng: np.random.Generator) -> None:
        users, domains = self.sizes.users, self.sizes.domains
        self.interest_U = rng.choice(CATEGORIES, users, p=_falling(CATEGORIES))
        self.age_U = rng.integers(0, AGES, users)
        self.tenure_U = rng.lognormal(5.5, 0.9, users).astype(np.int64) + 1
        self.taste_UK = rng.normal(0, 0.55, (users, TASTES))
        self.activity_U = _normalised(rng.lognormal(0, 0.8, users))
        lengths = rng.integers(1, _MAX_TOPICS + 1, users)
        own = rng.random((users, _MAX_TOPICS)) < 0.6
        topics = np.where(own, self.interest_U[:, None], rng.integers(0, CATEGORIES, (users, _MAX_TOPICS)))
        within = np.arange(_MAX_TOPICS) < lengths[:, None]
        self.topics_U = [row[:length] for row, length in zip(topics, lengths, strict=True)]
        topic_UD = (self.topic_DC.T[topics] * within[..., None]).sum(axis=1) / lengths[:, None]
        # Who comes to a domain depends on interest: this is what moves the distributions apart.
        shares_D = self.sizes.shares
        tilt = (
            np.log(shares_D)
            + 1.2 * rng.normal(size=(CATEGORIES, domains))[self.interest_U]
            + rng.normal(0, 0.8, (users, domains))
        )
        share_UD = np.exp(tilt) / np.exp(tilt).sum(axis=1, keepdims=True)
        for _ in range(20):  # rake to the planned shares of impressions
            share_UD *= shares_D / (self.activity_U @ share_UD)
            share_UD /= share_UD.sum(axis=1, keepdims=True)
        self.domain_share_UD = share_UD
        self.gap_UD = rng.normal(0, 0.6, (users, domains))
        self.days_since_visit_UD = np.exp(self.gap_centre_D + self.gap_UD)
        self.user_logit_UD = (
            self.base_D
            + self.interest_DC.T[self.interest_U]
            + topic_UD
            + self.gap_effect_D * self.gap_UD / 0.6
            + self.age_effect[self.age_U][:, None]
        )

    def _draw_ads(self, rng: np.random.Generator) -> None:
        ads, domains = self.sizes.ads, self.sizes.domains
        self.category_A = rng.integers(0, CATEGORIES, ads)
        self.price_A = rng.lognormal(3, 0.7, ads)
        self.style_AK = rng.normal(0, 0.55, (ads, TASTES))
        self.popularity_A = rng.lognormal(0, 1.0, ads)
        self.eligible_AD = rng.random((ads, domains)) < 0.6
        self.eligible_AD[np.arange(ads), rng.integers(0, domains, ads)] = True
        self.active_AD = rng.random((ads, domains)) < 0.95
        self.bid_AD = np.round(rng.lognormal(np.log(self.bid_D), 0.5, (ads, domains)), 3)
        draws = rng.random((ads, domains, 1))
        self.format_AD = (draws > np.cumsum(self.format_share_DF, axis=1)[None, :, :-1]).sum(axis=-1)
        self.drift_AD = rng.normal(0, 0.6, (ads, domains))
        quality_AD = rng.normal(0, 0.35, (ads, 1)) + rng.normal(0, 0.25, (ads, domains))
        price = (np.log(self.price_A) - 3) / 0.7
        self.ad_logit_AD = self.format_DF[np.arange(domains), self.format_AD] + quality_AD + _PRICE * price[:, None]
        self.advertiser_A = rng.integers(0, self.sizes.decoys or max(1, ads * 3 // 4), ads)
        self.creative_A = rng.integers(0, 5, ads)


def _falling(n: int) -> Array:
    return _normalised(1.0 / np.sqrt(np.arange(1, n + 1)))


def _normalised(weights: Array) -> Array:
    return np.asarray(weights / weights.sum())
