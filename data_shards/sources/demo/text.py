"""The demo's texts: the 117,659 glosses of WordNet 3.0, definitions with example sentences, 12 words each.

A noun's class is its lexicographer file, one of 26 supersenses: animal, artifact, feeling ... Equal glosses are in one
split.

    train   glosses of nouns, verbs, adjectives and adverbs, without classes
    probe   some of its nouns, with classes
    test    other nouns, with classes
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema_commands import BuildConfig
from data_shards.sources.demo.packages import Package, debian_places, find_data
from data_shards.sources.documents import Document, Part
from data_shards.sources.folders import shuffled
from data_shards.sources.texts import choose_tokenizer, text_split
from data_shards.sources.units import LeftOut, Split

VOCAB_SIZE = 8000
"""Token types of the tokenizer: few, for a small model."""
PROBE, TEST = 20_000, 5_000
"""Most samples of the splits `probe` and `test`."""
SUPERSENSES = (
    "Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food",
    "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity",
    "relation", "shape", "state", "substance", "time",
)  # fmt: skip
"""Lexicographer files 3 to 28 (lexnames(5WN))."""

_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_TEST_SHARE = 0.1
_SHARD_DOCUMENTS = 20_000  # documents of a shard
_PACKAGE = Package(
    "wordnet-base",
    "w/wordnet/wordnet-base_3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)


@dataclass(frozen=True)
class Listed:
    """Documents that are in memory already."""

    listed: tuple[Document, ...]

    @property
    def size(self) -> int:
        return sum(len(document.text) for document in self.listed)

    def facts(self) -> tuple:
        return self.listed

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        yield from self.listed


def _move_files(unpacked: Path, target: Path) -> None:
    for name in _FILES:
        shutil.move(unpacked / "usr/share/wordnet" / name, target / name)


def _glosses(path: Path) -> Iterator[Document]:
    """Yield the glosses of a file, from lines `offset lexicographer_file type ... | gloss` (wndb(5WN)).

    Indented lines are the licence.
    """
    for line in path.read_text("ascii").splitlines():
        if not line.startswith(" "):
            offset, lexicographer, kind, _ = line.split(" ", 3)
            label = SUPERSENSES[int(lexicographer) - 3] if kind == "n" else None
            yield Document(f"{kind}{offset}", line.partition("| ")[2].strip(), label)


def _read_glosses(folder: Path, place: str) -> tuple[list[Document], str] | None:
    """(glosses in `folder`, their description); None if it does not hold them."""
    if not all((folder / name).is_file() for name in _FILES):
        return None
    glosses = [document for name in _FILES for document in _glosses(folder / name) if document.text]
    return glosses, f"demo text: WordNet's {len(glosses):,} glosses, from {place}"


def _is_test(document: Document) -> bool:
    return hashlib.blake2b(document.text.encode(), digest_size=1).digest()[0] < 256 * _TEST_SHARE


def _shards(name: str, documents: list[Document]) -> list[tuple[Part, ...]]:
    """Documents in a group per shard, their keys below `name`."""
    named = [replace(document, key=f"{name}/{document.key}") for document in documents]
    return [
        (Listed(tuple(named[start : start + _SHARD_DOCUMENTS])),) for start in range(0, len(named), _SHARD_DOCUMENTS)
    ]


def demo_text(config: BuildConfig) -> list[Split]:
    """The demo's three splits, from `config.input` or the first place that has them. `train` trains the tokenizer."""
    places = debian_places("wordnet", [_PACKAGE], _move_files)
    documents, origin = find_data(config.input, f"WordNet's files ({' '.join(_FILES)})", places, _read_glosses)
    documents = shuffled(documents)
    train = [document for document in documents if not _is_test(document)]
    nouns = [document for document in train if document.label][:PROBE]
    test = [document for document in documents if document.label and _is_test(document)][:TEST]
    unlabelled = _shards("train", [replace(document, label=None) for document in train])
    small = replace(config, vocab_size=min(config.vocab_size, VOCAB_SIZE))
    chosen = choose_tokenizer(small, [part for parts in unlabelled for part in parts])
    shards = {"train": unlabelled, "probe": _shards("probe", nouns), "test": _shards("test", test)}
    splits = [text_split(config, name, some, chosen, list(SUPERSENSES)) for name, some in shards.items()]
    for split in splits:
        split.notes.insert(0, origin)
    return splits
