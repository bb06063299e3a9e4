"""The console as an operator uses it, in a real Chromium: log in, look, ask why; by keyboard, on a phone, with hostile names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.server.console.browser import PHONE
from tests.server.console.conftest import Open
from tests.server.console.world import ADA, HOSTILE, example_drift, example_report
from tests.server.live import Running

VIEWS = (
    "", "experiments", "experiments/ranker-test", "experiments/depth", "definitions", "domains", "requests", "drift", "events",
    "bundles", "nights", "audit",
)  # fmt: skip


def answer_with(page: Page, path: str, body: Any, status: int = 200) -> None:
    """What the gateway would say in a state that is hard to bring about."""

    def fulfil(route: Route) -> None:
        route.fulfill(status=status, content_type="application/json", body=body if isinstance(body, str) else json.dumps(body))

    page.route(path, fulfil)


def test_a_token_opens_the_page_and_leaves_with_it(open_page: Open, gateway: Running) -> None:
    page = open_page(token=None)
    page.get_by_label("Operator token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert").filter(has_text="not one of the gateway's")).to_be_visible()
    page.get_by_label("Operator token").fill(ADA)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_focused()
    expect(page.locator("#who")).to_have_text("ada")
    stored = page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie, location.href]")
    assert ADA in stored[0].values() and ADA not in json.dumps(stored[1:])
    page.reload()
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Operator token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_token_that_is_no_longer_taken_brings_the_login_back(open_page: Open) -> None:
    page = open_page()
    answer_with(page, "**/admin/v1/experiments", {"type": "urn:mdrec:problem:unauthorized", "detail": "gone"}, status=401)
    page.get_by_role("link", name="Experiments", exact=True).click()
    expect(page.get_by_label("Operator token")).to_be_visible()
    expect(page.locator("#said")).to_have_text("The token is no longer taken. Log in again.")
    assert page.evaluate("sessionStorage.length") == 0


def test_every_view_opens_and_says_what_it_is(open_page: Open) -> None:
    page = open_page()
    for view in VIEWS:
        page.evaluate("view => { location.hash = '#/' + view }", view)
        page.locator("main:not([aria-busy])").wait_for()
        heading = page.locator("main h1")
        expect(heading).to_be_visible()
        assert (heading.inner_text() in page.title()) or not view
        assert page.get_by_text("This cannot be shown").count() == 0, view
        assert page.locator("nav a[aria-current=page]").count() == 1


def test_on_a_phone_no_view_scrolls_sideways(open_page: Open) -> None:
    page = open_page(**PHONE)
    for view in (*VIEWS, "requests/none", "experiments/none"):
        page.evaluate("view => { location.hash = '#/' + view }", view)
        page.locator("main:not([aria-busy])").wait_for()
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == 360, view
    menu = page.get_by_role("button", name="Menu")
    expect(page.get_by_role("link", name="Nights")).to_be_hidden()
    menu.click()
    page.get_by_role("link", name="Nights").click()
    expect(page.get_by_role("heading", level=1, name="Nights")).to_be_visible()
    expect(menu).to_have_attribute("aria-expanded", "false")


def test_by_keyboard_alone_from_login_to_a_paused_preview(open_page: Open) -> None:
    page = open_page(token=None)
    press = page.keyboard.press
    page.keyboard.type(ADA)  # the field has the focus already
    press("Enter")
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_focused()
    page.reload()
    page.locator("main h1").wait_for()
    press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    press("Enter")
    expect(page.locator("main")).to_be_focused()
    tab_to(page, "a[href='#/experiments']", back=True)
    press("Enter")
    expect(page.get_by_role("heading", level=1, name="Experiments")).to_be_focused()
    tab_to(page, "main a[href='#/experiments/ranker-test']")
    press("Enter")
    expect(page.get_by_role("heading", level=1, name="ranker-test")).to_be_focused()
    tab_to(page, "main button:has-text('Pause…')")
    press("Enter")
    dialog = page.get_by_role("dialog", name="Pause ranker-test")
    expect(dialog.get_by_role("table")).to_contain_text("features.ranker.rules.0.active")
    outside = page.evaluate(
        "() => document.querySelector('dialog').contains(document.activeElement) || document.activeElement === document.body"
    )
    assert outside
    press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Pause…")).to_be_visible()
    tab_to(page, "input[type=range]")
    before = page.locator("input[type=number]").first.input_value()
    press("ArrowRight")
    assert float(page.locator("input[type=number]").first.input_value()) == float(before) + 1


def tab_to(page: Page, selector: str, back: bool = False) -> None:
    """Until the focus is there; it must be seen on its way."""
    for _ in range(60):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("wanted => !!document.activeElement.closest(wanted)", selector.split(":has-text")[0]):
            text = selector.partition("has-text('")[2].removesuffix("')")
            if text in page.evaluate("document.activeElement.textContent"):
                width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
                assert width == "2px", f"the focus of {selector} is not seen"
                return
    raise AssertionError(f"{selector} is not reached by keyboard")


def test_why_this_ad_and_why_not_that_one(open_page: Open) -> None:
    page = open_page("requests")
    page.get_by_label("User", exact=True).fill("u1")
    page.get_by_label("Ads", exact=True).fill("4")
    page.get_by_label("Context").fill("{hour")
    page.get_by_role("button", name="Ask and explain").click()
    expect(page.locator("main [role=alert]")).to_contain_text("not JSON")
    page.get_by_label("Context").fill('{"hour": "12"}')
    page.get_by_role("button", name="Ask and explain").click()
    expect(page.get_by_role("heading", name="Why this ad, why not that one")).to_be_visible()
    first = page.locator("tbody tr").filter(has_text="answered").nth(1).locator("th").inner_text()
    search, story = page.get_by_label("Ad id"), page.locator("main [role=status]")
    search.fill(first)
    expect(story).to_contain_text(f"{first} was answered at position")
    search.fill("a3")
    expect(story).to_contain_text("a3 was dropped by the filter: inactive")
    search.fill("a0")
    expect(story).to_contain_text("a0 was ranked, below the top 4")
    search.fill("nobody")
    expect(story).to_contain_text("nobody was no candidate")
    page.get_by_role("button", name="What would it be worth?").click()
    expect(story).to_contain_text("has no such ad in feed")
    page.get_by_label("Request id").fill("never asked")
    page.get_by_role("button", name="Look it up").click()
    expect(page.get_by_text("There is no record of this request")).to_be_visible()


def test_alarms_are_shown_in_words_wherever_one_looks(open_page: Open, gateway: Running) -> None:
    page = open_page()
    report = {**json.loads(example_report("ranker-test", broken=True).model_dump_json()), "age_seconds": 1.0}
    answer_with(page, "**/experiments/ranker-test/report", report)
    refused = {"adi+dsfm": {"bundle_id": "b9", "reason": "ranker.onnx is corrupt."}}
    answer_with(page, "**/readyz", {**gateway.ready(), "refused": refused})
    page.reload()
    alarms = page.get_by_role("region", name="Alarms")
    expect(alarms).to_contain_text("ranker-test: sample ratio mismatch")
    expect(alarms).to_contain_text("in feed: 'challenger' has 4,020 users where 5,010 of 10,020 are expected")
    expect(alarms).to_contain_text("Bundle b9 of adi+dsfm was refused")
    expect(page.locator("#bell")).to_have_accessible_name("2 alarms: to the overview")
    expect(page.locator("#alarmed")).to_contain_text("sample ratio mismatch")
    page.get_by_role("link", name="Look: ranker-test: sample ratio mismatch").click()
    expect(page.locator("main [role=alert]")).to_contain_text("Its numbers mean nothing until this is explained.")
    report = {**json.loads(example_report("ranker-test", breached=True).model_dump_json()), "age_seconds": 1.0}
    answer_with(page, "**/experiments/ranker-test/report", report)
    page.reload()
    expect(page.locator("main [role=alert]").first).to_contain_text("guardrail of challenger breached")
    expect(page.get_by_text("roll back challenger").first).to_be_visible()


def test_results_are_drawn_and_said(open_page: Open) -> None:
    page = open_page("experiments/ranker-test")
    rows = page.get_by_role("table", name="Lift of ecpm of challenger over control").locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("+6.2% +2.5% to +9.9%")
    assert rows.first.locator("svg.good rect.box").count() == 1
    assert page.evaluate(
        """() => [...document.querySelectorAll('tbody tr')].filter(row => row.querySelector('svg'))
            .map(row => [...row.querySelectorAll('.whisker, .box, .point')].length).slice(0, 5)"""
    ) == [3] * 5  # fmt: skip
    band = page.get_by_role("img", name="Lift of ecpm of challenger in all domains by day")
    assert band.locator("polygon.band").count() == 1
    page.get_by_label("Domain", exact=True).select_option("mail")
    expect(page.get_by_role("img", name="Lift of ecpm of challenger in mail by day")).to_be_visible()
    page.get_by_label("Metric", exact=True).select_option("ctr")
    expect(page.get_by_role("table", name="Lift of ctr of challenger over control")).to_be_visible()


def test_what_happens_meanwhile_is_shown_without_being_asked_for(open_page: Open) -> None:
    page = open_page("drift", timezone_id="UTC")  # a context of its own: the clock is the context's
    expect(page.get_by_text("gathering").first).to_be_visible()
    answer_with(page, "**/admin/v1/drift*", example_drift())
    page.clock.install()
    page.reload()
    cards = page.locator("main section")
    expect(cards.first).to_contain_text("mail, adi+dsfm")
    expect(cards.first).to_contain_text("drifted")
    assert cards.first.get_by_role("img").locator(".then").count() == 18
    expect(page.locator("#bell")).to_be_hidden()  # it is a warning, no alarm
    page.evaluate("location.hash = '#/experiments/ranker-test'")
    expect(page.get_by_text("promote challenger")).to_be_visible()
    report = {**json.loads(example_report("ranker-test", breached=True).model_dump_json()), "age_seconds": 1.0}
    answer_with(page, "**/experiments/ranker-test/report", report)
    page.clock.run_for(31_000)
    expect(page.locator("main [role=alert]").first).to_contain_text("guardrail of challenger breached")
    expect(page.locator("#alarmed")).to_contain_text("roll back challenger")
    expect(page.locator("#said")).to_have_text("The results of ranker-test were renewed.")
    page.evaluate("location.hash = '#/'")
    expect(page.get_by_role("region", name="Alarms")).to_contain_text("Scores drift in mail")
    answer_with(page, "**/admin/v1/drift*", {**example_drift(), "slices": []})
    page.clock.run_for(31_000)
    expect(page.get_by_role("region", name="Alarms")).not_to_contain_text("Scores drift")


def test_an_id_is_text_whatever_it_holds(open_page: Open, gateway: Running) -> None:
    gateway.recommend(HOSTILE, "feed", k=3, explain=True, request_id=HOSTILE, context={HOSTILE: HOSTILE})
    page = open_page("experiments")
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.locator("main h1")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Stop…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text(f"Stop {HOSTILE}")
    dialog.get_by_label("Release an arm").select_option(label=f"{HOSTILE}: everybody it targets gets it")
    expect(dialog.get_by_role("table")).to_contain_text(HOSTILE)
    dialog.get_by_role("button", name="Cancel").click()
    page.evaluate("id => { location.hash = '#/requests/' + encodeURIComponent(id) }", HOSTILE)
    expect(page.locator("dl.facts")).to_contain_text(HOSTILE)
    page.get_by_label("Ad id").fill(HOSTILE)
    expect(page.locator("main [role=status]")).to_contain_text(f"{HOSTILE} was no candidate")
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_until_one_is_chosen(open_page: Open, theme: str) -> None:
    page = open_page(color_scheme=theme)
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(245, 246, 248)", "dark": "rgb(15, 19, 24)"}
    assert page.evaluate(ground) == colours[theme]
    other = "dark" if theme == "light" else "light"
    page.get_by_label("Theme").select_option(other)
    assert page.evaluate(ground) == colours[other]
    page.reload()
    page.get_by_role("heading", level=1, name="Overview").wait_for()
    assert page.evaluate(ground) == colours[other]
