"""Pictures of the console for the documentation: python -m tests.server.console.pictures docs/plots"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from deploy.redis_local import LocalRedis
from tests.server.console.browser import DESKTOP, PHONE, chromium, log_in
from tests.server.console.world import ADA, ask_around, console_gateway

VIEWS = (
    "",
    "experiments",
    "experiments/ranker-test",
    "experiments/depth",
    "domains",
    "requests",
    "drift",
    "events",
    "bundles",
    "nights",
    "audit",
)


def main(directory: Path, every: bool) -> None:
    with tempfile.TemporaryDirectory() as home:
        server = LocalRedis(Path(home) / "redis").start()
        with console_gateway(Path(home), server.url) as served, chromium() as browser:
            ask_around(served)
            served.recommend("u3", "feed", k=5, explain=True, request_id="example", context={"hour": "12"})
            for name, options, dark in (("desktop", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False)):
                context = browser.new_context(**options, color_scheme="dark" if dark else "light", reduced_motion="reduce")
                page = context.new_page()
                page.on("console", lambda message: message.type in ("error", "warning") and print(message.text, file=sys.stderr))
                page.on("pageerror", lambda error: print(error, file=sys.stderr))
                log_in(page, served.url, ADA)
                for view in VIEWS if every else ("experiments/ranker-test",):
                    page.goto(f"{served.url}/console/#/{view}{'/example' if view == 'requests' else ''}")
                    page.locator("main[aria-busy]").wait_for(state="detached")
                    page.locator("main h1").wait_for()
                    page.wait_for_load_state("networkidle")
                    title = f"console-{name}-{view.replace('/', '-') or 'overview'}.png" if every else f"console-{name}.png"
                    page.screenshot(path=directory / title, full_page=every)
        server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), every="--every" in sys.argv)
