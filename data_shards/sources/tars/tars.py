"""source=webdataset: tars of other tools, sharded again; what is broken is left out, labels and texts stay.

A tar that is larger than `shard_mb` becomes several shards, each with every n-th of its samples. One of unknown size,
as behind a URL, becomes one shard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.output.secrets import masked
from configs.schema_commands import BuildConfig
from configs.schema_modalities import Modality, is_command_or_url
from data_shards.processes import map_unordered
from data_shards.shards.tar import member_header
from data_shards.sources.documents import Document
from data_shards.sources.folders import shuffled
from data_shards.sources.images import Images
from data_shards.sources.media import Encoded, MediaKind, Members
from data_shards.sources.recordings import Recordings
from data_shards.sources.tables.tables import media_kind
from data_shards.sources.tables.values import Classes, class_name, text_in
from data_shards.sources.tars.fields import Field, Mapping, mapping
from data_shards.sources.tars.members import read_samples
from data_shards.sources.tars.urls import prefixes, tar_urls
from data_shards.sources.texts import document_split
from data_shards.sources.units import UNREADABLE, LeftOut, Split, Unit, Unusable, sorted_classes

_MIB = 2**20
_TRIED = 8
"""Tars at most of which the first sample is sought."""
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Tar:
    """A tar, and what is known of it before it is read."""

    url: str
    prefix: str
    """Beginning of its samples' keys."""
    size: int
    """0 if it is not known."""
    modified: int = 0

    @property
    def shown(self) -> str:
        """Its URL without credentials."""
        return masked(self.url)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, str, dict]]:
        """Yield (key, place, members) per sample. Keys that are there twice are numbered."""
        seen: dict[str, int] = {}
        for name, members in read_samples(self.url, left_out):
            number = seen[name] = seen.get(name, 0) + 1
            key = f"{self.prefix}/{name}" + (f"_{number}" if number > 1 else "")
            place = f"{self.shown}, key {name}"
            if number > 1:
                left_out.add_kept("a key that is there twice; numbered", place)
            yield key, place, members


@dataclass(frozen=True)
class Samples:
    """Every n-th sample of a tar: images or recordings."""

    tar: Tar
    part: int
    parts: int
    size: int
    fields: Mapping
    kind: MediaKind
    classes: Classes | None
    """None: classes are numbers, which are kept."""
    labelled: bool
    """The user has named the member with the class."""

    def facts(self) -> tuple:
        how = self.kind.facts("", self.tar.size, self.tar.modified, None, None)
        return (self.tar.url, self.tar.prefix, self.part, self.parts, self.fields, self.classes, *how)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        of_tar = LeftOut()
        for number, (key, place, members) in enumerate(self.tar.samples(of_tar)):
            if number % self.parts != self.part:
                continue
            try:
                encoded = self._encoded(key, place, members, left_out)
            except Unusable as error:
                error.add_to(left_out, place)
            else:
                yield from self.kind.samples(encoded, left_out)
        # The first part tells of the tar; the others only what makes them unfinished.
        told = {why: names for why, names in of_tar.reasons.items() if not self.part or why.startswith(UNREADABLE)}
        left_out.merge(LeftOut(told))

    def _encoded(self, key: str, place: str, members: dict, left_out: LeftOut) -> Encoded:
        """The image or recording of a sample. Raises Unusable."""
        _check_key(key)
        name, data = _data(members, self.fields.data, self.kind)
        text = None if (found := self.fields.text.find(members)) is None else text_in(found[1], found[0])
        label = self._label(members)
        if label is None and self.labelled:
            left_out.add_kept(f"no class in {self.fields.label}", place)
        return Encoded(key, place, name.rpartition(".")[2].lower(), data, label, text)

    def _label(self, members: dict) -> int | None:
        """Number of the class; None without. Raises Unusable."""
        if (value := label_value(members, self.fields.label)) is None:
            return None
        if self.classes is not None:
            return self.classes.number(value, str(self.fields.label))
        if not _NUMBER.fullmatch(value):
            raise Unusable("a class that is no number, as that of the first sample is", value[:40])
        return int(value) if int(value) >= 0 else None


def _check_key(key: str) -> None:
    """Raise Unusable if the longest name of a member does not fit a tar header."""
    try:
        member_header(f"{key}/piece0000.flac", 0)
    except ValueError:
        raise Unusable("a name that is too long for a tar header") from None


def _data(members: dict, field: Field, kind: MediaKind) -> tuple[str, bytes]:
    """(extension, bytes) of the image or recording. Raises Unusable.

    Without a member of exactly these extensions, it is the only one whose last extension is one of them.
    """
    found = field.find(members)
    if found is None:
        last = [name for name in members if name.removesuffix(".gz").rpartition(".")[2] in kind.extensions]
        found = Field((last[0].removesuffix(".gz"),)).find(members) if len(last) == 1 else None
    if found is None or not isinstance(found[1], bytes):
        there = ", ".join(f".{name}" for name in sorted(members))
        raise Unusable(f"no {kind.noun} among its members; data_field=EXTENSION names it", there)
    return found[0], found[1]


def label_value(members: dict, field: Field) -> str | None:
    """The class of a sample as text; None without. Raises Unusable."""
    if (found := field.find(members)) is None:
        return None
    name, value = found
    text = text_in(value, name) if isinstance(value, bytes) else class_name(value)
    return text or None


@dataclass(frozen=True)
class Texts:
    """The documents of a tar."""

    tar: Tar
    size: int
    text: Field
    label: Field | None

    def facts(self) -> tuple:
        return (self.tar, self.text, self.label)

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        for key, place, members in self.tar.samples(left_out):
            try:
                yield self._document(key, members)
            except Unusable as error:
                error.add_to(left_out, place)

    def _document(self, key: str, members: dict) -> Document:
        """The document of a sample. Raises Unusable."""
        _check_key(key)
        if (found := self.text.find(members)) is None:
            raise Unusable(f"no text in {self.text}", ", ".join(f".{name}" for name in sorted(members)))
        if not (text := text_in(found[1], found[0])):
            raise Unusable("empty")
        label = label_value(members, self.label) if self.label else None
        if self.label and label is None:
            raise Unusable(f"no class in {self.label}")
        return Document(key, text, label)


def _tars(config: BuildConfig) -> list[Tar]:
    """The tars that `input` names. Raises ValueError if there are none."""
    urls, found = tar_urls(config.input), []
    for url, prefix in zip(urls, prefixes(urls), strict=True):
        if is_command_or_url(url):
            found.append(Tar(url, prefix, 0))
        else:
            stat = Path(url).stat()
            found.append(Tar(url, prefix, stat.st_size, stat.st_mtime_ns))
    return found


def _first_sample(tars: list[Tar]) -> dict:
    """Members of the first sample. Raises ValueError if the first tars have none."""
    left_out = LeftOut()
    for tar in tars[:_TRIED]:
        for _, _, members in tar.samples(left_out):
            return members
    why = left_out.notes() or ["the first tars are empty"]
    raise ValueError("; ".join([f"input={tars[0].shown} and the tars after it hold no sample", *why]))


def _modality(config: BuildConfig, first: dict) -> Modality:
    """Modality of the tars by the first sample. Raises ValueError if its members do not tell it."""
    if config.modality:
        return config.modality
    kinds: tuple[MediaKind, ...] = (Images(), Recordings())
    last = {name.removesuffix(".gz").rpartition(".")[2] for name in (*first, *config.data_field.lower().split(";"))}
    found: list[Modality] = [kind.modality for kind in kinds if last.intersection(kind.extensions)]
    if len(found) == 1:
        return found[0]
    if not found and last.intersection(("txt", "text")):
        return "text"
    there = ", ".join(f".{name}" for name in sorted(first))
    raise ValueError(f"input={masked(config.input)}: a first sample of {there} does not tell what the samples are; set "
                     f"modality=vision, speech or text")  # fmt: skip


def _labels_of(job: tuple[Tar, Field]) -> set[str]:
    """Classes of a tar's samples."""
    tar, field = job
    found = set[str]()
    for _, _, members in tar.samples(LeftOut()):
        try:
            found.add(label_value(members, field) or "")
        except Unusable:
            continue
    return found - {""}


def _class_names(tars: list[Tar], field: Field, workers: int | None) -> Classes:
    """Classes of all samples. The tars are read for it, because classes have to be numbered first."""
    print(f"reading {len(tars)} tars for the names of their classes", flush=True)
    found = set[str]().union(*map_unordered(_labels_of, [(tar, field) for tar in tars], workers))
    return Classes(tuple(sorted_classes(found)))


def tar_source(config: BuildConfig) -> Split:
    """Split of the samples of tars. Raises ValueError if there are none, or if they do not tell what they are."""
    tars = _tars(config)
    first, most = _first_sample(tars), config.shard_mb * _MIB
    modality = _modality(config, first)
    if modality == "text":
        fields = mapping(config, ())
        text = fields.text if fields.text.find(first) else Field((*fields.text.names, "json.text"))
        label = fields.label if config.label_field else None
        return document_split([Texts(tar, tar.size or most, text, label) for tar in tars], config, LeftOut())
    kind = media_kind(modality, config)
    fields = mapping(config, kind.extensions)
    try:
        value = label_value(first, fields.label)
    except Unusable as error:
        raise ValueError(f"input={tars[0].shown}: the class in {fields.label} of the first sample: {error}") from None
    numbers = value is None or _NUMBER.fullmatch(value) is not None
    classes = None if numbers else _class_names(tars, fields.label, config.workers)
    units: list[Unit] = []
    for tar in tars:
        parts = max(1, -(-tar.size // most))
        size = (tar.size or most) // parts
        units += [
            Samples(tar, part, parts, size, fields, kind, classes, bool(config.label_field)) for part in range(parts)
        ]
    names = [] if classes is None else list(classes.names)
    return Split(config.name, modality, shuffled(units), names, numbered=value is not None)
