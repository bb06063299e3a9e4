"""GrowthBook's public test vectors, where they are to be found: MDREC_SHARED, or `shared` beside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_SHARED = Path(os.environ.get("MDREC_SHARED", Path(__file__).parents[3] / "shared"))
_FILE = _SHARED / "vectors" / "growthbook_cases.json"


def vectors(section: str) -> list[Any]:
    """Cases of one section as pytest parameters; one skipped case when the file is not on this machine."""
    if not _FILE.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{_FILE} is not here"))]
    cases = json.loads(_FILE.read_text(encoding="utf-8"))[section]
    return [pytest.param(case, id=f"{number}-{case[0]}") for number, case in enumerate(cases)]
