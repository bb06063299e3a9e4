"""The console's files: served to anybody, holding nothing, letting nothing but themselves run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest

from server.console import routes
from tests.server.live import Running
from tests.server.test_bad_input import problem

FILES = routes.files()
SCRIPTS = {name: file.content.decode() for name, file in FILES.items() if name.endswith(".js")}
INDEX = FILES["index.html"].content.decode()


def test_the_page_is_served_without_a_token_and_its_data_is_not(shared: Running) -> None:
    assert shared.client.get("/console").headers["location"] == "console/"
    page = shared.client.get("/console", follow_redirects=True)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.text == INDEX
    problem(shared.client.get("/admin/v1/experiments"), 401)
    assert not any(path.startswith("/console") for path in shared.client.get("/openapi.json").json()["paths"])


def test_every_file_says_that_only_this_gateway_s_files_may_run(shared: Running) -> None:
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    kinds["html"] = "text/html; charset=utf-8"
    for name in FILES:
        answer = shared.client.get(f"/console/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kinds[name.rsplit(".")[-1]])
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_a_file_that_did_not_change_is_not_sent_again(shared: Running) -> None:
    first = shared.client.get("/console/main.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    again = shared.client.get("/console/main.js", headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert "content-security-policy" in again.headers
    assert shared.client.get("/console/main.js", headers={"If-None-Match": '"other"'}).status_code == 200
    head = shared.client.head("/console/")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", FILES["index.html"].etag)


@pytest.mark.parametrize("path", ["none.js", "../app.py", "%2e%2e/routes.py", "..%2froutes.py", "/etc/passwd", "lib", "lib/"])
def test_nothing_but_its_files_is_reachable(shared: Running, path: str) -> None:
    problem(shared.client.get(f"/console/{path}"), 404)


def test_nothing_stands_inside_the_html_that_the_policy_would_stop() -> None:
    assert re.findall(r"<script(?![^>]*\ssrc=)", INDEX) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", INDEX) == []
    assert re.findall(r"""(?:src|href)="(?:https?:)?//""", INDEX) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_elements_from_text_alone_and_import_what_is_there(name: str) -> None:
    source = SCRIPTS[name]
    banned = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|createContextualFragment|srcdoc"
    )
    assert re.findall(banned, source) == []
    imported = re.findall(r"""^import [^"]*"([^"]+)";""", source, re.MULTILINE)
    assert [one for one in imported if normpath(join(dirname(name), one)) not in FILES] == []
    assert re.findall(r"""https?://(?!www\.w3\.org/2000/svg)""", source) == []


def test_an_installed_gateway_has_the_files_too() -> None:
    package = Path(routes.__file__).parent
    told = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["setuptools"]
    carried = {path for one in told["package-data"]["server.console"] for path in package.glob(one) if path.is_file()}
    assert {path.relative_to(package / "page").as_posix() for path in carried} == set(FILES)
    assert "server.console" in told["packages"]


def test_what_the_html_names_is_there() -> None:
    assert [one for one in re.findall(r"""(?:src|href)="([^"#]+)\"""", INDEX) if one not in FILES] == []
