"""Evaluation end to end on a small log: ranked lists against brute force, the JSON that others read, reports of it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables_world as world
import torch

from contracts.errors import BadInput
from trainer import recipes, trials
from trainer.baselines.rates import Rates, RatesConfig
from trainer.checkpoint import WEIGHTS
from trainer.evaluate import evaluate, flops_per_candidate, signature, to_html, to_markdown
from trainer.fit import FitSettings, fit_ranker
from trainer.layers import Inputs
from trainer.metrics import auc
from trainer.scoring import listed_scores, ranked_lists, score_split
from trainer.source import source_closure, source_digest
from trainer.tables import Tables
from trainer.train import train_ranker, train_retriever
from trainer.two_tower import TwoTower

EVERY_PLAN = (*recipes.RANKERS.values(), *recipes.RETRIEVERS.values())


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.positives_only(tmp_path_factory.mktemp("clicks"))


class ByCode(TwoTower):
    """A fixed random score per user, ad and domain."""

    dimension = 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vectors = torch.nn.Parameter(torch.randn(3, 500, 8, generator=generator))

    def user_embedding(self, codes: torch.Tensor, dense: torch.Tensor, domain: int) -> torch.Tensor:
        return self.vectors[domain, codes[:, 0].long()]

    def ad_embedding(self, codes: torch.Tensor, dense: torch.Tensor, domain: int) -> torch.Tensor:
        return self.vectors[domain, codes[:, 0].long() + 200]


def positives(tables: Tables, split: str, domain: int) -> set[tuple[int, int]]:
    rows = tables.domain_rows(split, domain)
    columns = (tables.column(split, name)[rows] for name in ("user_row", "ad_row", "label"))
    return {(int(user), int(ad)) for user, ad, label in zip(*columns, strict=True) if label > 0}


@pytest.mark.parametrize("domain", range(3))
def test_ranked_lists_are_the_sorted_scores_without_what_was_taken_before(tables: Tables, domain: int) -> None:
    model = ByCode()
    lists = ranked_lists(model, tables, "test", domain, 7)
    assert lists is not None
    known = positives(tables, "train", domain) | positives(tables, "valid", domain)
    truth = positives(tables, "test", domain) - known
    assert lists.user_row.tolist() == sorted({user for user, _ in truth})
    eligible = tables.eligible(domain)
    for at, user in enumerate(lists.user_row):
        codes = [
            block[:, 0] + 0 for block in (tables.user_block(np.array([user]), domain)[0], tables.ad_block(eligible, domain)[0])
        ]
        vectors = model.vectors.detach()[domain]
        score = (vectors[int(codes[0][0])] @ vectors[torch.from_numpy(codes[1]).long() + 200].T).numpy()
        allowed = [(-value, int(ad)) for value, ad in zip(score, eligible, strict=True) if (int(user), int(ad)) not in known]
        best = [ad for _, ad in sorted(allowed)[:7]]
        assert lists.top[at].tolist()[: len(best)] == best
        mine = {ad for one, ad in truth if one == user}
        assert lists.hit[at].tolist() == [ad in mine for ad in lists.top[at]] and lists.relevant[at] == len(mine)


def test_a_user_who_had_everything_gets_padding_and_no_hit(clicks: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        clicks, "eligible", lambda domain: np.sort(np.unique(clicks.column("train", "ad_row")[:3])).astype(np.int32)
    )
    lists = ranked_lists(ByCode(), clicks, "valid", 0, 50)
    assert lists is not None and lists.top.shape[1] <= 3
    assert not lists.hit[lists.top < 0].any()


def test_listed_scores_follow_the_list(clicks: Tables, tmp_path: Path) -> None:
    lists = clicks.candidates("test")
    assert lists is not None
    towers = ByCode()
    rates = Rates(clicks.schema, RatesConfig())
    fit_ranker(rates, clicks, FitSettings(), tmp_path)
    for model in (towers, rates):
        found = listed_scores(model, clicks, lists)
        for row in range(0, len(found), 9):
            domain = int(lists.domain[row])
            for column, ad in enumerate(lists.ads[row]):
                user_block, ad_block = (
                    clicks.user_block(lists.user_row[row : row + 1], domain),
                    clicks.ad_block(np.array([max(ad, 0)]), domain),
                )
                user, ads = map(torch.from_numpy, user_block), map(torch.from_numpy, ad_block)
                nothing = torch.zeros((1, 0), dtype=torch.int32)
                if isinstance(model, Rates):
                    expected = float(model(Inputs(*user, nothing, nothing.float(), *ads, torch.tensor([domain]))))
                else:
                    expected = float((model.user_embedding(*user, domain) * model.ad_embedding(*ads, domain)).sum().detach())
                assert found[row, column] == pytest.approx(0.0 if ad < 0 else expected, abs=1e-5)


def test_scores_of_a_split_stand_in_its_order(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(tables.schema, RatesConfig())
    fit_ranker(rates, tables, FitSettings(), tmp_path)
    whole = score_split(rates, tables, "test")
    monkeypatch.setattr("trainer.scoring.SCORE_ROWS", 13)
    pieces = score_split(rates, tables, "test")
    assert (whole.logit == pieces.logit).all() and (whole.label == tables.column("test", "label")).all()
    batch = tables.batch("test", np.array([5]))
    assert whole.logit[5] == float(rates(batch.inputs))


def test_rates_are_the_smoothed_rates(tables: Tables, tmp_path: Path) -> None:
    rates = Rates(tables.schema, RatesConfig(user_strength=1e-6, ad_strength=1e-6))
    fit_ranker(rates, tables, FitSettings(), tmp_path)
    label, domain = tables.column("train", "label"), tables.column("train", "domain")
    for number in range(3):
        assert torch.sigmoid(rates.domain_D[number]).item() == pytest.approx(label[domain == number].mean(), abs=1e-5)
        ad = int(tables.column("train", "ad_row")[tables.domain_range("train", number).start])
        mine = (domain == number) & (tables.column("train", "ad_row") == ad)
        code = int(tables.ad_block(np.array([ad]), number)[0][0, 0])
        rate = float(torch.sigmoid(rates.domain_D[number] + rates.ad_DA[number, code]))
        assert rate == pytest.approx(label[mine].mean(), abs=1e-4)


@pytest.fixture(scope="module")
def quick() -> Any:
    """Small, short trainings; everything else as it is."""
    patch = pytest.MonkeyPatch()
    short = FitSettings(epochs=2, batch_rows=128, learning_rate=0.01)
    for name, plan in recipes.RANKERS.items():
        patch.setitem(recipes.RANKERS, name, replace(plan, settings=short))
    patch.setattr("trainer.fit._MIN_STEPS", 1)
    yield
    patch.undo()


def test_evaluate_writes_what_the_interface_says(quick: None, tmp_path: Path) -> None:
    world.write(tmp_path / "data")
    asked = ["popularity+rates", "dsfm_dfei", "popularity"]
    result = evaluate(tmp_path / "data", asked, seeds=range(2), test_from=world.TEST_FROM, home=tmp_path / "home")
    assert result["dataset"] == "small" and "2026-03-04" in result["protocol"]
    json.dumps(result, allow_nan=False)
    assert [(row["recipe"], row["seed"]) for row in result["rows"]] == [(name, seed) for name in asked for seed in (0, 1)]
    pair, ranker, retriever = result["rows"][0], result["rows"][2], result["rows"][4]
    for row in (pair, ranker):
        assert set(row["auc"]) == {"overall", "mean_domain", "weighted_domain", "by_domain"}
        assert set(row["auc"]["by_domain"]) == set(row["calibration"]["by_domain"]) == set(world.DOMAINS)
        assert row["auc"]["mean_domain"] == pytest.approx(np.mean(list(row["auc"]["by_domain"].values())))
        assert {"overall", "by_domain"} <= set(row["logloss"])
    for row in (pair, retriever):
        assert set(row["recall"]) == {"10", "50", "100"}
        assert set(row["recall"]["10"]) == set(row["ndcg@10"]) == {"mean_domain", "by_domain"}
    assert "recall" not in ranker and "auc" not in retriever
    assert ranker["train_seconds"] > 0 and ranker["train_rows_per_second"] > 0 and ranker["parameters"] > 1000
    assert ranker["flops_per_candidate"] > 0 and ranker["sensitive_features"]
    assert pair["recall"] == retriever["recall"]
    assert sum(one["events"] for one in ranker["support"].values()) == world.PER_DAY
    assert sum(one["rows"] for one in ranker["reliability"]["overall"]) == world.PER_DAY
    assert {one["name"] for one in ranker["attribution"]} >= set(ranker["sensitive_features"])
    assert set(retriever["recall_curve"]["1"]["by_domain"]) == set(retriever["recall"]["10"]["by_domain"])


def test_differences_are_those_of_the_rows(quick: None, tmp_path: Path) -> None:
    world.write(tmp_path / "data")
    asked, counted = ["rates", "dsfm", "popularity+shared_dnn"], ["feed", "story"]
    given = {"seeds": range(2), "test_from": world.TEST_FROM, "home": tmp_path / "home"}
    result = evaluate(tmp_path / "data", asked, score_domains=counted, against="dsfm", resamples=50, **given)
    means = {name: np.mean([row["auc"]["scored"] for row in result["rows"] if row["recipe"] == name]) for name in asked}
    for row in result["rows"]:
        assert row["auc"]["scored"] == pytest.approx(np.mean([row["auc"]["by_domain"][one] for one in counted]))
    found = {(one["recipe"], one["against"]): one for one in result["paired"] if one["scope"] == "scored"}
    best = max(means, key=lambda name: means[name])
    assert set(found) == {(one, "dsfm") for one in asked if one != "dsfm"} | {(best, one) for one in asked if one != best}
    for (name, other), one in found.items():
        assert one["difference"] == pytest.approx(means[name] - means[other], abs=1e-6)
        assert one["low"] <= one["high"] and one["metric"] == "auc"
    assert {one["scope"] for one in result["paired"]} == {"scored", "mean", *world.DOMAINS}
    page, text = to_html(result), to_markdown(result)
    assert "http" not in page and page.count("data:image/png;base64,") >= 7
    for shown in ("Rank movement", "Domain sensitivity", "AUC against FLOPs", "Reliability", "Difference to dsfm"):
        assert shown in page
    one = found["rates", "dsfm"]
    assert f"{one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]" in text
    with pytest.raises(BadInput, match="unknown domain 'feeds'"):
        evaluate(tmp_path / "data", asked, score_domains=["feeds"], **given)
    with pytest.raises(BadInput, match="compare against 'dsfn'"):
        evaluate(tmp_path / "data", asked, against="dsfn", **given)


def test_what_is_kept_is_not_trained_again(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(tmp_path / "data")
    trained: list[tuple[str, int]] = []
    train = trials.train_ranker

    def counting(name: str, tables: Tables, seed: int, *rest: Any) -> Any:
        trained.append((name, seed))
        if len(trained) == 3 and name == "shared_dnn":
            raise KeyboardInterrupt
        return train(name, tables, seed, *rest)

    monkeypatch.setattr(trials, "train_ranker", counting)
    given = {"test_from": world.TEST_FROM, "home": tmp_path / "home", "resamples": 20}
    asked = ["rates", "shared_dnn", "popularity+rates"]
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "data", asked[1:], seeds=[2, 1, 0], **given)
    assert trained == [("shared_dnn", 2), ("rates", 0), ("shared_dnn", 1)]
    killed = evaluate(tmp_path / "data", asked, seeds=[2, 1], **given)
    assert trained[3:] == [("shared_dnn", 1)], "no seed decides rates: one trial is all seeds'"
    rates = [row for row in killed["rows"] if row["recipe"] == "rates"]
    assert [row["seed"] for row in rates] == [2, 1] and {**rates[0], "seed": 1} == rates[1]
    spread = [one["spread"] for one in killed["paired"] if {one["recipe"], one["against"]} == {"rates", "popularity+rates"}]
    assert spread and not any(spread)
    again = evaluate(tmp_path / "data", asked, seeds=[2, 1], **given)
    assert len(trained) == 4, "halves that recipes share, and all that was kept, are trained once"
    assert {**again, "wall_seconds": 0} == {**killed, "wall_seconds": 0}
    short = evaluate(tmp_path / "data", ["shared_dnn"], seeds=[1], quick=True, **given)
    assert len(trained) == 5 and "epochs:quick<=2" in short["signature"] and "epochs:plan" in killed["signature"]
    work = next((tmp_path / "home" / "work").iterdir())
    assert list((work / "training").rglob("*.safetensors")) == [], "only results are kept"


@pytest.mark.parametrize("name", [one.name for one in EVERY_PLAN if not one.seeded])
def test_what_is_said_to_have_no_seed_has_none(name: str, clicks: Tables, tables: Tables, tmp_path: Path) -> None:
    if name in recipes.RANKERS:
        states = [train_ranker(name, tables, seed, tmp_path / str(seed)).model.state_dict() for seed in range(2)]
    else:
        states = [train_retriever(name, clicks, seed, tmp_path / str(seed)).model.state_dict() for seed in range(2)]
    assert states[0] and all(torch.equal(one, states[1][key]) for key, one in states[0].items())


def test_statistics_may_be_refreshed_and_the_signature_says_so(quick: None, tmp_path: Path) -> None:
    features = [{**one, **({"statistics": True} if one["name"] == "city" else {})} for one in world.SPEC["features"]]
    world.write(tmp_path / "data", features=features)
    given = {"test_from": "2026-03-03", "home": tmp_path / "home"}  # two days of test: the second may know the first
    asked = ["shared_dnn", "shared_dnn:no_statistics"]
    still, nightly = (evaluate(tmp_path / "data", asked, refreshed=one, **given) for one in (False, True))
    assert "statistics:until_test" in still["signature"] and "statistics:every_night" in nightly["signature"]
    assert still["rows"][0]["auc"] != nightly["rows"][0]["auc"] and still["rows"][1]["auc"] == nightly["rows"][1]["auc"]


def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    world.write(tmp_path / "data")
    asked = ["rates", "popularity"]
    result = [
        evaluate(tmp_path / "data", asked, test_from=world.TEST_FROM, home=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)
    ]
    for alone, beside in zip(*(one["rows"] for one in result), strict=True):
        assert alone.get("auc") == beside.get("auc") and alone.get("recall") == beside.get("recall")


def test_one_failure_costs_no_other_result(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(tmp_path / "data")

    def failing(*given: Any) -> Any:
        raise ValueError("no such luck")

    monkeypatch.setattr(trials, "train_retriever", failing)
    result = evaluate(tmp_path / "data", ["popularity+rates", "rates"], test_from=world.TEST_FROM, home=tmp_path / "home")
    assert [row["recipe"] for row in result["rows"]] == ["rates"]
    assert result["failed"] == {"popularity seed 0": "ValueError: no such luck"}
    assert "no such luck" in to_markdown(result)


def test_the_signature_names_what_must_agree(tables: Tables) -> None:
    given = signature(tables, [0, 1], ["feed"])
    assert given == signature(tables, [0, 1], ["feed"])
    assert (
        f"small@{tables.digest[:10]}" in given
        and "seeds:0,1" in given
        and "scored:feed" in given
        and "2026-03-04T00:00Z" in given
    )
    others = [signature(tables, [0], ["feed"]), signature(tables, [0, 1]), signature(tables, [0, 1], ["feed"], quick=True)]
    assert len({given, *others, signature(tables, [0, 1], ["feed"], resamples=10)}) == 5


def test_a_digest_follows_the_code_a_model_is_made_of() -> None:
    dnn, popularity = (source_closure((f"trainer.baselines.{one}",)) for one in ("shared_dnn", "popularity"))
    assert {"trainer.layers", "contracts.schema"} <= dnn and "trainer.dsfm" not in dnn
    assert "trainer.sampling" in popularity and "trainer.baselines.shared_dnn" not in popularity
    assert source_digest(("trainer.dsfm",)) != source_digest(("trainer.dfei",))


def test_reports_say_what_the_rows_say(quick: None, tmp_path: Path) -> None:
    world.positives_only(tmp_path)
    result = evaluate(tmp_path / "data", ["popularity", "rates"], seeds=[3], test_from=world.TEST_FROM, home=tmp_path / "home")
    assert "calibration" not in result["rows"][1], "sampled negatives have no rate to be calibrated to"
    text, page = to_markdown(result), to_html(result)
    recall = result["rows"][0]["recall_candidates"]["10"]["mean_domain"]
    assert f"{recall:.4f}" in text and f"{recall:.4f}" in page
    assert page.count("data:image/png;base64,") >= 2 and "http" not in page.replace("http-equiv", "")
    assert "<script" not in to_html({**result, "dataset": "<script>alert(1)</script>"})


def test_an_unknown_recipe_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown retriever 'adi_mx'"):
        evaluate(tmp_path / "nowhere", ["adi_mx+dsfm"], home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_flops_count_the_matrix_products(tables: Tables) -> None:
    plan = recipes.ranker_plan("shared_dnn")
    model = plan.build(tables.schema, plan.config, [])
    widths = [len(model.embedding.names) * plan.config.dim, *plan.config.hidden, 1]
    assert flops_per_candidate(model, tables) == sum(2 * a * b for a, b in pairwise(widths))


def test_auc_of_a_seed_is_reproducible(quick: None, tables: Tables, tmp_path: Path) -> None:
    from trainer.train import load_ranker, train_ranker

    found = []
    for name in ("a", "b"):
        trained = train_ranker("dsfm_dfei", tables, 5, tmp_path / name)
        scored = score_split(trained.model, tables, "test")
        found.append(auc(scored.label, scored.logit))
    loaded = load_ranker("dsfm_dfei", tables, 5, tmp_path / "a")
    again = score_split(loaded.model, tables, "test")
    assert found[0] == found[1] == auc(again.label, again.logit)
    assert len({(tmp_path / name / "base" / WEIGHTS).read_bytes() for name in ("a", "b")}) == 1
    assert loaded.sensitive == trained.sensitive and loaded.report.metrics == trained.report.metrics
