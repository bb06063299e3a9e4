"""Writing a canonical dataset: everything into a hidden directory beside the target, renamed when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from contracts.files import replace_dir, write_json
from trainer.datasets.spec import SPEC_FILE, DatasetSpec, write_spec

Frame = pl.DataFrame | pl.LazyFrame
_STREAMED_ROWS = 100_000  # rows a row group: a scan of one group stays in tens of megabytes


class DatasetWriter:
    """Adds tables to a dataset under way. Lazy frames are streamed to disk, never held whole."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory

    def add(self, name: str, frame: Frame) -> Path:
        """Write one table. name: path inside the dataset, such as "events/train.parquet"."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.lazy().sink_parquet(path, row_group_size=_STREAMED_ROWS, maintain_order=True)
        return path

    def add_json(self, name: str, value: object) -> None:
        write_json(self.dir / name, value)

    def scratch(self) -> Path:
        """A directory for intermediate files; it is gone when the dataset is published."""
        path = self.dir / ".scratch"
        path.mkdir(exist_ok=True)
        return path


@contextmanager
def writing(directory: Path, spec: DatasetSpec) -> Iterator[DatasetWriter]:
    """Yields a writer; on success the dataset appears whole under `directory`, on failure nothing changes."""
    refuse_foreign(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        writer = DatasetWriter(temporary)
        yield writer
        write_spec(temporary / SPEC_FILE, spec)
        shutil.rmtree(temporary / ".scratch", ignore_errors=True)
        replace_dir(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_dataset(
    directory: Path,
    spec: DatasetSpec,
    *,
    events: Mapping[str, Frame] | Iterable[tuple[str, Frame]],
    users: Frame | None = None,
    ads: Frame | None = None,
    user_domains: Frame | None = None,
    ad_domains: Frame | None = None,
    candidates: Mapping[str, Frame] | None = None,
    truth: Mapping[str, Frame] | None = None,
) -> None:
    """events: stem -> frame ("train" writes events/train.parquet), or an iterable of such pairs, written one by one.
    candidates and truth: stem -> frame."""
    with writing(directory, spec) as writer:
        for stem, frame in events.items() if isinstance(events, Mapping) else events:
            writer.add(f"events/{stem}.parquet", frame)
        tables = {"users": users, "ads": ads, "user_domains": user_domains, "ad_domains": ad_domains}
        for name, table in tables.items():
            if table is not None:
                writer.add(f"{name}.parquet", table)
        for folder, frames in (("candidates", candidates or {}), ("truth", truth or {})):
            for stem, frame in frames.items():
                writer.add(f"{folder}/{stem}.parquet", frame)


def refuse_foreign(directory: Path) -> None:
    """Only an empty place or an older dataset is ever replaced."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise BadInput(f"{directory} is a file", "name a directory that does not exist yet")
    if any(directory.iterdir()) and not (directory / SPEC_FILE).is_file():
        raise BadInput(f"{directory} holds files that are no dataset (no {SPEC_FILE})", "name an empty or new directory")
