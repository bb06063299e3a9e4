"""What the trainer's model says of a user and an ad is what the gateway answers: encode, Redis row, ad table, graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.e2e.command import Gateway
from tests.e2e.conftest import RECIPE
from trainer.layers import Inputs
from trainer.tables import Tables
from trainer.train import load_ranker

USERS = 12
ADS = 40


def test_the_gateway_scores_what_torch_scores(gateway: Gateway, night_home: Path) -> None:
    tables = Tables.open(max((night_home / "work").glob("tables-*"), key=lambda one: one.stat().st_mtime)).at("test")
    name = RECIPE.partition("+")[2]
    weights = max((night_home / "work").glob(f"test-{name}-*"), key=lambda one: one.stat().st_mtime)
    model = load_ranker(name, tables, 0, weights).model
    rng = np.random.default_rng(3)
    for user in rng.choice(len(tables.users), USERS, replace=False):
        domain = int(rng.integers(len(tables.domains)))
        ads = rng.choice(tables.eligible(domain), ADS, replace=False)
        blocks = (*tables.user_block(np.array([user]), domain), *tables.ad_block(ads, domain))
        user_codes, user_dense, ad_codes, ad_dense = map(torch.from_numpy, blocks)
        nothing = torch.zeros(1, 0, dtype=torch.int32), torch.zeros(1, 0)
        with torch.no_grad():
            logit = model.calibrated(Inputs(user_codes, user_dense, *nothing, ad_codes, ad_dense, torch.tensor([domain])))
        asked = {"user_id": tables.users[int(user)], "domain": tables.domains[domain], "ad_ids": tables.ads.take(ads)}
        answer = gateway.client.post("/v1/score", json=asked)
        assert answer.status_code == 200 and answer.json()["degraded"] == [], answer.text
        scores = answer.json()["scores"]
        assert [one["ad_id"] for one in scores] == asked["ad_ids"]
        np.testing.assert_allclose([one["p_click"] for one in scores], torch.sigmoid(logit).numpy(), atol=1e-5)
