"""source=textfiles, jsonl, parquet: documents -> tokens -> sequences of at most `max_tokens`.

A shard's documents are read, cut and joined independently of all other shards, so that shards can be written in any
order. A new tokenizer is trained once, from the same documents.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from configs.output.secrets import masked
from configs.output.stages import stage
from configs.schema_commands import BuildConfig
from configs.signals import BOS, EOS
from data_shards.shards.index_file import TOKENIZER_NAME, TokenizerEntry
from data_shards.sources.blocks import COMPRESSED, OTHER_ARCHIVES, bare_name, codec_of
from data_shards.sources.documents import (
    Document,
    Fields,
    Lines,
    Part,
    Rows,
    Whole,
    add_unread,
    check_columns,
)
from data_shards.sources.folders import SourceFile, Walk, extension, fitting_keys, keys_of, source_file
from data_shards.sources.tables.fields import PARQUET_ERRORS
from data_shards.sources.tables.footers import read_footer
from data_shards.sources.units import LeftOut, Split, Unit, Unusable, label_member, sorted_classes
from data_shards.text.tokenizer import FILES, Tokenizer, load_tokenizer, train_tokenizer
from data_shards.text.tokens import tokens_npy

TRAINING_BYTES = 2**28
"""Approximate limit of the text that trains a tokenizer, in bytes. Larger sources are sampled evenly."""
TRAIN_ANEW = "new"
"""Value of `tokenizer` that trains one where a second tokenizer would otherwise be a mistake."""

_HELD_OUT = ("val", "valid", "validation", "dev", "test", "eval", "probe", "heldout", "held_out")
"""Names of splits that come beside another one."""
_MIB = 2**20
_JSON = ("jsonl", "ndjson", "json")


@dataclass(frozen=True)
class Sequences:
    """Documents that become the sequences of one shard."""

    parts: tuple[Part, ...]
    tokenizer: Path
    """Folder of the tokenizer."""
    entry: TokenizerEntry
    """The tokenizer that the folder must hold."""
    max_tokens: int
    pack: Literal["documents", "full"] = "documents"
    classes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def facts(self) -> tuple:
        how = (self.entry.sha256, self.max_tokens, self.pack, self.classes)
        # Class names are part of the hash: renaming a kind of part makes every finished shard unfinished.
        return (*how, *((type(part).__name__, *part.facts()) for part in self.parts))

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, dict[str, bytes]]]:
        tokenizer = _load_expected(self.tokenizer, self.entry)
        documents = (document for part in self.parts for document in part.documents(left_out))
        encoded = ((document, tokenizer.encode(document.text)) for document in documents)
        match self.pack:
            case "documents":
                sequences = split_documents(encoded, self.max_tokens - 2)
            case "full":
                sequences = pack_documents(encoded, self.max_tokens - 2)
        for key, label, ids in sequences:
            label_number = None if label is None else self.classes.index(label)
            npy = tokens_npy([BOS, *ids, EOS], self.entry.vocab_size)
            yield key, {"npy": npy, **label_member(label_number)}


@lru_cache(maxsize=2)
def _load_expected(folder: Path, entry: TokenizerEntry) -> Tokenizer:
    """Load a tokenizer. Raises ValueError if it is not the one of `entry`."""
    tokenizer = load_tokenizer(folder)
    if tokenizer.entry != entry:
        raise ValueError(f"{folder} changed during the build; build again")
    return tokenizer


Encoded = Iterable[tuple[Document, Sequence[int]]]
Piece = tuple[str, str | None, Sequence[int]]
"""Key, class, ids without <s> and </s>."""


def split_documents(encoded: Encoded, longest: int) -> Iterator[Piece]:
    """Yield each document's sequences: as few as possible, of about equal length, so that no short rest is left."""
    for document, ids in encoded:
        pieces = -(-len(ids) // longest)
        for piece in range(pieces):
            key = document.key if pieces == 1 else f"{document.key}_{piece}"
            yield key, document.label, ids[len(ids) * piece // pieces : len(ids) * (piece + 1) // pieces]


def pack_documents(encoded: Encoded, longest: int) -> Iterator[Piece]:
    """Join all documents with </s> between them, and yield full sequences and a last shorter one."""
    key, line, pieces = "", array("I"), 0
    for document, ids in encoded:
        if line:
            line.append(EOS)
        else:
            key, pieces = document.key, 0
        line.extend(ids)
        begin = 0
        while len(line) - begin > longest:
            yield f"{key}_{pieces}", None, line[begin : begin + longest].tolist()
            begin, pieces = begin + longest, pieces + 1
        if begin:
            line = line[begin:]
    if line:
        yield f"{key}_{pieces}", None, line.tolist()


def _wanted_files(config: BuildConfig) -> tuple[Callable[[str], bool], str]:
    """(test for the names of files that hold documents, its description)."""
    compressed = f"compressed (.{' .'.join(COMPRESSED)}) or not"
    match config.source:
        case "textfiles":
            return lambda name: extension(bare_name(name)) == "txt", f"txt, {compressed}"
        case "jsonl":
            # wiki_00 and so on are written by WikiExtractor --json
            return (
                lambda name: extension(bare_name(name)) in _JSON or name[:5] == "wiki_",
                f"{' '.join(_JSON)}, {compressed}",
            )
        case _:
            return lambda name: extension(name) in ("parquet", "pq"), "parquet"


def source_files(root: Path, config: BuildConfig, left_out: LeftOut) -> list[SourceFile]:
    """The source files. Raises ValueError if there are none."""
    if root.is_file():
        if extension(root.name) in OTHER_ARCHIVES:
            raise ValueError(f"input={root} is in a form that is not read (.{' .'.join(COMPRESSED)} are); unpack it")
        return [source_file(root.parent, (root.name,))]
    if not root.is_dir():
        raise ValueError(f"input={root} is not there; give a folder or a file of documents")
    wanted, kinds = _wanted_files(config)
    if files := list(Walk(wanted, kinds, left_out).files(root)):
        return files
    raise ValueError("; ".join([f"input={root} holds no file for source={config.source} ({kinds})", *left_out.notes()]))


def _file_parts(file: SourceFile, key: str, config: BuildConfig) -> Iterator[Part]:
    """Yield a file's documents in parts of at most `shard_mb` MiB."""
    fields = Fields(config.text_field, config.label_field)
    if config.source == "parquet":
        yield from _row_groups(file, key, fields, config.shard_mb * _MIB)
    elif config.source == "textfiles" and config.documents == "files":
        yield Whole(key, file.path, file.size, file.modified)
    else:
        json = config.source == "jsonl"
        step = file.size if codec_of(file.path) else config.shard_mb * _MIB
        kind = "json" if json else config.documents
        assert kind != "files"
        for start in range(0, file.size, step):
            stop = min(start + step, file.size)
            yield Lines(key, file.path, start, stop, file.modified, kind, fields if json else None)


def _row_groups(file: SourceFile, key: str, fields: Fields, most: int) -> Iterator[Rows]:
    """Yield a file's row groups in parts of at most `most` bytes of text, or of one group."""
    check_columns(file.path, fields)
    footer = read_footer(file.path)
    groups: list[int] = []
    size = 0
    for group in range(footer.num_row_groups):
        columns = (footer.row_group(group).column(column) for column in range(footer.num_columns))
        more = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == fields.text)
        if groups and size + more > most:
            yield Rows(key, file.path, tuple(groups), size, file.modified, fields)
            groups, size = [], 0
        groups, size = [*groups, group], size + more
    if groups:
        yield Rows(key, file.path, tuple(groups), size, file.modified, fields)


def _group_parts(parts: Iterable[Part], most: int) -> list[tuple[Part, ...]]:
    """Consecutive parts in groups of at most `most` bytes, or of one part."""
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        if not groups or size + part.size > most:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.size
    return [tuple(group) for group in groups]


def _labels_of(parts: Iterable[Part]) -> list[str]:
    """All classes of the documents, sorted by value if all are whole numbers, else by the alphabet."""
    found = {document.label for part in parts for document in part.documents(LeftOut()) if document.label is not None}
    return sorted_classes(found)


def _training_texts(parts: Iterable[Part], total: int) -> Iterator[str]:
    """Yield every n-th text, with the least n that keeps about TRAINING_BYTES of `total` bytes."""
    every = -(-total // TRAINING_BYTES)
    texts = (document.text for part in parts for document in part.documents(LeftOut()))
    return (text for number, text in enumerate(texts) if number % every == 0)


def choose_tokenizer(config: BuildConfig, parts: list[Part]) -> tuple[Tokenizer, str]:
    """(tokenizer, its origin in words).

    It is the tokenizer that `config` names, else the output folder's, else one trained from the parts.
    """
    there = Path(config.output) / TOKENIZER_NAME
    if config.tokenizer not in ("", TRAIN_ANEW):
        path = Path(config.tokenizer)
        return load_tokenizer(path), f"from {path}"
    if all((there / name).is_file() for name in FILES):
        return load_tokenizer(there), f"from {there}"
    total = sum(part.size for part in parts)
    title = f"training a tokenizer of {config.vocab_size:,} types from {total / _MIB:,.1f} MiB of text"
    with stage(title):
        tokenizer = train_tokenizer(_training_texts(parts, total), config.vocab_size)
    return tokenizer, f"trained from {min(total, TRAINING_BYTES) / _MIB:,.1f} MiB of text"


def check_first_split(config: BuildConfig) -> None:
    """Raise ValueError if a second tokenizer would be trained by mistake: shards of two cannot be used in one run.

    It would if the name is that of a held-out split, or if a folder beside the output holds a tokenizer.
    """
    output = Path(config.output)
    if config.tokenizer or all((output / TOKENIZER_NAME / name).is_file() for name in FILES):
        return
    others = sorted(file.parent for file in output.absolute().parent.glob(f"*/{TOKENIZER_NAME}/{FILES[0]}"))
    others = [other for other in others if other.parent != output.absolute()]
    if others or config.name in _HELD_OUT:
        first = (
            f"name={config.name} is a second split" if not others else f"{others[0]} is the tokenizer of other shards"
        )
        use = others[0] if others else "FOLDER, that of the first split,"
        raise ValueError(f"{first}: add tokenizer={use} to use it, or tokenizer={TRAIN_ANEW} to train another one")


def text_split(
    config: BuildConfig, name: str, shards: list[tuple[Part, ...]], chosen: tuple[Tokenizer, str], classes: list[str]
) -> Split:
    """Split with a shard per group of parts. chosen: (tokenizer, its origin) as `choose_tokenizer` returns."""
    tokenizer, origin = chosen
    folder = Path(config.output) / TOKENIZER_NAME
    how = (folder, tokenizer.entry, config.max_tokens, config.pack, tuple(classes))
    units: list[Unit] = [Sequences(group, *how) for group in shards]
    notes = [f"tokenizer: {tokenizer.vocab_size:,} types, {origin}"]
    return Split(name, "text", units, classes, shard_units=1, tokenizer=tokenizer, notes=notes)


def text_source(root: Path, config: BuildConfig) -> Split:
    """Split of the documents of a folder or a file. Raises ValueError if there are none, or settings contradict."""
    if config.pack == "full" and config.label_field:
        raise ValueError(
            "pack=full joins documents, which have a class each; set pack=documents or leave out label_field"
        )
    check_first_split(config)
    left_out = LeftOut()
    files = source_files(root, config, left_out)
    parts: list[Part] = []
    keys = fitting_keys(keys_of(files), files, lambda file: f"/{file.size}_00000.npy", left_out)
    for key, file in zip(keys, files, strict=True):
        try:
            parts += _file_parts(file, key, config)
        except PARQUET_ERRORS as error:
            add_unread(left_out, file.path, error)
        except Unusable as error:
            error.add_to(left_out, file.path)
    return document_split(parts, config, left_out)


def document_split(parts: list[Part], config: BuildConfig, left_out: LeftOut) -> Split:
    """Split of documents. Raises ValueError if there are none, or settings contradict."""
    if not parts:
        raise ValueError("; ".join([f"input={masked(config.input)} holds no documents", *left_out.notes()]))
    classes = _labels_of(parts) if config.label_field else []
    chosen, shards = choose_tokenizer(config, parts), _group_parts(parts, config.shard_mb * _MIB)
    split = text_split(config, config.name, shards, chosen, classes)
    split.left_out = left_out
    return split
