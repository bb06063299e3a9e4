"""Pictures of the console for the documentation: python -m tests.server.console.pictures docs/plots"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from deploy.redis_local import LocalRedis
from tests.server.console.browser import DESKTOP, PHONE, chromium, log_in
from tests.server.console.world import ADA, ask_around, console_gateway

EVERY = (
    "", "experiments", "experiments/ranker-test", "experiments/depth", "definitions", "domains", "requests/example", "drift",
    "events", "bundles", "nights", "audit",
)  # fmt: skip
KINDS = (("desktop", DESKTOP, "light"), ("dark", DESKTOP, "dark"), ("phone", PHONE, "light"))


def main(directory: Path, every: bool) -> None:
    """An experiment in three kinds and one request; or each view in each kind."""
    with tempfile.TemporaryDirectory() as home:
        server = LocalRedis(Path(home) / "redis").start()
        with console_gateway(Path(home), server.url) as served, chromium() as browser:
            ask_around(served)
            served.recommend("u3", "feed", k=5, explain=True, request_id="example", context={"hour": "12"})
            for kind, options, scheme in KINDS:
                page = browser.new_context(**options, color_scheme=scheme, reduced_motion="reduce").new_page()
                page.on("pageerror", lambda error: print(error, file=sys.stderr))
                log_in(page, served.url, ADA)
                for view in EVERY if every else ("experiments/ranker-test",):
                    _show(page, view)
                    name = f"console-{kind}-{view.replace('/', '-') or 'overview'}" if every else f"console-{kind}"
                    page.screenshot(path=directory / f"{name}.png", full_page=True)
                if kind == "desktop" and not every:
                    _show(page, "requests/example")
                    page.get_by_label("Ad id").fill("a19")
                    page.evaluate("window.scrollTo(0, 0)")
                    page.screenshot(path=directory / "console-request.png", full_page=True)
        server.stop()


def _show(page: Page, view: str) -> None:
    page.evaluate("view => { location.hash = '#/' + view }", view)
    page.locator("main:not([aria-busy]) h1").wait_for()
    page.wait_for_load_state("networkidle")


if __name__ == "__main__":
    main(Path(sys.argv[1]), every="--every" in sys.argv)
