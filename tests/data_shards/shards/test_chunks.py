"""Chunks: which bytes they are, what they are called in the cache, and a cache that is too small for an order."""

from dataclasses import replace

import pytest

from configs.schema_training import DataConfig
from data_shards.shards.chunks import (
    ROW_FORMAT,
    chunk_identity,
    chunk_span,
    ensure_cached,
    row_bytes,
    small_cache_warning,
)
from data_shards.shards.index import load_index
from data_shards.shards.sidecar import read_rows
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import make_shards


def test_chunks_are_runs_of_rows_and_the_last_is_what_is_left(tmp_path):
    index = load_index(make_shards(tmp_path, (7,)))
    rows, stored = row_bytes(index, 0), read_rows(tmp_path / "train-000000.tar")
    ends = [int(row["offset"] + row["size"]) for row in stored]
    assert [chunk_span(rows, row, 3) for row in range(7)] == [
        (0, ends[2]), (0, ends[2]), (0, ends[2]), (ends[2], ends[5]), (ends[2], ends[5]), (ends[2], ends[5]),
        (ends[5], ends[6]),
    ]  # fmt: skip
    assert ROW_FORMAT.unpack_from(rows, 4 * ROW_FORMAT.size) == tuple(stored[4].tolist())


def test_another_content_or_part_has_another_identity(tmp_path):
    index = load_index(make_shards(tmp_path / "a", (3,)))
    other = load_index(make_shards(tmp_path / "b", (3,), first_seed=9))
    names = {
        chunk_identity(index, 0, 0, 10),
        chunk_identity(index, 0, 0, 20),
        chunk_identity(index, 0, 5, 10),
        chunk_identity(other, 0, 0, 10),
    }
    assert len(names) == 4
    entry = replace(index.entries[0], sha256="0" * 64)  # built anew at the same place
    assert chunk_identity(replace(index, entries=(entry,)), 0, 0, 10) not in names


def test_remote_bytes_are_fetched_once_and_local_caches_of_any_size_suffice(tmp_path):
    pattern = make_shards(tmp_path / "store", (4, 4))
    assert small_cache_warning(load_index(DataConfig(shards=pattern, cache_gb=1e-6)), 8) is None, (
        "what is local is not cached"
    )
    tar = (tmp_path / "store/train-000001.tar").read_bytes()
    with serve(tmp_path / "store") as store:
        data = DataConfig(shards=f"{store.url}/train-{{000000..000001}}.tar", cache_dir=str(tmp_path / "cache"))
        index = load_index(data)
        for _ in range(2):
            path, content = ensure_cached(index, 1, 512, 1536)
            assert (path.read_bytes() if path else content) == tar[512:1536]
        small = load_index(replace(data, cache_gb=1e-6))
        assert small_cache_warning(index, 8) is None
        assert small_cache_warning(small, 0) is None
        assert "raise data.cache_gb, or lower data.window" in small_cache_warning(small, 8)


@pytest.mark.parametrize("chunk", [1, 8])
def test_a_chunk_of_one_row_and_of_more_than_there_are(tmp_path, chunk):
    index = load_index(make_shards(tmp_path, (5,)))
    rows = row_bytes(index, 0)
    sizes = [last - first for first, last in (chunk_span(rows, row, chunk) for row in range(5))]
    stored = read_rows(tmp_path / "train-000000.tar")["size"]
    assert sizes == (stored.tolist() if chunk == 1 else [int(stored.sum())] * 5)
