"""Several workers in processes of their own are one gateway: what one is told, all do, and any one counts for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.redis_local import LocalRedis
from tests.server.conftest import TOKEN
from tests.server.live import eventually, fresh, workers
from tests.server.test_added_ads import PATH, ad
from tests.server.test_admin import AUTH
from tests.server.worlds import World


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two workers, for every test here: each speaks of ads or routes of its own."""
    home = tmp_path_factory.mktemp("workers")
    World(with_features=True).build(home)
    server = LocalRedis(home / "redis").start()
    with workers(home, server.url, MDREC_OPERATOR_TOKEN=TOKEN, MDREC_ALIAS_POLL_SECONDS="0.1") as one:
        yield one
    server.stop()


def ads(url: str, k: int) -> dict[str, float]:
    """What one worker, whichever, shows in feed: bids by id, in their order."""
    answer = fresh("POST", f"{url}/v1/recommend", json={"user_id": "u0", "domain": "feed", "k": k})
    return {one["ad_id"]: one["bid"] for one in answer.json()["ads"]}


def test_an_ad_paused_at_one_is_paused_at_all(url: str) -> None:
    body = {"changes": [{"ad_id": "a0", "paused": True}]}
    assert fresh("PATCH", f"{url}/admin/v1/domains/feed/ads", json=body, headers=AUTH).status_code == 200
    eventually(lambda: all("a0" not in ads(url, 50) for _ in range(20)))


def test_an_ad_added_at_one_is_served_and_priced_by_all(url: str) -> None:
    assert fresh("POST", f"{url}/admin/v1/{PATH}", json={"ads": [ad("n", 0)]}, headers=AUTH).status_code == 200
    price = {"changes": [{"ad_id": "n", "bid": 60.0}]}
    for _ in range(6):  # of any worker, also one that has not looked yet
        assert fresh("PATCH", f"{url}/admin/v1/domains/feed/ads", json=price, headers=AUTH).status_code == 200
    eventually(lambda: all(ads(url, 1) == {"n": 60.0} for _ in range(20)))


def test_they_share_one_count(url: str) -> None:
    """Counts of all workers in whichever is scraped."""
    for _ in range(30):  # a connection each, so that both workers get some
        asked = {"user_id": "u", "domain": "mail", "ad_ids": ["a1"]}
        assert fresh("POST", f"{url}/v1/score", json=asked).status_code == 200
    counted = 'mdrec_http_request_duration_seconds_count{route="/v1/score",status="200"} 30.0'
    eventually(lambda: counted in fresh("GET", f"{url}/metrics").text)

    def answered() -> int:
        domains = fresh("GET", f"{url}/admin/v1/health/domains?minutes=10", headers=AUTH).json()["domains"]
        return next(one["requests"] for one in domains if one["domain"] == "mail")  # type: ignore[no-any-return]

    assert [answered() for _ in range(6)] == [30] * 6


def defined(url: str, kind: str, key: str, **body: object) -> None:
    """By one worker, whichever."""
    version = fresh("GET", f"{url}/admin/v1/{kind}", headers=AUTH).headers["etag"]
    answer = fresh("PUT", f"{url}/admin/v1/{kind}/{key}", json=body, headers={**AUTH, "If-Match": version})
    assert answer.status_code == 200, answer.text


def test_counts_of_a_shadow_add_up_over_them(url: str) -> None:
    defined(url, "shadows", "again", domain="search", recipe="adi+dsfm", share=1.0)
    sent = 0

    def loaded_in_both() -> bool:
        nonlocal sent
        for number in range(8):
            sent += fresh("POST", f"{url}/v1/recommend", json={"user_id": f"u{number}", "domain": "search"}).status_code == 200
        return found()["compared"] > 0 and not dropped_lately()

    def found() -> dict[str, int]:
        """Compared and dropped by all, as one worker tells it."""
        (one,) = fresh("GET", f"{url}/admin/v1/shadows", headers=AUTH).json()["shadows"]
        return {
            "compared": sum(each["compared"] for each in one["bundles"]),
            "other": sum(sum(each["dropped"].values()) for each in one["bundles"]),
        }

    before = -1

    def dropped_lately() -> bool:
        nonlocal before
        now = eventually(lambda: (one := found())["compared"] + one["other"] == sent and one)["other"]
        lately, before = now != before, now
        return bool(lately)

    eventually(loaded_in_both, 60)
    counted = [
        line for line in fresh("GET", f"{url}/metrics").text.splitlines() if line.startswith("mdrec_shadow_requests_total{")
    ]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == sent, "and so do those of Prometheus"


def test_arms_of_a_canary_are_counted_by_all(url: str) -> None:
    defined(url, "canaries", "same", domain="video", recipe="adi+dsfm", share=0.5)
    answers = [
        fresh("POST", f"{url}/v1/recommend", json={"user_id": f"u{number}", "domain": "video"}).json()["arms"][0]["arm"]
        for number in range(24)
    ]

    def sides() -> dict[str, int]:
        (one,) = fresh("GET", f"{url}/admin/v1/canaries", headers=AUTH).json()["canaries"]
        return {arm: one["windows"][1][arm]["answers"] for arm in ("stable", "canary")}

    expected = {arm: answers.count(arm) for arm in ("stable", "canary")}
    eventually(lambda: sides() == expected)
