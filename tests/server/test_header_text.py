"""Names and reasons in headers: Latin-1 as it is, anything else as RFC 8187 writes it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.server.live import Running
from tests.server.test_admin import DEFINITIONS, call
from tests.server.test_bad_input import problem


@pytest.mark.parametrize("text", ["plain", "größer → 50% “bald” 李"])
def test_a_reason_and_a_name_of_any_script_reach_the_record(served: Running, text: str) -> None:
    written = text if text.isascii() else f"UTF-8''{quote(text, safe='')}"
    answer = call(served, "PUT", "experiments", DEFINITIONS, **{"If-Match": '"0"', "X-Why": written, "X-Operator": written})
    assert answer.status_code == 200, answer.text
    (record,) = call(served, "GET", "audit").json()
    assert (record["who"], record["why"]) == (text, text)


def test_escapes_that_are_no_utf_8_are_refused(served: Running) -> None:
    problem(call(served, "GET", "audit", **{"X-Operator": "UTF-8''%ff"}), 422)
