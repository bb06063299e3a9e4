"""axe finds nothing: every view and dialog, in light and dark, on a desktop and on a phone."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.server.console.browser import DESKTOP, PHONE
from tests.server.console.conftest import Open
from tests.server.console.test_console_page import VIEWS, answer_with
from tests.server.console.world import HOSTILE, example_drift, example_report
from tests.server.live import Running

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
FOUND = """async (rules) => {
  const options = rules.length ? {runOnly: {type: 'rule', values: rules}} : {};
  const {violations, passes} = await axe.run(document, {resultTypes: ['violations'], preload: false, ...options});
  return [violations.map(one => [one.id, one.nodes.map(node => [node.target.join(' '), node.failureSummary])]), passes.length];
}"""
IN_DARK = {"experiments/depth", "bundles", "requests/clean"}  # among them they have every part there is
OF_COLOUR = ["color-contrast", "link-in-text-block"]
OF_SIZE = ["target-size", "scrollable-region-focusable", "meta-viewport"]


def clean(page: Page, rules: list[str] | None = None) -> None:
    wrong, passed = page.evaluate(FOUND, rules or [])
    assert wrong == [], json.dumps(wrong, indent=1)
    assert passed > 0


def everywhere(page: Page, dark: bool = True) -> None:
    """All rules once, with folded parts open; those that colours and sizes decide, again where these differ."""
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(DESKTOP["viewport"])
    unfold(page, True)
    clean(page)
    unfold(page, False)
    if dark:
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        clean(page, OF_COLOUR)
    page.set_viewport_size(PHONE["viewport"])
    clean(page, OF_SIZE)


def unfold(page: Page, opened: bool) -> None:
    """The first few folded parts: the others are like them."""
    page.evaluate("open => [...document.querySelectorAll('details')].slice(0, 3).forEach(one => { one.open = open })", opened)


@pytest.fixture
def page(open_page: Open) -> Page:
    """axe comes in past the policy, as a debugger's script does."""
    page = open_page()
    page.evaluate(AXE)
    return page


def show(page: Page, view: str) -> None:
    page.evaluate("view => { location.hash = '#/' + view }", view)
    page.locator("main:not([aria-busy]) h1").wait_for()


def test_every_view_is_clean(page: Page, gateway: Running) -> None:
    gateway.recommend("u1", "feed", k=3, explain=True, request_id="clean")
    for view in (*VIEWS, "requests/clean"):
        show(page, view)
        if view.endswith("clean"):
            page.get_by_label("Ad id").fill("a0")
            page.get_by_text("a0 was ranked").wait_for()
        everywhere(page, dark=view in IN_DARK)


def test_alarms_dialogs_and_login_are_clean(page: Page, gateway: Running) -> None:
    report: dict[str, Any] = json.loads(example_report("ranker-test", broken=True, breached=True).model_dump_json())
    answer_with(page, "**/experiments/ranker-test/report", {**report, "age_seconds": 1.0})
    show(page, "experiments/ranker-test")
    page.get_by_text("sample ratio mismatch").first.wait_for()
    everywhere(page)
    page.get_by_role("button", name="Stop…").click()
    page.get_by_role("dialog").get_by_role("table").wait_for()
    everywhere(page)
    page.keyboard.press("Escape")
    answer_with(page, "**/admin/v1/drift*", example_drift())
    show(page, "drift")
    page.get_by_text("mail, adi+dsfm").wait_for()
    everywhere(page)
    show(page, f"requests/{HOSTILE}")
    everywhere(page)
    page.set_viewport_size(DESKTOP["viewport"])
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Operator token").wait_for()
    everywhere(page)
