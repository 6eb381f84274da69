"""The tokenizer that lies beside shards, local or in a store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from configs.modality_config import ModalityConfig
from configs.schema_training import DataConfig
from data_shards.files import atomic_write, locked
from data_shards.shards.cache import own_folder
from data_shards.shards.index import Index, common_tokenizer
from data_shards.shards.index_file import TOKENIZER_NAME, FolderIndexes, TokenizerEntry
from data_shards.shards.patterns import expand
from data_shards.shards.storage import Storage, Unreachable, folder_of, is_remote, join_location, local_path, storage_of
from data_shards.text.tokenizer import FILES, load_tokenizer


def tokenizer_folder(index: Index) -> Path:
    """Return the tokenizer's folder beside the shards; for remote shards a fetched copy in the cache's folder.

    Raises ValueError if it cannot be fetched.
    """
    return _local_copy(folder_of(index.paths[0]), index.storage, index.tokenizer)


def _local_copy(folder: str, storage: Storage, entry: TokenizerEntry | None) -> Path:
    if not is_remote(folder):
        return local_path(folder) / TOKENIZER_NAME
    copy = (
        own_folder(storage.cache_dir) / f"tokenizer-{hashlib.sha256(repr((folder, entry)).encode()).hexdigest()[:16]}"
    )
    with locked(copy):  # the other ranks wait, and find the copy
        if not _copy_matches(copy, entry):
            try:
                for name in FILES:
                    with atomic_write(copy / name) as file:
                        file.write(storage.fetch(join_location(join_location(folder, TOKENIZER_NAME), name)))
            except Unreachable:
                raise
            except OSError as error:
                raise ValueError(f"the tokenizer beside the shards in {folder} cannot be read: {error}") from error
    return copy


def _copy_matches(copy: Path, entry: TokenizerEntry | None) -> bool:
    """Return True if the copy is complete and is this tokenizer."""
    try:
        return all((copy / name).is_file() for name in FILES) and load_tokenizer(copy).entry == entry
    except (OSError, ValueError):
        return False


def tokenizer_of(data: DataConfig) -> tuple[TokenizerEntry, Path] | None:
    """Return (tokenizer entry, its folder) of text shards, according to index.json alone, as `tokenizer_entry`."""
    entry, folder = tokenizer_entry(data)
    return (entry, _local_copy(folder, storage_of(data), entry)) if entry else None


def tokenizer_entry(data: DataConfig) -> tuple[TokenizerEntry | None, str]:
    """Return (tokenizer entry, folder of the first shard) of text shards; nothing but index.json is read.

    The entry is None if there are no shards, no index or no text. Raises ValueError if shards have different
    tokenizers.
    """
    folders = FolderIndexes(storage_of(data))
    try:
        paths = expand(data.shards, folders=folders)
    except (ValueError, Unreachable):
        return None, ""
    return common_tokenizer(data.shards, {folder_of(path): folders[folder_of(path)] for path in paths}), folder_of(
        paths[0]
    )


def check_tokenizer(config: ModalityConfig, index: Index) -> None:
    """Raise ValueError if shards, e.g. a probe's, have another tokenizer than `data.shards`, or than
    `text.vocab_size` allows."""
    if index.tokenizer is None:
        return
    trained, types = tokenizer_of(config.data), index.tokenizer.vocab_size
    if trained and trained[0] != index.tokenizer:
        raise ValueError(
            f"probe.train_shards and probe.test_shards: {folder_of(index.paths[0])} has another tokenizer than "
            f"data.shards ({trained[1]}); build them with the same one: ./run.sh shards build ... "
            f"tokenizer={trained[1]}"
        )
    if types != config.text.vocab_size:
        raise ValueError(
            f"text.vocab_size={config.text.vocab_size}, but the tokenizer of the shards "
            f"({tokenizer_folder(index)}) has {types} types: set text.vocab_size={types}"
        )
