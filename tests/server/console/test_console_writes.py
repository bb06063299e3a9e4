"""Operators change things on the console: seen before they are written, written once, never over somebody else's change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.server.console.browser import PHONE
from tests.server.console.conftest import Open
from tests.server.console.world import ADA, BOB, OTHER, definitions
from tests.server.live import Running


@pytest.fixture(autouse=True)
def as_at_first(gateway: Running) -> None:
    """Every test begins with the same definitions, under a new version. (An experiment that ran would not be split anew, so it is
    taken away first.)"""
    for body in ({"features": {}, "active": True}, {"features": definitions(), "active": True}):
        etag = asked(gateway, "GET", "experiments").headers["etag"]
        asked(gateway, "PUT", "experiments", body, **{"If-Match": etag})
    for recipe, bundle in (("adi+dsfm", "b0"), ("adi+dsfm", "b1")):
        asked(gateway, "PUT", f"aliases/{recipe}", {"bundle_id": bundle})
    asked(gateway, "PUT", "champion", {"recipe": "adi+dsfm"})


def asked(gateway: Running, method: str, path: str, body: Any = None, token: str = BOB, **headers: str) -> Any:
    auth = {"Authorization": f"Bearer {token}", **headers}
    answer = gateway.client.request(method, f"/admin/v1/{path}", json=body, headers=auth)
    assert answer.status_code < 300, answer.text
    return answer


def stored(gateway: Running, key: str) -> dict[str, Any]:
    return next(one for one in asked(gateway, "GET", "experiments").json()["experiments"] if one["key"] == key)


def shares(gateway: Running, key: str) -> list[float]:
    return [one["share"] for one in stored(gateway, key)["arms"]]


def slide(page: Page, label: str, percent: str) -> None:
    page.get_by_label(f"{label}, in percent").fill(percent)


def confirm(page: Page, verb: str, why: str = "") -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill(why)
    dialog.get_by_role("button", name=verb, exact=True).click()
    expect(dialog).to_have_count(0)


def test_a_ramp_is_seen_before_it_is_written_and_on_record_after(open_page: Open, gateway: Running) -> None:
    page = open_page("experiments/ranker-test")
    preview = page.get_by_role("button", name="Preview the change…")
    expect(preview).to_be_disabled()
    slide(page, "Users in the experiment", "30")
    expect(page.get_by_text("A share is outside of what is possible.")).to_be_visible()
    expect(preview).to_be_disabled()
    page.get_by_label("Users in the experiment", exact=True).press("End")
    expect(page.locator(".key").first).to_contain_text("challenger 50%")
    slide(page, "Users in the experiment", "60")
    preview.click()
    expect(page.get_by_role("dialog").get_by_role("row", name="features.ranker.rules.0.coverage")).to_contain_text("0.40.6")
    assert shares(gateway, "ranker-test") == [0.2, 0.2]
    confirm(page, "Ramp", "looks fine → más")
    expect(page.locator(".key").first).to_contain_text("challenger 30%")
    assert shares(gateway, "ranker-test") == [0.3, 0.3]
    (record, *_) = asked(gateway, "GET", "audit").json()
    assert (record["who"], record["why"]) == ("ada", "looks fine → más")
    page.get_by_role("link", name="Audit trail").click()
    expect(page.locator("details").first).to_contain_text(
        "ada · just now · features.ranker.rules.0.coverage · “looks fine → más”"
    )


def test_each_arm_may_be_ramped_alone(open_page: Open, gateway: Running) -> None:
    page = open_page("experiments/ranker-test", **PHONE)
    page.get_by_label("Each arm").check()
    slide(page, "challenger, share of all users", "70")
    page.get_by_role("button", name="Preview the change…").click()
    confirm(page, "Ramp")
    expect(page.get_by_text("Now 70%.")).to_be_visible()  # drawn anew: the key had shown it before it was written
    assert shares(gateway, "ranker-test") == [0.2, 0.7]
    slide(page, "control, share of all users", "50")
    expect(page.get_by_text("The arms add up to 120%.")).to_be_visible()


def test_a_draft_is_split_anew_and_started(open_page: Open, gateway: Running) -> None:
    page = open_page("experiments/depth")
    slide(page, "Users in the experiment", "50")
    slide(page, "challenger, share of these", "30")
    expect(page.get_by_label("control, share of these", exact=True)).to_have_value("70")
    page.get_by_role("button", name="Preview the change…").click()
    confirm(page, "Save", "¿más? → größer")
    expect(page.locator(".key").first).to_contain_text("control 35%")
    assert shares(gateway, "depth") == [0.35, 0.15]
    assert asked(gateway, "GET", "audit").json()[0]["why"] == "¿más? → größer"
    page.get_by_role("button", name="Start…").click()
    confirm(page, "Start")
    expect(page.locator(".view-head").get_by_text("running")).to_be_visible()
    assert stored(gateway, "depth")["status"] == "running"


def conflict(first: Page, verb: str, wrote: str) -> Locator:
    """Press the button of a dialog that is a version behind."""
    dialog = first.get_by_role("dialog")
    dialog.get_by_role("button", name=verb, exact=True).click()
    expect(dialog).to_contain_text("Somebody else changed this while you were at it")
    expect(dialog).to_contain_text(wrote)
    return dialog


def test_two_operators_at_once_do_not_overwrite_each_other(open_page: Open, gateway: Running) -> None:
    ada, bob = open_page("experiments/ranker-test"), open_page("experiments/ranker-test", token=BOB)
    slide(ada, "Users in the experiment", "80")
    ada.get_by_role("button", name="Preview the change…").click()
    expect(ada.get_by_role("dialog").get_by_role("button", name="Ramp", exact=True)).to_be_enabled()
    slide(bob, "Users in the experiment", "50")
    bob.get_by_role("button", name="Preview the change…").click()
    confirm(bob, "Ramp", "half of all")
    dialog = conflict(ada, "Ramp", "bob: half of all")
    expect(dialog.get_by_role("row", name="features.ranker.rules.0.coverage")).to_contain_text("0.40.5")
    assert shares(gateway, "ranker-test") == [0.25, 0.25]
    dialog.get_by_role("button", name="Apply mine on top").click()
    expect(dialog.get_by_role("row", name="features.ranker.rules.0.coverage")).to_contain_text("0.50.8")
    assert shares(gateway, "ranker-test") == [0.25, 0.25]  # seen again before it is written
    confirm(ada, "Ramp", "more")
    assert shares(gateway, "ranker-test") == [0.4, 0.4]
    assert [(one["who"], one["why"]) for one in asked(gateway, "GET", "audit").json()[:2]] == [
        ("ada", "more"),
        ("bob", "half of all"),
    ]


def test_a_draft_of_one_goes_on_top_of_another_s_change_elsewhere(open_page: Open, gateway: Running) -> None:
    page = open_page("experiments/depth")
    slide(page, "Users in the experiment", "60")
    etag = asked(gateway, "GET", "experiments").headers["etag"]
    asked(gateway, "POST", "experiments/ranker-test/ramp", {"coverage": 0.9, "why": "mine"}, **{"If-Match": etag})
    page.get_by_role("button", name="Preview the change…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("bob: mine")
    dialog.get_by_role("button", name="Keep theirs").click()
    expect(page.get_by_label("Users in the experiment, in percent")).to_have_value("20")
    slide(page, "Users in the experiment", "60")
    asked(gateway, "POST", "experiments/night-mode/resume", {}, **{"If-Match": etag_of(gateway)})
    page.get_by_role("button", name="Preview the change…").click()
    dialog.get_by_role("button", name="Apply mine on top").click()
    expect(dialog.get_by_role("row")).to_have_count(2)  # the head, and my coverage alone
    confirm(page, "Save")
    assert shares(gateway, "depth") == [0.3, 0.3]
    assert shares(gateway, "ranker-test") == [0.45, 0.45] and stored(gateway, "night-mode")["status"] == "running"


def etag_of(gateway: Running) -> str:
    return str(asked(gateway, "GET", "experiments").headers["etag"])


def test_edited_definitions_are_merged_with_what_came_between(open_page: Open, gateway: Running) -> None:
    page = open_page("definitions")
    text = page.get_by_label("Definitions", exact=True)
    mine = json.loads(text.input_value())
    mine["features"]["fresh"] = {"defaultValue": 1}
    text.fill(json.dumps(mine)[:-1])
    page.get_by_role("button", name="Preview the change…").click()
    expect(page.locator("main [role=alert]")).to_contain_text("This is not JSON")
    text.fill(json.dumps(mine))
    asked(gateway, "POST", "experiments/ranker-test/ramp", {"coverage": 0.9}, **{"If-Match": etag_of(gateway)})
    page.get_by_role("button", name="Preview the change…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Apply mine on top").click()
    expect(dialog.get_by_role("row")).to_have_count(2)
    confirm(page, "Write")
    found = asked(gateway, "GET", "experiments").json()["definitions"]["features"]
    assert found["fresh"] == {"defaultValue": 1} and found["ranker"]["rules"][0]["coverage"] == 0.9


def test_an_emergency_waits_for_no_version_and_asks_once(open_page: Open, gateway: Running) -> None:
    page = open_page("experiments")
    asked(gateway, "POST", "experiments/night-mode/resume", {}, **{"If-Match": etag_of(gateway)})
    page.get_by_role("button", name="Kill switch…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("at once every request gets the champion")
    dialog.get_by_role("button", name="Cancel").click()
    assert asked(gateway, "GET", "experiments").json()["active"]
    page.get_by_role("button", name="Kill switch…").click()
    confirm(page, "Kill all experiments", "clicks fall")
    expect(page.locator("main").get_by_text("The kill switch is on")).to_be_visible()
    expect(page.locator("#bell")).to_contain_text("1")
    assert not asked(gateway, "GET", "experiments").json()["active"] and gateway.recommend()["arms"] == []
    page.get_by_role("button", name="Restore experiments…").click()
    confirm(page, "Restore")
    expect(page.locator("main").get_by_text("The kill switch is on")).to_have_count(0)


def test_an_experiment_is_paused_resumed_promoted_and_taken_back(open_page: Open, gateway: Running) -> None:
    page = open_page("experiments/ranker-test")
    for action in ("Pause", "Resume"):
        page.get_by_role("button", name=f"{action}…").click()
        confirm(page, action)
        expect(page.get_by_role("button", name=f"{action}…")).to_have_count(0)
    page.get_by_role("button", name="Promote…").click()
    expect(page.get_by_role("dialog")).to_contain_text("The report says: promote")
    confirm(page, "Promote", "a sure rise")
    expect(page.get_by_role("button", name="Revert promotion…")).to_be_visible()
    assert asked(gateway, "GET", "aliases").json()["champion"] == OTHER
    page.get_by_role("button", name="Revert promotion…").click()
    confirm(page, "Revert")
    expect(page.get_by_role("button", name="Promote…")).to_be_visible()
    assert asked(gateway, "GET", "aliases").json()["champion"] == "adi+dsfm"
    page.get_by_role("button", name="Stop…").click()
    page.get_by_label("Release an arm").select_option("challenger")
    confirm(page, "Stop", "done")
    expect(page.locator(".view-head").get_by_text("stopped, challenger for all")).to_be_visible()


def test_a_bundle_is_rolled_back_once_even_by_two(open_page: Open, gateway: Running) -> None:
    page = open_page("bundles")
    page.get_by_role("button", name="Roll back adi+dsfm").click()
    expect(page.get_by_role("dialog")).to_contain_text("answered by b0 instead of b1")
    asked(gateway, "PUT", "aliases/adi+dsfm", {"bundle_id": "b0"}, token=ADA)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Roll back", exact=True).click()
    expect(dialog).to_contain_text("Somebody else changed this")
    expect(dialog.get_by_role("row", name="bundle_id")).to_contain_text("b1b0")
    dialog.get_by_role("button", name="Keep theirs").click()
    row = page.get_by_role("row", name="adi+dsfm champion")
    expect(row).to_contain_text("b0")
    page.get_by_role("button", name="Roll back adi+dsfm").click()
    confirm(page, "Roll back", "b1 is better")
    expect(row.locator("td").first).to_have_text("b1")
    assert asked(gateway, "GET", "audit").json()[0]["diff"] == {"aliases.adi+dsfm": ["b0", "b1"]}
