"""Shards from scripts: `with ShardWriter(output) as writer: writer.write(key, image=..., cls=..., txt=...)`.

A record per shard, as `build` has them, holds the keys that it was given. The same script goes on where it was killed:
what is in a finished shard is not written again.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import TracebackType

from configs.schema_commands import BuildConfig
from data_shards.files import atomic_write, locked, partial_of, replace_text
from data_shards.making.earlier import (
    check_name,
    existing_shards,
    read_keys,
    record_folder,
    record_path,
    remove_shard,
    write_keys,
)
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex, ShardEntry, read_folder_index
from data_shards.shards.sidecar import sidecar
from data_shards.shards.tar import BLOCK, SKIPPED, member_header
from data_shards.sources.folders import extension
from data_shards.sources.images import Images
from data_shards.sources.media import Encoded, MediaKind, Members
from data_shards.sources.recordings import Recordings
from data_shards.sources.units import LeftOut

_LEAST_SECONDS = BuildConfig.__dataclass_fields__["min_seconds"].default


@dataclass(frozen=True)
class _Finished:
    """A shard on the disk."""

    entry: ShardEntry
    keys: list[str]
    """All keys that were given for it, those that were left out included."""
    left_out: LeftOut


class ShardWriter:
    """Writer of shards OUTPUT/NAME-000000.tar ..., a context manager.

    Leaving the `with` block writes the last shard and index.json; an error in it leaves the finished shards for the
    next time. One shard's samples are kept in memory until it is written.
    """

    def __init__(
        self,
        output: str | Path,
        name: str = "train",
        *,
        classes: Sequence[str] = (),
        shard_mb: int = 256,
        decode: bool = True,
        min_seconds: float = _LEAST_SECONDS,
        segment_seconds: float | None = None,
        overwrite: bool = False,
    ) -> None:
        """classes: names in the order of their numbers; () if there are none, or no labels.

        The others are as the keys of `shards build`, but overwrite: it removes the shards of this name at the start.
        Raises ValueError for a name or a size that cannot be.
        """
        check_name(name)
        if shard_mb < 1:
            raise ValueError(f"shard_mb={shard_mb} is below 1")
        self.output, self.name, self.classes = Path(output).expanduser(), name, tuple(classes)
        self.left_out = LeftOut()
        """Samples that were left out, by reason."""
        self._shard_bytes, self._overwrite = shard_mb * 2**20, overwrite
        self._images, self._recordings = Images(decode), Recordings(min_seconds, segment_seconds)
        self._settings: dict[str, object] = {
            "source": "ShardWriter", "classes": list(classes), "shard_mb": shard_mb, "decode": decode,
            "min_seconds": min_seconds, "segment_seconds": segment_seconds,
        }  # fmt: skip
        self._finished: dict[Path, _Finished] = {}
        self._done, self._given = set[str](), set[str]()  # keys of finished shards; keys of this run
        self._kind: MediaKind | None = None
        self._begin_shard()
        self._stack = ExitStack()
        self._open = False

    def __enter__(self) -> ShardWriter:
        """Find the finished shards. Raises ValueError if others have shards of this name there, or are writing them."""
        folder = record_folder(self.output, self.name)
        with self._stack:
            self._stack.enter_context(_alone(folder))
            with locked(self.output):
                self._find_earlier()
            write_keys(self._settings, self.output, self.name)
            self._stack = self._stack.pop_all()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        with self._stack:
            if kind is None:
                self._finish()

    def __contains__(self, key: str) -> bool:
        """True if a key was given before, in this run of the script or for a shard that is finished."""
        return key in self._done or key in self._given

    @property
    def samples(self) -> int:
        """Samples of the finished shards and of the one that is not written yet."""
        return len(self._samples) + sum(shard.entry.nsamples for shard in self._finished.values())

    def write(
        self,
        key: str,
        *,
        image: bytes | str | Path | None = None,
        audio: bytes | str | Path | None = None,
        cls: int | str | None = None,
        txt: str | None = None,
    ) -> bool:
        """Add a sample: an encoded image or recording, or the path of one; its class; its caption or transcript.

        Returns False, and adds it to `left_out`, if the image or recording cannot be used. Returns True and does
        nothing if a finished shard has the key: it is not compared. Raises ValueError for mistakes: a key that names no
        member of a tar or was given before, an unknown class, no image or recording, or both.
        """
        assert self._open, "use ShardWriter in a with block"
        kind, content = self._content(image, audio)
        _check_key(key)
        if key in self._given:
            raise ValueError(f"key {key!r} was given before; give every sample a key of its own")
        label = self._number(cls)
        self._given.add(key)
        if key in self._done:
            return True
        name, data = ("", content) if isinstance(content, bytes) else (str(content), Path(content).read_bytes())
        return self._add(kind, Encoded(key, f"key {key}", extension(name), data, label, txt))

    def _content(
        self, image: bytes | str | Path | None, audio: bytes | str | Path | None
    ) -> tuple[MediaKind, bytes | str | Path]:
        """(kind, content) of a sample. Raises ValueError unless it has one, of the kind of the samples before it."""
        if (image is None) == (audio is None):
            raise ValueError("give each sample image=... or audio=..., and not both")
        kind: MediaKind = self._recordings if image is None else self._images
        if self._kind not in (None, kind):
            raise ValueError(f"a {kind.noun} among {self._kind.noun}s; write them to shards of another output or name")
        self._kind = kind
        content = audio if image is None else image
        if not isinstance(content, bytes | str | Path):
            raise ValueError(f"a {kind.noun} is encoded bytes or the path of a file, not {type(content).__name__}")
        return kind, content

    def _number(self, cls: int | str | None) -> int | None:
        """Number of a class. Raises ValueError if it is unknown."""
        if cls is None or (isinstance(cls, int) and cls >= 0 and (not self.classes or cls < len(self.classes))):
            return cls
        if isinstance(cls, str) and cls in self.classes:
            return self.classes.index(cls)
        known = f"one of the {len(self.classes)} classes" if self.classes else "a number; for names give classes=[...]"
        raise ValueError(f"cls={cls!r} is not {known}")

    def _add(self, kind: MediaKind, encoded: Encoded) -> bool:
        """Add what becomes of a sample; writes the shard before it if that is full."""
        samples = [*kind.samples(encoded, self._left_out)]
        size = sum(2 * BLOCK + len(data) for _, members in samples for data in members.values())
        if self._samples and self._size + size > self._shard_bytes:
            self._write_shard()
        self._samples += samples
        self._shard_keys.append(encoded.key)
        self._size += size
        return bool(samples)

    def _begin_shard(self) -> None:
        self._samples: list[tuple[str, Members]] = []
        self._shard_keys: list[str] = []
        self._left_out = LeftOut()
        self._size = 0

    def _write_shard(self) -> None:
        """Write the samples in memory to the first free number.

        Its record says first that it is ours, and last that it is finished.
        """
        path = next(path for path in self._paths() if path not in self._finished)
        replace_text(record_path(path), json.dumps({"begun": path.name}))
        entry = write_shard(path, self._samples)
        self._finished[path] = _Finished(entry, self._shard_keys, self._left_out)
        record = {"entry": asdict(entry), "left_out": self._left_out.reasons, "keys": self._shard_keys}
        replace_text(record_path(path), json.dumps(record))
        self._done.update(self._shard_keys)
        self.left_out.merge(self._left_out)
        self._begin_shard()

    def _paths(self) -> Iterator[Path]:
        return (self.output / f"{self.name}-{number:06d}.tar" for number in count())

    def _find_earlier(self) -> None:
        """Find the finished shards, and remove what a killed script left. Raises ValueError as `__enter__`."""
        there, before = existing_shards(self.output, self.name), read_keys(self.output, self.name)
        other = [key for key in self._settings if before.get(key) != self._settings[key]]
        if there and other and not self._overwrite:
            then, now = (", ".join(f"{key}={d.get(key)!r}" for key in other) for d in (before, self._settings))
            raise ValueError(
                f"{min(there)} was written with {then}, not {now}; choose another output or name, or begin anew with "
                f"overwrite=True"
            )
        for path in there:
            finished = None if self._overwrite else _read_finished(path)
            if finished:
                self._finished[path] = finished
                self._done.update(finished.keys)
                self.left_out.merge(finished.left_out)
        self._check_others(there)
        self._retract(there - self._finished.keys())

    def _check_others(self, there: set[Path]) -> None:
        """Raise ValueError if the folder has other shards with other classes, or with token ids."""
        index = read_folder_index(self.output)
        others = [entry for entry in index.shards if self.output / entry.url not in there]
        if others and (index.classes != self.classes or index.tokenizer):
            what = "token ids" if index.tokenizer else "other classes"
            raise ValueError(f"{self.output} holds shards with {what}, as {others[0].url}; choose another output")

    def _retract(self, unfinished: set[Path]) -> None:
        """Remove shards, from index.json first."""
        index = read_folder_index(self.output)
        kept = tuple(entry for entry in index.shards if self.output / entry.url not in unfinished)
        if len(kept) < len(index.shards):
            save_folder_index(self.output, FolderIndex(kept, index.classes, index.tokenizer))
        for path in unfinished:
            for file in (path, sidecar(path)):
                partial_of(file).unlink(missing_ok=True)
            remove_shard(path)

    def _finish(self) -> None:
        """Write the last shard, left_out.tsv and index.json. Raises ValueError if there is no sample at all."""
        if self._samples:
            self._write_shard()
        self.left_out.merge(self._left_out)
        with atomic_write(record_folder(self.output, self.name) / "left_out.tsv") as file:
            file.write(self.left_out.to_tsv())
        if not self._finished:
            notes = self.left_out.notes()
            raise ValueError("; ".join([f"{self.output}, {self.name}: no sample was written", *notes]))
        ours = {shard.entry.url: shard.entry for shard in self._finished.values()}
        with locked(self.output):
            others = [entry for entry in read_folder_index(self.output).shards if entry.url not in ours]
            entries = (*others, *(ours[url] for url in sorted(ours)))
            save_folder_index(self.output, FolderIndex(entries, self.classes))


def _read_finished(path: Path) -> _Finished | None:
    """The shard according to its record; None if it is not finished."""
    try:
        record = json.loads(record_path(path).read_text("utf-8"))
        finished = _Finished(ShardEntry(**record["entry"]), list(record["keys"]), LeftOut(record["left_out"]))
        complete = path.stat().st_size == finished.entry.filesize and sidecar(path).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return finished if complete else None


def _check_key(key: str) -> None:
    """Raise ValueError if readers would see another key, or if it does not fit a tar header."""
    base = key.rpartition("/")[2]
    if not base or "." in base or key.startswith("/") or SKIPPED.match(key):
        raise ValueError(
            f"key {key!r}: a key is a path without dots in its last part, / or __FOLDER__/ at its beginning"
        )
    member_header(f"{key}/piece0000.flac", 0)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the name of the shards. Raises ValueError if another writer has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by another ShardWriter; give each a name=... of its own") from None
        yield
