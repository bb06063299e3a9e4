"""Every Redis key of mdrec. Single-key operations only, so that Redis Cluster needs no shared slots.

    udf:{namespace}:{user_id}   packed UserRow              udf:{namespace}:_meta   NamespaceMeta as JSON, written last
    exp:definitions             hash: version, features     exp:audit               stream of changes
    exp:changed                 channel: the version now stored
    sticky:{length of attribute}:{attribute}:{value}        hash of the arms a unit has met in sticky experiments (expires)
    ads:{domain}                hash of what operators changed about ads (ad_changes.py)
    added:{domain}              hash of the ads they added (added_ads.py)
    events                      stream of exposures and feedback
    seen:{user_id}              sorted set of the user's latest outcomes, where caps ask for them (seen.py; expires)
    shadow:{key}                hash of counts of one shadow, by bundle
    canary:{length of key}:{key}:...                        counts of one canary by minute, its users, what the ledger said of it
    canary:watcher              which worker watches (expires)
    evt:{event_id}              mark: this feedback event is already in the stream (expires)
    req:{request_id}            decision record of a sampled or explained request (expires)
    drift:{bundle_id}:{domain}:{part}           hash: how served p_click is distributed, first and by the hour (expires)

A namespace never contains ':', so the user id is all that follows the second one. A user id that starts with '_' gets
another '_' in front: no user can be called `_meta`.
"""

from __future__ import annotations

EVENTS = "events"
EXPERIMENTS = "exp:definitions"
EXPERIMENTS_AUDIT = "exp:audit"
EXPERIMENTS_CHANGED = "exp:changed"
CANARY_WATCHER = "canary:watcher"

_USER_ROW = "udf"


def user_row(namespace: str, user_id: str) -> str:
    escaped = f"_{user_id}" if user_id.startswith("_") else user_id
    return f"{_USER_ROW}:{_checked(namespace)}:{escaped}"


def user_row_meta(namespace: str) -> str:
    return f"{_USER_ROW}:{_checked(namespace)}:_meta"


def parse_user_row(key: str) -> tuple[str, str]:
    """The inverse of user_row: (namespace, user_id)."""
    prefix, namespace, escaped = key.split(":", 2)
    if prefix != _USER_ROW or escaped == "_meta":
        raise ValueError(f"not a user row key: {key!r}")
    return namespace, escaped[1:] if escaped.startswith("_") else escaped


def user_row_pattern(namespace: str) -> str:
    """A SCAN pattern for every key of one namespace."""
    return f"{_USER_ROW}:{_checked(namespace)}:*"


def ad_changes(domain: str) -> str:
    return f"ads:{domain}"


def added_ads(domain: str) -> str:
    return f"added:{domain}"


def sticky_arms(attribute: str, value: str) -> str:
    """One key a unit: the attribute it is hashed by, and its value."""
    return f"sticky:{len(attribute)}:{attribute}:{value}"


def seen(user_id: str) -> str:
    return f"seen:{user_id}"


def shadow_counts(key: str) -> str:
    return f"shadow:{key}"


def canary_counts(key: str, minute: int | None) -> str:
    """A hash of counts by arm. minute: since 1970; None: since the start."""
    return _canary(key, "all" if minute is None else str(minute))


def canary_users(key: str) -> str:
    """A HyperLogLog of those who got the canary."""
    return _canary(key, "users")


def canary_facts(key: str) -> str:
    """A hash: since when at which share, and what the ledger said last."""
    return _canary(key, "facts")


def _canary(key: str, part: str) -> str:
    return f"canary:{len(key)}:{key}:{part}"


def event_mark(event_id: str) -> str:
    return f"evt:{event_id}"


def served_scores(bundle_id: str, domain: str, part: str) -> str:
    """A bundle id has no ':', nor has a part; all between them is the domain."""
    return f"drift:{bundle_id}:{domain}:{part}"


def request_record(request_id: str) -> str:
    return f"req:{request_id}"


def _checked(namespace: str) -> str:
    if not namespace or any(mark in namespace for mark in ":*?[]\\{}"):
        raise ValueError(f"namespace {namespace!r} must be non-empty and free of : * ? [ ] {{ }} and backslash")
    return namespace
