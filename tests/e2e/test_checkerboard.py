"""The rotating checkerboard through HTTP: right routing has precision 1, crossed routing 0."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from contracts.aliases import Aliases
from contracts.manifest import MANIFEST, Manifest
from tests.e2e.command import Gateway, serving
from tests.e2e.conftest import RECIPE

CLASSES = 4
K = 10
USERS = range(0, 200, 7)


def _precision(gateway: Gateway, domain: int) -> float:
    """Share of answered ads a with (u + d) mod 4 == a mod 4."""
    right = asked = 0
    for user in USERS:
        ads = gateway.recommend(f"u{user}", f"d{domain}", k=K)["ads"]
        assert len(ads) == K
        right += sum((user + domain) % CLASSES == int(ad["ad_id"][1:]) % CLASSES for ad in ads)
        asked += len(ads)
    return right / asked


@pytest.mark.parametrize("domain", range(CLASSES))
def test_every_domain_answers_its_own_law(gateway: Gateway, domain: int) -> None:
    assert _precision(gateway, domain) == 1.0


def test_crossed_indices_answer_wrongly_everywhere(night_home: Path, tmp_path: Path) -> None:
    """The same bundle with each domain's retrieval and ranking of the next one: were the routing not real, it would not show."""
    source = Aliases(night_home)
    alias = source.get(RECIPE)
    assert alias is not None
    crossed = tmp_path / "bundles" / "crossed"
    shutil.copytree(source.bundle_directory(alias.bundle_id), crossed)
    manifest = Manifest.load(crossed)
    turned = [one.directory for one in manifest.domains[1:] + manifest.domains[:1]]
    domains = [
        entry.model_copy(update={"directory": directory}) for entry, directory in zip(manifest.domains, turned, strict=True)
    ]
    (crossed / MANIFEST).unlink()
    retrieval_only = manifest.model_copy(update={"bundle_id": "crossed", "domains": domains, "ranker": None})
    retrieval_only.publish(crossed)
    Aliases(tmp_path).move(RECIPE, "crossed")
    with serving(tmp_path) as gateway:
        assert [_precision(gateway, domain) for domain in range(CLASSES)] == [0.0] * CLASSES
