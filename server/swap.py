"""Which bundles are in service, and how the next ones take over.

The aliases are looked at every few seconds. A changed alias loads its bundle aside in a thread: verify, replay, rehearse
every domain. Only then one reference (`live`) is replaced. Requests that hold the older Live finish on it, and its
bundles go when the last of them does; the bundle an alias left is kept loaded, so that rollback is one reference too.
A bundle that fails is refused: the old one keeps serving and the reason stays visible until an alias moves on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from contracts.aliases import Alias, Aliases
from contracts.errors import MdrecError
from contracts.manifest import MANIFEST
from server import heap
from server.bundle import Bundle
from server.errors import Problem
from server.metrics import Metrics

_log = logging.getLogger("mdrec.server")

RETRY_REFUSED_SECONDS = 30.0
Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Live:
    """What serves now. bundles: by recipe; champion: the recipe that answers outside every experiment; pinned: bundles that arms
    name, by id."""

    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    champion: str | None = None
    pinned: Mapping[str, Bundle] = field(default_factory=dict)

    def choose(self, recipe: str | None, domain: str, bundle_id: str | None = None) -> tuple[Bundle, bool]:
        """(bundle, fell back to the champion). bundle_id: instead of the one that serves the recipe. Raises 503 when no champion
        is loaded."""
        wanted = None if recipe is None else self.bundles.get(recipe) if bundle_id is None else self.pinned.get(bundle_id)
        if wanted is not None and domain in wanted.domains:
            return wanted, False
        champion = self.bundles.get(self.champion) if self.champion is not None else None
        if champion is None:
            raise Problem(503, "no-bundle", "no bundle is in service yet", headers={"Retry-After": "5"})
        return champion, recipe is not None and (recipe != self.champion or bundle_id is not None)

    def all(self) -> list[Bundle]:
        return [*self.bundles.values(), *self.pinned.values()]

    def domain_names(self) -> set[str]:
        return {name for bundle in self.bundles.values() for name in bundle.domains}


@dataclass(frozen=True)
class Refusal:
    bundle_id: str
    reason: str
    at: float


class Registry:
    """Owner of `live`. rehearse: raises when a bundle cannot answer in some domain."""

    def __init__(self, home: Path, device: str, metrics: Metrics, rehearse: Callable[[Bundle], None]) -> None:
        self.aliases = Aliases(home)
        self.live = Live()
        self.refused: dict[str, Refusal] = {}
        self.pins: frozenset[str] = frozenset()
        self._home, self._device, self._metrics, self._rehearse = home, device, metrics, rehearse
        self._stamp: Stamp | None = None
        self._kept: dict[tuple[str, Stamp], Bundle] = {}
        self._busy = asyncio.Lock()
        # One thread for all loads: they follow one another, and threads that come and go would each keep a heap.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="bundle-loader")

    async def run(self, poll_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self.refresh()
            except (MdrecError, OSError, ValueError) as error:  # an alias file that is being repaired by hand, say
                _log.error("aliases under %s are unreadable: %s", self._home, error)
                self._metrics.background_errors.labels("swap").inc()

    async def refresh(self) -> None:
        """Bring `live` in line with the aliases, if they changed or a refused bundle is due for another try."""
        async with self._busy:
            stamp = self._look()
            due = any(time.monotonic() - one.at > RETRY_REFUSED_SECONDS for one in self.refused.values())
            if stamp == self._stamp and not due:
                return
            aliases = [alias for recipe in self.aliases.recipes() if (alias := self.aliases.get(recipe)) is not None]
            champion = self.aliases.champion()
            bundles: dict[str, Bundle] = {}
            for alias in aliases:
                serving = await self._bundle(alias)
                if serving is not None:
                    bundles[alias.recipe] = serving
                self._publish({**self._still(aliases), **bundles}, champion)
            self._publish(bundles, champion)
            await self._pin(self.pins)
            names = {one.recipe for one in aliases} | self.pins
            self.refused = {name: why for name, why in self.refused.items() if name in names}
            self._keep(aliases)
            self._stamp = stamp

    def loading(self, bundle_id: str | None) -> bool:
        """Is a pinned bundle still on its way into service here?"""
        return bundle_id is not None and bundle_id not in self.live.pinned and bundle_id not in self.refused

    def problems(self) -> list[str]:
        """Why not every domain of every live recipe can answer; empty when all can."""
        try:
            recipes, champion = self.aliases.recipes(), self.aliases.champion()
        except MdrecError as error:
            return [str(error)]
        missing = [f"recipe {recipe!r} has no bundle in service" for recipe in recipes if recipe not in self.live.bundles]
        if self.live.champion is None or self.live.champion != champion:
            missing.append(f"champion {champion!r} is not in service, {self.live.champion!r} answers")
        return missing

    def oldest_seconds(self) -> float:
        """Age of the oldest bundle in service."""
        return max((time.time() - bundle.created_at for bundle in self.live.bundles.values()), default=0.0)

    def close(self) -> None:
        self._loader.shutdown(wait=True, cancel_futures=True)

    async def _bundle(self, alias: Alias) -> Bundle | None:
        """The bundle that an alias names; when that is refused, the one that served before."""
        key = (alias.bundle_id, self._manifest_stamp(alias.bundle_id))
        serving = self.live.bundles.get(alias.recipe)
        try:
            bundle = self._kept.get(key) or await self.load_aside(alias.bundle_id)
        except (MdrecError, OSError) as error:
            _log.error("bundle %s of recipe %r is refused: %s", alias.bundle_id, alias.recipe, error)
            self._metrics.refused.labels(alias.recipe).inc()
            self.refused[alias.recipe] = Refusal(alias.bundle_id, str(error), time.monotonic())
            return serving
        self.refused.pop(alias.recipe, None)
        self._kept[key] = bundle
        return bundle

    async def _pin(self, pins: frozenset[str]) -> None:
        """Load what arms name beside the aliases. One that fails is refused under its own id; its arm falls to the champion."""
        pinned: dict[str, Bundle] = {}
        for bundle_id in sorted(pins):
            key = (bundle_id, self._manifest_stamp(bundle_id))
            try:
                pinned[bundle_id] = self._kept[key] = self._kept.get(key) or await self.load_aside(bundle_id)
            except (MdrecError, OSError) as error:
                _log.error("bundle %s, which an arm names, is refused: %s", bundle_id, error)
                self._metrics.refused.labels(bundle_id).inc()
                self.refused[bundle_id] = Refusal(bundle_id, str(error), time.monotonic())
                continue
            self.refused.pop(bundle_id, None)
        self.live = replace(self.live, pinned=pinned)

    async def load_aside(self, bundle_id: str, device: str | None = None) -> Bundle:
        """An instance that nobody else has, loaded in the loader's thread and rehearsed. device: other than the gateway's."""
        return await asyncio.get_running_loop().run_in_executor(self._loader, self._load, bundle_id, device or self._device)

    def _load(self, bundle_id: str, device: str) -> Bundle:
        started = time.monotonic()
        bundle = Bundle(self.aliases.bundle_directory(bundle_id), device, self._home / "kernels")
        self._rehearse(bundle)
        heap.give_back()
        _log.info("bundle %s loaded and rehearsed in %.2f s", bundle_id, time.monotonic() - started)
        return bundle

    def _publish(self, bundles: Mapping[str, Bundle], champion: str | None) -> None:
        """The swap: one reference. A champion without a bundle yet does not take over from one that has one."""
        before = self.live
        if champion not in bundles and before.champion in bundles:
            champion = before.champion
        live = self.live = Live(bundles, champion, before.pinned)
        for recipe, bundle in before.bundles.items():
            if live.bundles.get(recipe) is not bundle:
                self._metrics.bundle_info.labels(recipe, bundle.bundle_id).set(0)
        for recipe, bundle in live.bundles.items():
            self._metrics.bundle_info.labels(recipe, bundle.bundle_id).set(1)
        self._metrics.bundle_age.set(self.oldest_seconds())

    def _still(self, aliases: list[Alias]) -> dict[str, Bundle]:
        """What serves until the others are loaded."""
        return {one.recipe: self.live.bundles[one.recipe] for one in aliases if one.recipe in self.live.bundles}

    def _keep(self, aliases: list[Alias]) -> None:
        """Let go of bundles that no alias serves or would roll back to."""
        wanted = {name for alias in aliases for name in (alias.bundle_id, alias.previous)} | self.pins
        serving = set(self.live.bundles.values())
        self._kept = {key: bundle for key, bundle in self._kept.items() if key[0] in wanted or bundle in serving}

    def _look(self) -> Stamp:
        """Changes whenever an alias, the champion, or the manifest of an aliased bundle does."""
        files = sorted((self._home / "aliases").rglob("*.json"))
        recipes = (self.aliases.get(recipe) for recipe in self.aliases.recipes())
        manifests = [self.aliases.bundle_directory(alias.bundle_id) / MANIFEST for alias in recipes if alias is not None]
        pinned = [self.aliases.bundle_directory(bundle_id) / MANIFEST for bundle_id in sorted(self.pins)]
        return (*_stamp([*files, *manifests, *pinned]), *((bundle_id, 0, 0, 0) for bundle_id in sorted(self.pins)))

    def _manifest_stamp(self, bundle_id: str) -> Stamp:
        return _stamp([self.aliases.bundle_directory(bundle_id) / MANIFEST])


def _stamp(paths: list[Path]) -> Stamp:
    found = []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((str(path), status.st_ctime_ns, status.st_mtime_ns, status.st_size))
    return tuple(found)
