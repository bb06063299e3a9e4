"""The worked example of docs/bring-your-own-data.md does what the page says, up to the night."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from deployment_files import REPOSITORY, check_command

from server.api import FeedbackEvent, RecommendRequest
from trainer.datasets import check
from trainer.datasets.canonical import Dataset

PAGE = (REPOSITORY / "docs" / "bring-your-own-data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    (program,), (spec,) = _blocks("python"), _blocks("yaml")
    (root / "make_logs.py").write_text(program)
    subprocess.run([sys.executable, "make_logs.py"], cwd=root, check=True)
    (root / "my-logs" / "dataset.yaml").write_text(spec)
    return root / "my-logs"


def test_the_example_passes_the_check_and_holds_what_the_page_says(logs: Path) -> None:
    report = check.check(logs)
    report.raise_if_bad()
    assert {one.domain for one in report.domains} == {"home", "checkout"}
    dataset = Dataset.open(logs)
    assert dataset.domains() == ["checkout", "home"]
    prices = dataset.ad_domains()
    assert prices is not None
    inactive = prices.filter(~pl.col("active")).collect()
    assert set(inactive["ad_id"]) == {"13"}
    events = dataset.scan_events().collect()
    assert 0.1 < float(events["label"].mean() or 0) < 0.25


def test_young_users_click_odd_ads_at_home_and_even_ones_at_checkout(logs: Path) -> None:
    users = pl.read_parquet(logs / "users.parquet")
    events = pl.read_parquet(logs / "events" / "week.parquet").join(users, on="user").filter(pl.col("age") < 40)
    rate = events.group_by("placement", odd=pl.col("ad") % 2 == 1).agg(pl.col("clicked").mean())
    found = {(place, odd): value for place, odd, value in rate.iter_rows()}
    assert found["home", True] > 3 * found["home", False]
    assert found["checkout", False] > 3 * found["checkout", True]


def test_every_command_of_the_page_is_real() -> None:
    lines = [line for text in _blocks("bash") for line in text.splitlines() if line.startswith("mdrec ")]
    assert [line.split()[1] for line in lines] == ["data", "nightly", "serve"]
    for line in lines:
        check_command(shlex.split(line))


def test_the_bodies_of_the_page_are_taken_by_the_gateway() -> None:
    bodies = [json.loads(one) for text in _blocks("bash") for one in re.findall(r"-d '(.*?)'", text, re.DOTALL)]
    recommend, feedback = bodies
    RecommendRequest.model_validate(recommend)
    declared = {one["name"] for one in yaml.safe_load(_blocks("yaml")[0])["features"] if one["side"] == "context"}
    assert set(recommend["context"]) == declared
    for event in feedback["events"]:
        FeedbackEvent.model_validate(event)
