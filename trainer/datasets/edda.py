"""Ali-CCP and Ali display-ad clicks as split by EDDA (Ning et al., CIKM 2023): pairs only; domain = the number in the name."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from trainer.datasets.canonical import natural_order
from trainer.datasets.files import find
from trainer.datasets.spec import DatasetSpec
from trainer.datasets.writer import writing

_PARTS = {"train": "train", "val": "valid", "test": "test"}  # their name -> ours


def import_edda_aliccp(from_dir: Path, to_dir: Path) -> list[str]:
    """d0_train.csv(.gz), d0_val.csv(.gz), d0_test.csv(.gz), d1_..., d2_...: lines of `user,item,1` without a header."""
    return _import("edda-aliccp", from_dir, to_dir)


def import_edda_aliad(from_dir: Path, to_dir: Path) -> list[str]:
    """d2_train.csv(.gz), d2_val.csv(.gz), d2_test.csv(.gz) ... d9_...: lines of `user,item,1` without a header."""
    return _import("edda-aliad", from_dir, to_dir)


def _import(name: str, from_dir: Path, to_dir: Path) -> list[str]:
    spec = DatasetSpec(name=name, domain="domain", user_id="user_id", ad_id="item_id", positives_only=True)
    files: dict[str, Path] = {}
    for path in find(from_dir, "d*_*"):
        if match := re.match(r"d\d+_(train|val|test)(?=\.)", path.name):
            if match[0] in files:
                raise BadInput(f"both {files[match[0]]} and {path} are there", "name the folder of one data set")
            files[match[0]] = path
    if not any(one.endswith("_train") for one in files):
        raise BadInput(f"{from_dir} holds no d0_train.csv(.gz) or the like", "expected dN_train, dN_val and dN_test")
    notes = []
    with writing(to_dir, spec) as writer:
        for theirs, ours in _PARTS.items():
            stems = natural_order([one for one in files if one.endswith(f"_{theirs}")])
            if stems:
                pairs = pl.concat([_pairs(files[one], one.partition("_")[0]) for one in stems])
                writer.add(f"events/{ours}.parquet", pairs)
                notes.append(f"{ours}: {len(pairs):,} clicks in {', '.join(one.partition('_')[0] for one in stems)}")
    return notes


def _pairs(path: Path, domain: str) -> pl.DataFrame:
    pairs = pl.read_csv(path, has_header=False, infer_schema=False, new_columns=["user_id", "item_id", "click"])
    return pairs.filter(pl.col("click") == "1").select("user_id", "item_id", pl.lit(domain).alias("domain"))
