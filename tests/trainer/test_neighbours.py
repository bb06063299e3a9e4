"""item-CF, user-CF and EASE against what their formulas give when written out pair by pair."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tables_world
import torch
from numpy.typing import NDArray
from retrieval_world import ADS, DOMAINS, USERS, World

from trainer.baselines.ease import EASE, EASEConfig
from trainer.baselines.histories import Histories
from trainer.baselines.neighbours import ItemCF, ItemCFConfig, UserCF
from trainer.checkpoint import WEIGHTS, load_weights
from trainer.fit import FitSettings, catch_up, fit_retriever
from trainer.tables import Tables

STRANGER, ELSEWHERE = 5, 7  # a user without any positive, and one without any in domain 0
EVERY_USER, EVERY_AD = np.arange(USERS), np.arange(ADS)
Taken = set[tuple[int, int]]


@pytest.fixture(scope="module")
def world() -> World:
    """Few positives of each user, over ads of all quarters; some pairs in two domains, some twice in one."""
    world, rng = World(), np.random.default_rng(1)
    user, ad, domain = rng.integers(USERS, size=150), (32 * rng.random(150) ** 2).astype(int), rng.integers(DOMAINS, size=150)
    user, ad, domain = (np.append(one, one[:20]) for one in (user, ad, domain))
    domain[-10:] = (domain[-10:] + 1) % DOMAINS
    domain[(user == ELSEWHERE) & (domain == 0)] = 1
    label = (user != STRANGER) & (rng.random(len(user)) < 0.9)
    world.columns = {"user_row": user, "ad_row": ad, "domain": domain, "label": label.astype(np.float32)}
    return world


def taken(world: World, domain: int | None = None) -> Taken:
    rows = zip(*(world.columns[one].tolist() for one in ("user_row", "ad_row", "domain", "label")), strict=True)
    return {(user, ad) for user, ad, where, label in rows if label == 1 and domain in (None, where)}


def popularity(world: World, domain: int) -> NDArray[np.float64]:
    count = np.bincount([ad for _, ad in taken(world, domain)], minlength=ADS)
    return count / (count.max() + 1)


def iou(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)


def item_cf(pairs: Taken, users: int = USERS, ads: int = ADS) -> NDArray[np.float64]:
    who = [{user for user, at in pairs if at == ad} for ad in range(ads)]
    score_UA = np.zeros((users, ads))
    for (user, had), ad in product(pairs, range(ads)):
        score_UA[user, ad] += iou(who[had], who[ad])
    return score_UA


def user_cf(pairs: Taken) -> NDArray[np.float64]:
    what = [{ad for at, ad in pairs if at == user} for user in range(USERS)]
    score_UA = np.zeros((USERS, ADS))
    for user, (other, ad) in product(range(USERS), pairs):
        if user != other:
            score_UA[user, ad] += iou(what[user], what[other]) if what[user] else 0.0
    return score_UA


def fitted(model: Histories, world: World) -> Histories:
    model.fit_whole(world, FitSettings())
    return model.eval()


def scores(model: Histories, world: World, domain: int) -> NDArray[np.float32]:
    return model.scorer(world, EVERY_AD, domain)(EVERY_USER).numpy()


def of_each_kind(world: World) -> list[Histories]:
    models = [ItemCF(world.schema), ItemCF(world.schema, ItemCFConfig(pooled=True)), UserCF(world.schema), EASE(world.schema)]
    return [fitted(one, world) for one in models]


@pytest.mark.parametrize("pooled", [False, True])
def test_item_cf_adds_the_overlap_with_each_ad_that_the_user_took(world: World, pooled: bool) -> None:
    model = fitted(ItemCF(world.schema, ItemCFConfig(pooled)), world)
    for domain in range(DOMAINS):
        expected = item_cf(taken(world, None if pooled else domain))
        assert (expected > 0).any() and (expected == 0).any()
        np.testing.assert_allclose(scores(model, world, domain), expected + popularity(world, domain) / USERS, rtol=1e-5)


def test_user_cf_adds_the_overlap_with_each_other_user_who_took_the_ad(world: World) -> None:
    model, expected = fitted(UserCF(world.schema), world), user_cf(taken(world))
    for domain in range(DOMAINS):
        np.testing.assert_allclose(scores(model, world, domain), expected + popularity(world, domain) / ADS, rtol=1e-5)


def test_ease_solves_each_ad_from_the_others(world: World) -> None:
    """Ridge regressions in which an ad's own column is left out: what the closed form's constraint means."""
    l2, x_UA = 3.0, np.zeros((USERS, ADS))
    x_UA[tuple(np.array(sorted(taken(world))).T)] = 1.0
    weights_AA = np.zeros((ADS, ADS))
    for ad in range(ADS):
        others = np.delete(EVERY_AD, ad)
        rows = np.vstack([x_UA[:, others], np.sqrt(l2) * np.eye(ADS - 1)])
        weights_AA[others, ad] = np.linalg.lstsq(rows, np.append(x_UA[:, ad], np.zeros(ADS - 1)))[0]
    model = fitted(EASE(world.schema, EASEConfig(l2=l2)), world)
    for domain in range(DOMAINS):
        np.testing.assert_allclose(scores(model, world, domain), x_UA @ weights_AA, atol=3e-6)


def test_ease_compares_the_most_taken_and_says_what_it_leaves_out(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    count = np.bincount([ad for _, ad in taken(world)], minlength=ADS)
    few = next(n for n in range(6, ADS) if np.sort(count)[-n] > np.sort(count)[-n - 1])  # no tie at the border
    chosen, seen = np.sort(np.argsort(-count)[:few]), int((count > 0).sum())
    model = fitted(EASE(world.schema, EASEConfig(l2=3.0, ads=few)), world)
    assert f"the {few} most taken of {seen} ads" in capsys.readouterr().err
    alone = World()
    kept = np.isin(world.columns["ad_row"], chosen)
    alone.columns = {name: column[kept] for name, column in world.columns.items()}
    got, of_them_alone = scores(model, world, 1), scores(fitted(EASE(world.schema, EASEConfig(l2=3.0)), alone), alone, 1)
    assert capsys.readouterr().err == ""
    np.testing.assert_allclose(got[:, chosen], of_them_alone[:, chosen], atol=3e-6)
    assert np.abs(np.delete(got, chosen, axis=1)).max() < 1e-6


def test_who_is_not_known_sees_what_is_popular_in_the_domain(world: World) -> None:
    for model in of_each_kind(world):
        for domain in range(DOMAINS):
            got = scores(model, world, domain)[STRANGER]
            np.testing.assert_array_equal(np.argsort(-got, kind="stable"), np.argsort(-popularity(world, domain), kind="stable"))
    own, pooled = of_each_kind(world)[:2]
    np.testing.assert_array_equal(scores(own, world, 0)[ELSEWHERE], scores(own, world, 0)[STRANGER])
    assert scores(pooled, world, 0)[ELSEWHERE].max() > 1.0


def test_a_popular_ad_never_passes_one_with_a_neighbour(world: World) -> None:
    for model, expected in zip(of_each_kind(world)[1:3], (item_cf(taken(world)), user_cf(taken(world))), strict=True):
        for domain in range(DOMAINS):
            got = scores(model, world, domain)
            assert got[expected == 0].max() < got[expected > 0].min()


def test_a_user_alone_and_a_few_ads_score_as_in_the_crowd(world: World) -> None:
    ads, users = np.array([3, 30, 9]), np.array([11, STRANGER])
    for model in of_each_kind(world):
        every = model.scorer(world, EVERY_AD, 2)(EVERY_USER)
        for user in users:
            torch.testing.assert_close(model.scorer(world, EVERY_AD, 2)(users[users == user])[0], every[user], rtol=1e-6, atol=0)
        assert model.scorer(world, np.empty(0, dtype=np.int64), 2)(users).shape == (2, 0)
        plain = model.comparison(world, ads, 2)[0](users)
        np.testing.assert_array_equal(plain, model.comparison(world, EVERY_AD, 2)[0](users)[:, ads])


def test_nothing_learned_scores_nothing(world: World) -> None:
    for model in (ItemCF(world.schema), UserCF(world.schema), EASE(world.schema)):
        assert not model.scorer(world, EVERY_AD, 0)(EVERY_USER).any()


def test_more_days_are_fitted_again_from_the_first(tmp_path: Path) -> None:
    """Users and ads of one event are neighbours too, though they have no code; what was kept scores as what was fitted."""
    tables = tables_world.positives_only(tmp_path)
    kinds = (ItemCF(tables.schema, ItemCFConfig(pooled=True)), EASE(tables.schema))
    for model, again in zip(kinds, (ItemCF(tables.schema, ItemCFConfig(pooled=True)), EASE(tables.schema)), strict=True):
        ads, users = np.arange(len(tables.ads)), np.arange(len(tables.users))
        fit_retriever(model, tables, FitSettings(), tmp_path / "model")
        before = model.comparison(tables, ads, 0)[0](users)
        catch_up(model, tables, "valid", FitSettings(), tmp_path / "model")
        after = model.comparison(tables, ads, 0)[0](users)
        if isinstance(model, ItemCF):
            for splits, got in ((["train"], before), (["train", "valid"], after)):
                np.testing.assert_allclose(got, item_cf(_pairs(tables, splits), len(users), len(ads)), rtol=1e-5)
        assert not np.allclose(before, after)
        load_weights(again, tmp_path / "model" / WEIGHTS)
        np.testing.assert_array_equal(again.comparison(tables, ads, 0)[0](users), after)


def _pairs(tables: Tables, splits: list[str]) -> Taken:
    found = [zip(tables.column(one, "user_row").tolist(), tables.column(one, "ad_row").tolist(), strict=True) for one in splits]
    return {pair for pairs in found for pair in pairs}
