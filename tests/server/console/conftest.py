"""The console's gateway and a browser, one of each a file: its event loop must be gone before other tests run theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from deploy.redis_local import LocalRedis
from tests.server.console.browser import CHROMIUM, DESKTOP, chromium
from tests.server.console.world import ADA, console_gateway
from tests.server.live import Running

Open = Callable[..., Page]
PATIENCE_MS = 30_000  # for a busy machine; what comes, comes sooner
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("console")
    server = LocalRedis(home / "redis").start()
    with console_gateway(home, server.url) as served:
        yield served
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("MDREC_BROWSER_TESTS") == "required":
            pytest.fail("chromium is not installed, and MDREC_BROWSER_TESTS=required asks for it")
        pytest.skip("chromium is not installed (Debian and Ubuntu: apt install chromium)")
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def contexts(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """One context for each set of options: its pages share a process and what was compiled, and no session."""
    made: dict[str, BrowserContext] = {}

    def context(**options: object) -> BrowserContext:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = browser.new_context(**{**DESKTOP, "reduced_motion": "reduce", **options})
            made[key].set_default_timeout(PATIENCE_MS)
        return made[key]

    yield context
    for one in made.values():
        one.close()


@pytest.fixture
def open_page(contexts: Callable[..., BrowserContext], gateway: Running) -> Iterator[Open]:
    """open_page(view, token=BOB, **options of the browser's context): a page of an operator's own, logged in. What it
    writes to its console as an error, and every script that fails, fails the test."""
    pages: list[Page] = []
    wrong: list[str] = []

    def opened(view: str = "", token: str | None = ADA, **options: object) -> Page:
        page = contexts(**options).new_page()
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if _bad(message.type, message.text) else None)
        if token is not None:  # as after a login, which has a test of its own
            page.add_init_script(f"sessionStorage.setItem('mdrec.token', {json.dumps(token)})")
        page.goto(f"{gateway.url}/console/#/{view}")
        page.locator("main:not([aria-busy]) h1").wait_for()
        return page

    yield opened
    for page in pages:
        page.evaluate("localStorage.clear()")
        page.close()
    assert wrong == []


def _bad(kind: str, text: str) -> bool:
    """Answers that a view expects (401, 404, 412) are no error of the page."""
    return kind in ("error", "warning") and "the server responded with a status of" not in text
