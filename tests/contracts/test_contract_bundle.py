"""Manifest and aliases: complete or absent, every byte accounted for, one step back always possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.aliases import Alias, Aliases
from contracts.errors import BadInput, BundleError, MdrecError, WorkFailed
from contracts.files import read_json, write_bytes, write_json
from contracts.manifest import MANIFEST, DatasetEntry, DomainEntry, FileEntry, Gate, IndexEntry, Manifest, RetrieverEntry

INDEX = IndexEntry(
    kind="exact", file="index.npy", dimension=4, size=2, recall_at=10, recall=1.0, recall_gate=0.9, build_seconds=0.5
)


def manifest(bundle_id: str = "b1", **other: Any) -> Manifest:
    return Manifest(
        bundle_id=bundle_id,
        recipe="adi+dsfm",
        namespace=bundle_id,
        dataset=DatasetEntry(name="demo", digest="00", rows=9),
        domains=[DomainEntry(name="feed: é", directory="domains/0", ads=2, index=INDEX)],
        retriever=RetrieverEntry(name="adi", dimension=4, user_inputs=["user_codes"], ad_inputs=["ad_codes"]),
        seed=0,
        gates=[Gate(name="auc", domain="feed: é", value=None, threshold=None, passed=True, reason="one class only")],
        created_at="2026-01-01T00:00:00Z",
        **other,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundles" / "b1"
    write_bytes(directory / "ranker.onnx", b"ranker")
    write_bytes(directory / "domains" / "0" / "index.npy", b"index")
    write_bytes(directory / "domains" / "0" / MANIFEST, b"nested, and no exception")
    return directory


def test_publish_accounts_for_every_file(bundle: Path) -> None:
    published = manifest().publish(bundle)
    assert sorted(published.files) == ["domains/0/index.npy", "domains/0/manifest.json", "ranker.onnx"]
    assert published.files["ranker.onnx"].bytes == 6 and published.bytes == 6 + 5 + 24
    loaded = Manifest.load(bundle)
    assert loaded == published
    loaded.verify(bundle)
    assert loaded.publish(bundle).files == published.files, "publishing again does not digest the manifest itself"


@pytest.mark.parametrize("name", ["ranker.onnx", "domains/0/index.npy", "domains/0/manifest.json"])
def test_any_change_of_a_file_is_found_and_named(bundle: Path, name: str) -> None:
    published = manifest().publish(bundle)
    whole = (bundle / name).read_bytes()
    for damage in (whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:], b""):
        (bundle / name).write_bytes(damage)
        with pytest.raises(BundleError, match=f"{Path(name).name} is corrupt"):
            published.verify(bundle)
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{Path(name).name} is missing"):
        published.verify(bundle)


def test_a_truncated_manifest_is_named(bundle: Path) -> None:
    manifest().publish(bundle)
    whole = (bundle / MANIFEST).read_bytes()
    for keep in (0, 1, len(whole) // 2, len(whole) - 3):
        (bundle / MANIFEST).write_bytes(whole[:keep])
        with pytest.raises(BundleError, match=r"manifest\.json"):
            Manifest.load(bundle)
    (bundle / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Manifest.load(bundle)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2, "tomorrow": 1}, "format 2, this version reads 1"),
        ({"seed": "x"}, "field 'seed'"),
        ({"surprise": 1}, "field 'surprise'"),
        ({"domains": [{"name": "x"}]}, r"field 'domains\.0\.directory'"),
    ],
)
def test_a_manifest_of_another_making_says_what_differs(bundle: Path, change: dict[str, Any], says: str) -> None:
    manifest().publish(bundle)
    write_json(bundle / MANIFEST, {**read_json(bundle / MANIFEST), **change})
    with pytest.raises(BundleError, match=says):
        Manifest.load(bundle)


def test_a_manifest_that_is_no_object_is_refused(bundle: Path) -> None:
    write_json(bundle / MANIFEST, ["no", "object"])
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.load(bundle)


def test_the_content_digest_is_the_contents_alone() -> None:
    files = {name: FileEntry(sha256=digest, bytes=1) for name, digest in (("a", "1"), ("b", "2"))}
    one = manifest(files=files)
    assert manifest("other", files=dict(reversed(files.items())), step_seconds={"fit": 9.0}).content_digest == one.content_digest
    for changed in ({"a": files["a"]}, {**files, "b": FileEntry(sha256="3", bytes=1)}, {"a": files["b"], "b": files["a"]}):
        assert manifest(files=changed).content_digest != one.content_digest


@pytest.mark.parametrize("bundle_id", ["", ".", "../x", "a/b", "-a", "a b", "é", "a" * 201, "a\n"])
def test_a_bundle_id_is_a_plain_file_name(bundle_id: str) -> None:
    with pytest.raises(ValidationError):
        manifest(bundle_id)


# --- aliases --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    for name in ("b1", "b2", "b3"):
        write_json(tmp_path / "bundles" / name / MANIFEST, {})
    (tmp_path / "bundles" / "half").mkdir()
    return Aliases(tmp_path)


def test_an_alias_moves_and_remembers(aliases: Aliases, tmp_path: Path) -> None:
    assert aliases.get("adi+dsfm") is None and aliases.champion() is None
    assert aliases.move("adi+dsfm", "b1") == Alias("adi+dsfm", "b1", None)
    assert aliases.move("adi+dsfm", "b2") == Alias("adi+dsfm", "b2", "b1")
    assert aliases.move("adi+dsfm", "b2") == Alias("adi+dsfm", "b2", "b1"), "moving to where it is keeps the way back"
    assert Aliases(tmp_path).get("adi+dsfm") == Alias("adi+dsfm", "b2", "b1")
    assert aliases.rollback("adi+dsfm") == Alias("adi+dsfm", "b1", "b2")
    assert aliases.rollback("adi+dsfm") == Alias("adi+dsfm", "b2", "b1")


def test_only_complete_bundles_of_this_home_are_aliased(aliases: Aliases) -> None:
    for wrong in ("half", "missing", "", ".", "../bundles/b1", "b1/", "b1/../b2"):
        with pytest.raises(BadInput, match="does not exist or is incomplete"):
            aliases.move("adi", wrong)
    assert aliases.bundle_ids() == ["b1", "b2", "b3"]
    assert aliases.get("adi") is None and aliases.recipes() == []


def test_nothing_to_roll_back_to_is_said(aliases: Aliases, tmp_path: Path) -> None:
    aliases.move("adi", "b1")
    for recipe in ("adi", "unknown"):
        with pytest.raises(BadInput, match="no previous bundle"):
            aliases.rollback(recipe)
    aliases.move("adi", "b2")
    (tmp_path / "bundles" / "b1" / MANIFEST).unlink()
    with pytest.raises(BadInput, match="incomplete"):
        aliases.rollback("adi")
    assert aliases.get("adi") == Alias("adi", "b2", "b1"), "a failed rollback changes nothing"


def test_the_first_recipe_is_champion_until_another_is_crowned(aliases: Aliases) -> None:
    aliases.move("adi+dsfm", "b1")
    aliases.move("popularity", "b2")
    assert aliases.champion() == "adi+dsfm"
    aliases.crown("popularity")
    assert aliases.champion() == "popularity"
    with pytest.raises(BadInput, match="'unknown' has no bundle"):
        aliases.crown("unknown")
    assert aliases.champion() == "popularity"


def test_recipe_names_round_trip(aliases: Aliases, tmp_path: Path) -> None:
    names = ["adi+dsfm", "dsfm:no_hidden_attn", "adi:lt+dsfm_dfei", "a.b", "../up", "a/b", "é", "%2F", "a b", "champion"]
    for name in names:
        aliases.move(name, "b1")
    assert aliases.recipes() == sorted(names)
    assert all(aliases.get(name) == Alias(name, "b1") for name in names)
    written = [path for path in tmp_path.rglob("*.json") if "bundles" not in path.parts]
    assert {path.parent.relative_to(tmp_path).as_posix() for path in written} == {"aliases", "aliases/recipes"}


def test_a_truncated_alias_is_named(aliases: Aliases, tmp_path: Path) -> None:
    aliases.move("adi", "b1")
    (tmp_path / "aliases" / "recipes" / "adi.json").write_bytes(b'{"recipe"')
    with pytest.raises(BundleError, match=r"adi\.json"):
        aliases.get("adi")


# --- errors ---------------------------------------------------------------------------------------------------------------


def test_exit_codes_and_the_one_line() -> None:
    assert [one("x").exit_code for one in (MdrecError, BadInput, WorkFailed, BundleError)] == [1, 2, 1, 1]
    assert issubclass(BundleError, WorkFailed) and not issubclass(BadInput, WorkFailed)
    assert str(BadInput("field 'x' is 3", "use 4")) == "field 'x' is 3 (use 4)" and str(BadInput("plain")) == "plain"
