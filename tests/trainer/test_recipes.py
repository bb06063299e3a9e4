"""Names of recipes, models and variants."""

from __future__ import annotations

import pytest

from contracts.errors import BadInput
from trainer import recipes
from trainer.evaluate import recipe_set

ABLATIONS = {
    "dsfm": "no_emb_attn no_hidden_attn no_aux_logit softmax_attn base_only unit_offset last_n all_features",
    "dfei": "frozen_random learned v_d_only clicked_only no_dfi no_dfe alpha_0_5 alpha_0_99 count_alpha turns lr_over_d",
    "dsfm_dfei": "frozen_random learned v_d_only clicked_only no_dfi no_dfe count_alpha no_hidden_attn",
    "adi": "lt va se no_adaptation sum network_mul concat no_self_training no_dsbn normalised",
}


def test_every_known_name_can_be_asked_for() -> None:
    names = recipes.known()
    assert len(names) == len(set(names))
    for name in names:
        found = recipes.recipe(name)
        plan = recipes.ranker_plan(name) if found.ranker else recipes.retriever_plan(name)
        assert (found.ranker or found.retriever) == plan.name == name
        if ":" in name:
            base = recipes.ranker_plan if found.ranker else recipes.retriever_plan
            same = plan.config == base(name.partition(":")[0]).config
            assert not same or name.partition(":")[2] in {
                "no_statistics",
                "with_trees",
                "se",
                "concat",
                "normalised",
                "experts_1",
                "experts_3",
                "adi_max",
            }


@pytest.mark.parametrize("model", ABLATIONS)
def test_every_ablation_of_the_methods_is_there(model: str) -> None:
    assert {f"{model}:{one}" for one in ABLATIONS[model].split()} <= set(recipes.known())


def test_a_recipe_joins_a_retriever_and_a_ranker() -> None:
    assert recipes.recipe("adi:lt:sum+dsfm:no_hidden_attn") == recipes.Recipe(
        "adi:lt:sum+dsfm:no_hidden_attn", "adi:lt:sum", "dsfm:no_hidden_attn"
    )
    plan = recipes.retriever_plan("adi:lt:sum")
    assert (plan.config.adaptation, plan.config.fusion) == ("lt", "sum")
    assert recipes.recipe("shared_dnn") == recipes.Recipe("shared_dnn", None, "shared_dnn")
    assert recipes.recipe("popularity") == recipes.Recipe("popularity", "popularity", None)


@pytest.mark.parametrize("name", ["item_cf", "item_cf_pooled", "user_cf", "ease"])
def test_what_compares_whole_histories_is_measured_and_not_served(name: str) -> None:
    assert name in recipe_set("retrievers")
    with pytest.raises(BadInput, match=f"{name} compares whole histories") as caught:
        recipes.servable_recipe(f"{name}+dsfm")
    assert "adi" in caught.value.hint and name not in caught.value.hint
    assert recipes.servable_recipe("adi+dsfm").retriever == "adi"


def test_a_variant_of_training_reaches_the_settings() -> None:
    assert recipes.retriever_plan("adi").settings.self_training_percent > 0
    assert recipes.retriever_plan("adi:no_self_training").settings.self_training_percent == 0


def test_who_remembers_is_told_what_to_remember() -> None:
    chosen = {name: recipes.ranker_plan(name).selection for name in ("dsfm", "dsfm:last_n", "dsfm:all_features", "dsfm_dfei")}
    assert list(chosen.values()) == ["top", "last", "all", "top"]
    assert recipes.ranker_plan("dsfm:base_only").selection is recipes.ranker_plan("dfei").selection is None


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("dsmf", "unknown retriever 'dsmf'", "dsfm"),
        ("adi+shared_dn", "unknown ranker 'shared_dn'", "shared_dnn"),
        ("shared_dnn+adi", "unknown retriever 'shared_dnn'", ""),
        ("dsfm:no_hiden_attn", "dsfm has no variant 'no_hiden_attn'", "no_hidden_attn"),
        ("popularity:lt", "popularity has no variant 'lt'", "none"),
        ("", "unknown retriever ''", "known:"),
        ("adi+", "unknown ranker ''", "known:"),
    ],
)
def test_what_is_unknown_is_named_with_what_comes_close(name: str, message: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipes.recipe(name)
    assert message in caught.value.message and hint in caught.value.hint
