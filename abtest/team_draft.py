"""Two rankings of the same request as one slate, for a click to say which of them knew better.

It is a team draft (Radlinski, Kurup & Joachims, "How Does Clickthrough Data Reflect Retrieval Quality?", CIKM 2008) in which
each side picks, round by round, not the best of its own slate but what it argues for most: the ad that it puts furthest ahead
of where the other side puts it. Two picks make a round and get two places; a coin says which of the two stands first, or,
where one place is left, which of them stands at all. A click on a pick speaks for the side that argued for the ad, and as
loudly as the two sides disagree about the round's ads (Yue et al., "Learning More Powerful Test Statistics for Click-Based
Retrieval Evaluation", SIGIR 2010, weigh clicks, too). What neither argues for fills the places that are left and speaks for
nobody: the mean would not move, only the noise.

Which ads meet, where they stand and what a click weighs is settled before the coin. So if clicks do not depend on the ads, but
on the places in whatever way, a round's credit is as often for one side as for the other, whatever the rankings are; and two
equal rankings never get any. Every ad shown is of one side's own slate; ads that both would show give way where rounds need
their places.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from hashlib import blake2b
from math import log
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

DEEP = 3
"""How many slates deep a ranking is looked at; beyond, and where a side lacks an ad, it is as if it stood there. Of simulated
slates of 3 (20 ads ranked, kinship .5) at depths of 1, 2, 3 and 7: 5.0, 5.8, 6.1, 6.2 times fewer users than a split."""

Ad = TypeVar("Ad", bound=Hashable)
"""What names an ad; ids where the merge serves."""
Rankings = tuple[Sequence[Ad], Sequence[Ad]]


class Pick(NamedTuple, Generic[Ad]):
    """One place of the slate. team: 0 or 1, who argued for the ad, or else who has it higher, 0 where both alike; rank: where it
    stood in that side's ranking, from 0; weight: of a click on it, for that side; 0: for nobody."""

    ad_id: Ad
    team: int
    rank: int
    weight: float

    @property
    def counts(self) -> bool:
        return self.weight > 0


def coins(experiment: str, user_id: str, request_id: str) -> int:
    """512 fair bits, round r's is bit r: the same for the same request of the same user, so that a slate can be merged again
    from the ledger. The user is in it because a request_id is the caller's: where all of them call their first one "1", they
    would toss one coin."""
    digest = blake2b(digest_size=64, person=b"mdrec team draft")
    for part in (experiment, user_id, request_id):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4) + data)
    return int.from_bytes(digest.digest())


def draft(rankings: Rankings[Ad], k: int, tosses: int) -> list[Pick[Ad]]:
    """At most k picks, fewer only where both rankings together have fewer ads; each ranking best first, without repeats, its
    slate the first k; what follows, up to DEEP k, tells how far behind it has the other's ads. tosses: bit r is round r's coin,
    1 puts side 1 first. A round stands as high as the higher of its picks stood with its side."""
    end = DEEP * k
    first, second = ({ad: at for at, ad in enumerate(ranking[:end])} for ranking in rankings)
    ranks = {ad: (first.get(ad, end), second.get(ad, end)) for ranking in rankings for ad in ranking[:k]}
    lead = {ad: log(2 + ours) - log(2 + theirs) for ad, (ours, theirs) in ranks.items()}  # of side 1 over side 0
    rounds = list(zip(_argued(rankings[0][:k], lead, -1), _argued(rankings[1][:k], lead, 1), strict=False))
    blocks: list[tuple[list[int], list[Pick[Ad]]]] = []  # each with the ranks that say how high it stands
    free = k
    for number, (left, right) in enumerate(rounds[: (k + 1) // 2]):
        weight = (lead[right] - lead[left]) / 2
        picks = [Pick(left, 0, ranks[left][0], weight), Pick(right, 1, ranks[right][1], weight)]
        height = sorted(pick.rank for pick in picks)
        blocks.append((height, (picks[::-1] if tosses >> number & 1 else picks)[:free]))
        free -= 2
    met = {ad for pair in rounds for ad in pair}
    for ad in sorted((ad for ad in ranks if ad not in met), key=lambda ad: sorted(ranks[ad]))[: max(free, 0)]:
        team = int(ranks[ad][1] < ranks[ad][0])
        blocks.append((sorted(ranks[ad]), [Pick(ad, team, ranks[ad][team], 0.0)]))
    return [pick for _, picks in sorted(blocks, key=itemgetter(0)) for pick in picks]


def _argued(slate: Sequence[Ad], lead: Mapping[Ad, float], sign: int) -> list[Ad]:
    """The ads that a side has higher than the other one, what it argues for most first."""
    return sorted((ad for ad in slate if sign * lead[ad] > 0), key=lambda ad: -sign * lead[ad])
