"""A rank's file: valid safetensors, and any slice of any parameter out of the files of all ranks."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pretrain.checkpoints.manifest import Damaged, FileEntry, file_name, read_manifest, write_manifest
from pretrain.checkpoints.partition_files import Layout, PartitionFiles, write_partitions
from pretrain.engine.layout import Fragment

SHAPES = {"a": (2, 3), "b": (5,)}
WHOLE = {"a": torch.arange(6.0), "b": 10 + torch.arange(5.0)}


def write(folder, rank: int, layout: Layout, tensors: dict[str, torch.Tensor]):
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    return write_partitions(folder / file_name(rank), sizes, tensors.__getitem__, layout)


def cut(folder, ranks: int, moment: bool = True) -> None:
    """A flat group of both parameters in equal partitions, padded at its end, as ZeRO 1 cuts it."""
    flat = torch.cat([WHOLE["a"], WHOLE["b"]])
    size = -(-len(flat) // ranks)
    entries = {"state.json": FileEntry(0, "")}
    padded = torch.cat([flat, torch.zeros(size * ranks - len(flat))])
    for rank in range(ranks):
        left, right = rank * size, (rank + 1) * size
        fragments = [
            Fragment(name, 0, max(left, begin) - left, max(left, begin) - begin, min(right, end) - max(left, begin))
            for name, begin, end in (("a", 0, 6), ("b", 6, 11))
            if max(left, begin) < min(right, end)
        ]
        part = padded[left:right]
        tensors = {"0/master": part} | ({"0/exp_avg": -part} if moment else {})
        entries[file_name(rank)] = write(folder, rank, Layout(("0",), tuple(fragments), SHAPES), tensors)
    write_manifest(folder, entries)


def unlist(folder, rank: int) -> None:
    """Take a rank's file out of the manifest."""
    entries = read_manifest(folder)
    del entries[file_name(rank)]
    write_manifest(folder, entries)


def test_the_file_is_what_the_library_writes_and_its_checksum_is_told(tmp_path):
    layout = Layout(("0",), (Fragment("b", 0, 0, 0, 5),), SHAPES)
    entry = write(tmp_path, 3, layout, {"0/master": WHOLE["b"], "0/teacher": WHOLE["b"] + 1})
    path = tmp_path / "rank_00003.safetensors"
    data = path.read_bytes()
    assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("0/teacher"), WHOLE["b"] + 1)
        parsed = Layout.parse(file.metadata()["layout"])
    assert parsed == Layout(layout.partitions, layout.fragments, {"a": [2, 3], "b": [5]})


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 12), start=st.integers(0, 5), numel=st.integers(0, 6))
def test_any_slice_is_read_from_any_number_of_ranks(tmp_path_factory, ranks, start, numel):
    folder = tmp_path_factory.mktemp("cut")
    cut(folder, ranks)
    files = PartitionFiles(folder)
    for name, whole in WHOLE.items():
        assert torch.equal(files.whole(name, "master"), whole.view(SHAPES[name]))
        out = torch.full((min(numel, max(0, len(whole) - start)),), float("nan"))
        files.read(name, "exp_avg", start, out)
        assert torch.equal(out, -whole[start : start + len(out)])


def test_what_was_not_kept_is_known(tmp_path):
    cut(tmp_path, 2, moment=False)
    files = PartitionFiles(tmp_path)
    assert files.holds("a", "master") and not files.holds("a", "teacher")


def test_a_missing_rank_is_named_by_the_parameter_that_it_held(tmp_path):
    cut(tmp_path, 3)
    unlist(tmp_path, 1)
    with pytest.raises(Damaged, match="do not cover a exactly once"):
        PartitionFiles(tmp_path)


def test_a_file_that_the_manifest_does_not_list_is_not_read(tmp_path):
    cut(tmp_path, 2)
    for content in (b"no tensors", (tmp_path / file_name(0)).read_bytes()):
        (tmp_path / file_name(7)).write_bytes(content)
        assert torch.equal(PartitionFiles(tmp_path).whole("a", "master"), WHOLE["a"].view(SHAPES["a"]))


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 64])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    cut(tmp_path, 1)
    (tmp_path / file_name(0)).write_bytes(content)
    with pytest.raises(Damaged, match="cannot be read"):
        PartitionFiles(tmp_path)


@pytest.mark.parametrize("tensors", [{"0/master": WHOLE["b"][:4]}, {"1/master": WHOLE["b"]}, {"0/exp_avg": WHOLE["b"]}])
def test_a_file_that_lacks_what_its_map_promises_is_refused(tmp_path, tensors):
    layout = Layout(("0",), (Fragment("b", 0, 0, 0, 5),), {"b": (5,)})
    write_manifest(tmp_path, {"state.json": FileEntry(0, ""), file_name(0): write(tmp_path, 0, layout, tensors)})
    with pytest.raises(Damaged, match="partition 0 does not hold all of b"):
        PartitionFiles(tmp_path)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    cut(tmp_path, 1)
    unlist(tmp_path, 0)
    with pytest.raises(Damaged, match=f"{tmp_path}: its manifest lists no rank_"):
        PartitionFiles(tmp_path)
