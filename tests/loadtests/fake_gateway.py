"""A gateway that answers canned, valid JSON over real HTTP, or refuses; and a small dataset to draw traffic from."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

CONTEXTS = {("1", "feed"): {"hour": 20, "os": "ios"}, ("1", "search"): {"hour": 8}, ("2", "search"): {"hour": 9, "os": "web"}}
EVENTS = [(1, "feed", 100, 20, "ios")] * 60 + [(1, "search", 101, 8, None)] * 15 + [(2, "search", 102, 9, "web")] * 25


def write_dataset(directory: Path) -> Path:
    """User 1 makes three quarters of the events, four fifths of them in feed; user 2 is only in search."""
    (directory / "events").mkdir(parents=True)
    names = ["uid", "scene", "item", "hour", "os"]
    frame = pl.DataFrame(EVENTS, schema=names, orient="row").with_columns(click=pl.lit(1))
    frame.write_parquet(directory / "events" / "train.parquet")
    features = [{"name": name, "side": "context", "kind": "categorical"} for name in ("hour", "os")]
    spec = {"name": "tiny", "user_id": "uid", "domain": "scene", "ad_id": "item", "label": "click", "features": features}
    (directory / "dataset.yaml").write_text(yaml.safe_dump(spec))
    return directory


def recommend_answer(domain: str = "feed", k: int = 3) -> dict[str, Any]:
    ads = [{"ad_id": f"a{n}", "position": n, "p_click": 0.5, "rank_score": 1.0 - n / 100, "bid": 1.0} for n in range(k)]
    return {"request_id": "r1", "domain": domain, "bundle_id": "b1", "ads": ads, "degraded": []}


@dataclass
class Gateway:
    """url; asked: requests by path; busy: set once `enough` requests have come."""

    enough: int
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    busy: threading.Event = field(default_factory=threading.Event)


@contextmanager
def gateway(mode: Literal["right", "empty", "silent"] = "right", enough: int = 1) -> Iterator[Gateway]:
    """empty: every recommend answers 200 without ads; silent: nothing is ever answered."""
    found = Gateway(enough)
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            found.asked[self.path] += 1
            if found.asked.total() >= found.enough:
                found.busy.set()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if mode == "silent":
                closing.wait()
            elif self.path == "/v1/recommend":
                answer = recommend_answer(body["domain"]) | ({"ads": []} if mode == "empty" else {})
                self._send(200, answer)
            elif self.path == "/v1/score":
                scores = [{"ad_id": one, "p_click": 0.1, "rank_score": 0.1} for one in body["ad_ids"]]
                self._send(200, {"bundle_id": "b1", "scores": scores, "unknown_ad_ids": []})
            else:
                self._send(202, {"accepted": len(body["events"]), "duplicates": 0, "rejected": []})

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
