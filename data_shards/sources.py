"""Where samples come from: which files become which samples, and their bytes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.schema import BuildConfig
from data_shards import demo
from data_shards.tar import member_header
from data_shards.writer import IMAGE_EXTENSIONS

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A sample to be written: `size` bytes of file `path` (or of row `row` of a demo file), class `label`."""

    key: str
    path: str
    size: int
    label: int | None = None
    row: int | None = None
    modified: int = 0
    """Time of the file's last change, in ns: a changed file is written again."""

    def members(self) -> dict[str, bytes]:
        """The sample's members; ValueError where the file changed since it was listed."""
        labels = {} if self.label is None else {"cls": str(self.label).encode()}
        if self.row is not None:
            return {"png": demo.png(self.path, self.row), **labels}
        data = Path(self.path).read_bytes()
        if len(data) != self.size:
            raise ValueError(f"{self.path} changed from {self.size} to {len(data)} bytes during the build; build again")
        return {_extension(self.path): data, **labels}


@dataclass
class Split:
    """What becomes the shards NAME-000000.tar and so on: its samples in the order in which they are written."""

    name: str
    items: list[Item]
    classes: list[str]
    shard_samples: int = 10**9
    """Most samples of a shard."""
    notes: list[str] = field(default_factory=list)
    """What was left out, with names."""


def _extension(name: str) -> str:
    return Path(name).suffix.lower().lstrip(".")


@dataclass(frozen=True)
class _File:
    """A file below the source folder: its name parts, and what `stat` says."""

    parts: tuple[str, ...]
    size: int
    modified: int


class _Skipped:
    """Files left out, by reason."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] += 1
        self.names.setdefault(reason, [])
        if len(self.names[reason]) < _NAMES_SHOWN:
            self.names[reason].append(name)

    def notes(self) -> list[str]:
        """A line per reason."""
        lines = []
        for reason, count in sorted(self.counts.items()):
            more = ", ..." if count > _NAMES_SHOWN else ""
            lines.append(f"left out {count} ({reason}): {', '.join(self.names[reason])}{more}")
        return lines


def _walk(folder: Path, parts: tuple[str, ...], above: frozenset[str], skipped: _Skipped) -> Iterator[_File]:
    """Images below `folder`, links followed (but not in circles), hidden names left out."""
    real = os.path.realpath(folder)
    if real in above:
        skipped.add("link to a folder above it", "/".join(parts))
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = "/".join((*parts, entry.name))
        if entry.name.startswith("."):
            skipped.add("hidden", name)
        elif entry.is_dir():
            yield from _walk(folder / entry.name, (*parts, entry.name), above | {real}, skipped)
        elif _extension(entry.name) not in IMAGE_EXTENSIONS:
            skipped.add(f"not {' '.join(IMAGE_EXTENSIONS)}", name)
        elif not entry.is_file():
            skipped.add("broken link or no plain file", name)
        elif not (stat := entry.stat()).st_size:
            skipped.add("0 bytes", name)
        else:
            yield _File((*parts, entry.name), stat.st_size, stat.st_mtime_ns)


def _keys(files: list[_File]) -> list[str]:
    """A dot-free key for every file: its path without the extension, dots as `_`; numbered where two would be equal."""
    wanted = ["/".join((*file.parts[:-1], Path(file.parts[-1]).stem)).replace(".", "_") for file in files]
    taken = set(wanted)
    seen: set[str] = set()
    keys = []
    for key in wanted:
        number, free = 1, key
        while free in seen or (number > 1 and free in taken):
            number += 1
            free = f"{key}_{number}"
        seen.add(free)
        keys.append(free)
    return keys


def _check_names(items: list[Item]) -> None:
    """ValueError where a name does not fit a tar header."""
    for item in items:
        if len(name := f"{item.key}.{_extension(item.path)}") > 50:  # never too long below that, whatever the encoding
            try:
                member_header(name, item.size)
            except ValueError as error:
                raise ValueError(f"{item.path}: {error} for a tar header; shorten it or its folders") from None


def _class_names(root: Path, files: list[_File]) -> list[str]:
    """Names of the class folders, sorted; none for a flat folder. ValueError where both kinds are mixed."""
    flat = [file.parts[0] for file in files if len(file.parts) == 1]
    if len(flat) == len(files):
        return []
    if flat:
        raise ValueError(
            f"input={root} has {len(flat)} images beside class folders, the first: {flat[0]}; "
            f"move them into a class folder, or build the folders one by one"
        )
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _mixed(items: list[Item]) -> list[Item]:
    """A fixed permutation, so that neither a shard nor a run within one is of a single class."""
    order = np.argsort(np.random.Philox(key=[0, 0]).random_raw(len(items)), kind="stable")
    return [items[i] for i in order]


def image_folder(root: Path, name: str) -> Split:
    """ROOT/class/.../image.jpg, the class being the first folder's index; or ROOT/image.jpg without labels.

    Raises ValueError where there is no such folder, no image in it, or where images lie beside class folders.
    """
    if not root.is_dir():
        raise ValueError(f"input={root} is not a folder; give the folder that holds the images or the class folders")
    skipped = _Skipped()
    files = list(_walk(root, (), frozenset(), skipped))
    if not files:
        notes = "; ".join(["", *skipped.notes()])
        raise ValueError(f"input={root} holds no image ({' '.join(IMAGE_EXTENSIONS)}){notes}")
    classes = _class_names(root, files)
    for empty in sorted(set(classes) - {file.parts[0] for file in files}):
        skipped.add("class folders without an image; they keep their number", empty)
    number = {class_name: i for i, class_name in enumerate(classes)}
    items = [
        Item(key, str(root.joinpath(*file.parts)), file.size, number.get(file.parts[0]), None, file.modified)
        for key, file in zip(_keys(files), files, strict=True)
    ]
    _check_names(items)
    return Split(name, _mixed(items), classes, notes=skipped.notes())


def demo_images(folder: str) -> list[Split]:
    """The demo's training and test images, from `folder` or wherever `demo.find` gets them."""
    images = demo.find(folder)
    splits = []
    for name, path, labels in images.splits:
        items = [
            Item(f"{name}_{row:05d}", str(path), demo.PNG_BYTES, int(label), row) for row, label in enumerate(labels)
        ]
        splits.append(Split(name, items, list(images.classes), demo.SHARD_SAMPLES, [images.origin]))
    return splits


def open_source(config: BuildConfig) -> list[Split]:
    """The splits of the source that `config` names."""
    match config.source:
        case "imagefolder":
            if not config.input:
                raise ValueError("input is empty; give the folder of the images: input=DIR")
            return [image_folder(Path(config.input).expanduser(), config.name)]
        case "demo":
            return demo_images(config.input)
