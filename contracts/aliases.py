"""Which bundle serves a recipe now, and which recipe is champion. One small file each, replaced atomically."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from contracts.errors import BadInput
from contracts.files import read_json, write_json
from contracts.manifest import MANIFEST

CHAMPION = "champion"


@dataclass(frozen=True)
class Alias:
    """bundle_id serves `recipe`; previous is what it served before, for rollback."""

    recipe: str
    bundle_id: str
    previous: str | None = None


class Aliases:
    """The aliases under `home/aliases`; bundles live under `home/bundles`."""

    def __init__(self, home: Path) -> None:
        self._recipes = home / "aliases" / "recipes"
        self._champion = home / "aliases" / f"{CHAMPION}.json"
        self._bundles = home / "bundles"

    def bundle_directory(self, bundle_id: str) -> Path:
        return self._bundles / bundle_id

    def bundle_ids(self) -> list[str]:
        """Complete bundles, oldest first."""
        complete = [path for path in self._bundles.glob("*") if (path / MANIFEST).is_file()]
        return [path.name for path in sorted(complete, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name))]

    def recipes(self) -> list[str]:
        return sorted(unquote(path.stem) for path in self._recipes.glob("*.json"))

    def get(self, recipe: str) -> Alias | None:
        path = self._path(recipe)
        return Alias(**read_json(path)) if path.exists() else None

    def move(self, recipe: str, bundle_id: str) -> Alias:
        """Point `recipe` at a complete bundle and remember the one it leaves. The first recipe becomes champion."""
        if bundle_id not in self.bundle_ids():
            known = ", ".join(self.bundle_ids()) or "none"
            raise BadInput(f"bundle {bundle_id!r} does not exist or is incomplete", f"complete bundles: {known}")
        now = self.get(recipe)
        if now is not None and now.bundle_id == bundle_id:
            return now
        alias = Alias(recipe, bundle_id, now.bundle_id if now else None)
        write_json(self._path(recipe), {"recipe": alias.recipe, "bundle_id": alias.bundle_id, "previous": alias.previous})
        if self.champion() is None:
            self.crown(recipe)
        return alias

    def rollback(self, recipe: str) -> Alias:
        now = self.get(recipe)
        if now is None or now.previous is None:
            raise BadInput(f"recipe {recipe!r} has no previous bundle to roll back to", "see `mdrec bundle list`")
        return self.move(recipe, now.previous)

    def champion(self) -> str | None:
        """The recipe that answers outside every experiment."""
        return str(read_json(self._champion)["recipe"]) if self._champion.exists() else None

    def crown(self, recipe: str) -> None:
        if self.get(recipe) is None:
            known = ", ".join(self.recipes()) or "none"
            raise BadInput(f"recipe {recipe!r} has no bundle", f"recipes with one: {known}")
        write_json(self._champion, {"recipe": recipe})

    def _path(self, recipe: str) -> Path:
        return self._recipes / f"{quote(recipe, safe='+')}.json"
