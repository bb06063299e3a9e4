"""The ready line: printed once the gateway says it is ready, with a request to copy for every domain."""

from __future__ import annotations

import json
import shlex
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from contracts.ids import IdTable
from contracts.schema import USER_ID, FeatureSchema
from deploy.home import home

_POLL_SECONDS = 0.1


def announce_when_ready(host: str, port: int) -> None:
    """Watch /readyz from a thread of its own and print the ready line."""
    base = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    threading.Thread(target=_watch, args=(base, time.perf_counter()), daemon=True, name="ready-line").start()


def _watch(base: str, started: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"{base}/readyz", timeout=5) as answer:
                answer.read()
            break
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(_POLL_SECONDS)
    print(
        f"mdrec is ready on {base} after {time.perf_counter() - started:.1f} s; "
        f"console {base}/console; API docs {base}/docs; Ctrl-C stops it",
        flush=True,
    )
    for request in _examples():
        body = shlex.quote(json.dumps(request, ensure_ascii=False))
        print(f"curl -s {base}/v1/recommend -H 'content-type: application/json' -d {body}", flush=True)


def _examples() -> list[dict[str, Any]]:
    """A request for every domain of the champion's bundle, for a user it knows."""
    from contracts.aliases import Aliases

    aliases = Aliases(home())
    champion = aliases.champion()
    alias = aliases.get(champion) if champion else None
    if alias is None:
        return []
    schema = FeatureSchema.load(Path(aliases.bundle_directory(alias.bundle_id)) / "schema")
    users = schema.vocabularies.get(USER_ID, IdTable())
    user = users[0] if len(users) else "anyone"
    return [{"user_id": user, "domain": domain, "k": 3} for domain in schema.domains]
