"""GrowthBook's public test vectors, where they are to be found: MDRECSHARED, or `shared` beside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("MDRECSHARED", Path(__file__).parents[3] / "shared"))
FILE = SHARED / "vectors" / "growthbook_cases.json"


def vectors(section: str) -> list[Any]:
    """Cases of one section as pytest parameters; one skipped case when the file is not on this machine."""
    if not FILE.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{FILE} is not here"))]
    cases = json.loads(FILE.read_text(encoding="utf-8"))[section]
    return [pytest.param(case, id=f"{number}-{case[0]}") for number, case in enumerate(cases)]
