"""Two rankings of the same request as one slate, by team draft: in each round a coin says which side picks first, then each
side picks the best of its own ranking that is not yet there (Radlinski, Kurup & Joachims, "How Does Clickthrough Data Reflect
Retrieval Quality?", CIKM 2008, section 4.2). A click speaks for the side that picked the ad.

Which clicks count: those on a place that would hold another ad, had its round's coin fallen the other way. Where both sides
want the same ad, it stands there whoever wins it, so its click is a toss of the coin: no evidence in the mean, noise in the
sum. So are the places that only one ranking has ads left for. Leaving them out favours nobody: if clicks do not depend on
the ads, but on the places in whatever way, each round's credit is as often for one side as for the other, whatever the
rankings are; and two equal rankings never get any.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from itertools import count
from typing import Generic, NamedTuple, TypeVar

Ad = TypeVar("Ad", bound=Hashable)
"""What names an ad; ids where the merge serves."""
Rankings = tuple[Sequence[Ad], Sequence[Ad]]


class Pick(NamedTuple, Generic[Ad]):
    """One place of the slate. team: 0 or 1, who picked the ad; rank: where it stood in that side's ranking, from 0; counts:
    does a click on it speak for that side?"""

    ad_id: Ad
    team: int
    rank: int
    counts: bool


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
    """At most k picks, fewer only where both rankings together have fewer ads; each ranking best first, without repeats.
    tosses: bit r says which side picks first in round r; two picks make a round."""
    picks: list[Pick[Ad]] = []
    taken: set[Ad] = set()
    at = [0, 0]

    def wants(team: int) -> Ad | None:
        """The best of its ads that is not yet there."""
        ranking, place = rankings[team], at[team]
        end = len(ranking)
        while place < end and ranking[place] in taken:
            place += 1
        at[team] = place
        return ranking[place] if place < end else None

    def pick(ad_id: Ad, team: int, counts: bool) -> None:
        picks.append(Pick(ad_id, team, at[team], counts))
        taken.add(ad_id)

    for number in count():
        left, right = wants(0), wants(1)
        if len(picks) >= k or left is None or right is None:
            break
        first = tosses >> number & 1
        second, differ = 1 - first, left != right
        pick(right if first else left, first, counts=differ)
        if len(picks) < k and (answer := wants(second)) is not None:
            pick(answer, second, counts=differ or wants(first) not in (None, answer))
    for team in (0, 1):
        while len(picks) < k and (ad_id := wants(team)) is not None:
            pick(ad_id, team, counts=False)
    return picks
