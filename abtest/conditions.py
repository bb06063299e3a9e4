"""Targeting: does a user's attributes object match a condition? MongoDB-like JSON as GrowthBook defines it
(https://docs.growthbook.io/lib/build-your-own, "evalCondition"). A condition that cannot be evaluated does not match.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

Json = Any
Groups = Mapping[str, list[Json]]

_NO_GROUPS: Groups = MappingProxyType({})


def matches(attributes: Json, condition: Mapping[str, Json], groups: Groups = _NO_GROUPS) -> bool:
    """All entries of the condition must hold; `$or $nor $and $not` combine conditions."""
    for key, value in condition.items():  # loops here and below: they are most of an assignment's cost, and all() is dearer
        if key[:1] == "$":
            if not _combined(attributes, key, value, groups):
                return False
        elif not value_matches(_at_path(attributes, key), value, groups):
            return False
    return True


def _combined(attributes: Json, key: str, value: Json, groups: Groups) -> bool:
    if key == "$and":
        return all(matches(attributes, part, groups) for part in value)
    if key == "$or":
        return not value or any(matches(attributes, part, groups) for part in value)
    if key == "$nor":
        return bool(value) and not any(matches(attributes, part, groups) for part in value)
    if key == "$not":
        return not matches(attributes, value, groups)
    return value_matches(_at_path(attributes, key), value, groups)


def value_matches(actual: Json, condition: Json, groups: Groups = _NO_GROUPS) -> bool:
    """One value against an operator object such as {"$gt": 5}, or against a value it must equal."""
    if not _is_operators(condition):
        return same(actual, condition)
    for name, expected in condition.items():  # noqa: SIM110
        if not _operate(name, actual, expected, groups):
            return False
    return True


def same(left: Json, right: Json) -> bool:
    """JSON equality: true is not 1 (as it is in Python), and 1 is 1.0."""
    if type(left) is str:
        return bool(left == right)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    return bool(left == right)


def _at_path(attributes: Json, path: str) -> Json:
    """`father.age` descends into objects; anything missing on the way is null."""
    if "." not in path:
        return attributes.get(path) if isinstance(attributes, dict) else None
    value = attributes
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _is_operators(condition: Json) -> bool:
    if not isinstance(condition, dict) or not condition:
        return False
    for key in condition:  # noqa: SIM110
        if key[:1] != "$":
            return False
    return True


def _operate(name: str, actual: Json, expected: Json, groups: Groups) -> bool:
    if name in _NEED_GROUPS:
        return _NEED_GROUPS[name](actual, expected, groups)
    test = _OPERATORS.get(name)
    return test is not None and test(actual, expected)


def _contains(values: Json, actual: Json) -> bool:
    """Is the value, or one of an array's values, among `values`?"""
    if type(actual) is str:
        return actual in values
    if isinstance(actual, list):
        return any(same(item, value) for item in actual for value in values)
    return any(same(actual, value) for value in values)


def _is_in(actual: Json, expected: Json) -> bool:
    return isinstance(expected, list) and _contains(expected, actual)


def _not_in(actual: Json, expected: Json) -> bool:
    return isinstance(expected, list) and not _contains(expected, actual)


def _fold(value: Json) -> Json:
    """Lower-case strings, also inside an array, for the operators that end in i."""
    if isinstance(value, list):
        return [_fold(item) for item in value]
    return value.lower() if isinstance(value, str) else value


def _all(actual: Json, expected: Json, groups: Groups) -> bool:
    return (
        isinstance(actual, list)
        and isinstance(expected, list)
        and all(any(value_matches(item, wanted, groups) for item in actual) for wanted in expected)
    )


def _element(actual: Json, expected: Json, groups: Groups) -> bool:
    test = value_matches if _is_operators(expected) else matches
    return isinstance(actual, list) and any(test(item, expected, groups) for item in actual)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    """Numbers against numbers or strings of digits (null counts as 0), strings against strings."""

    def test(actual: Json, expected: Json) -> bool:
        if isinstance(actual, str) and isinstance(expected, str):
            return compare(actual, expected)
        try:
            return compare(_number(actual), _number(expected))
        except (TypeError, ValueError, OverflowError):
            return False

    return test


def _number(value: Json) -> float:
    return 0.0 if value is None else float(value)


def _versioned(compare: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    return lambda actual, expected: compare(_version_key(actual), _version_key(expected))


def _version_key(version: Json) -> str:
    """A string that sorts as semantic versions do: numbers padded, a release after its pre-releases."""
    text = "0" if version is None or version == "" else str(version)
    parts = re.split(r"[-.]", re.sub(r"^v|\+.*$", "", text))
    if len(parts) == 3:
        parts.append("~")
    return "-".join(part.rjust(5) if re.fullmatch(r"[0-9]+", part) else part for part in parts)


@lru_cache(maxsize=1024)
def _compiled(pattern: str, flags: int) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern, flags)
    except re.error:
        return None


def _searched(found: bool, flags: int = 0) -> Callable[[Json, Json], bool]:
    """A broken pattern, or a value that is not a string, matches neither the positive nor the negative operator."""

    def test(actual: Json, expected: Json) -> bool:
        pattern = _compiled(expected, flags) if isinstance(expected, str) else None
        return pattern is not None and isinstance(actual, str) and (pattern.search(actual) is not None) == found

    return test


def _type_name(value: Json) -> str:
    for kind, name in ((bool, "boolean"), (str, "string"), ((int, float), "number"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "unknown"


_OPERATORS: dict[str, Callable[[Json, Json], bool]] = {
    "$eq": same,
    "$ne": lambda actual, expected: not same(actual, expected),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$veq": _versioned(operator.eq),
    "$vne": _versioned(operator.ne),
    "$vlt": _versioned(operator.lt),
    "$vlte": _versioned(operator.le),
    "$vgt": _versioned(operator.gt),
    "$vgte": _versioned(operator.ge),
    "$in": _is_in,
    "$nin": _not_in,
    "$ini": lambda actual, expected: _is_in(_fold(actual), _fold(expected)),
    "$nini": lambda actual, expected: _not_in(_fold(actual), _fold(expected)),
    "$regex": _searched(True),
    "$regexi": _searched(True, re.IGNORECASE),
    "$notRegex": _searched(False),
    "$notRegexi": _searched(False, re.IGNORECASE),
    "$exists": lambda actual, expected: (actual is not None) == bool(expected),
    "$type": lambda actual, expected: _type_name(actual) == expected,
}

_NEED_GROUPS: dict[str, Callable[[Json, Json, Groups], bool]] = {
    "$not": lambda actual, expected, groups: not value_matches(actual, expected, groups),
    "$all": _all,
    "$alli": lambda actual, expected, groups: _all(_fold(actual), _fold(expected), groups),
    "$elemMatch": _element,
    "$size": lambda actual, expected, groups: isinstance(actual, list) and value_matches(len(actual), expected, groups),
    "$inGroup": lambda actual, expected, groups: _contains(groups.get(expected, []), actual),
    "$notInGroup": lambda actual, expected, groups: not _contains(groups.get(expected, []), actual),
}
