import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from configs.schema_modalities import MODALITIES
from configs.signals import samples_of
from data_shards.loading.loader import open_loader
from data_shards.loading.microbatch import MicroBatches
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.order.plain import EpochOrder
from data_shards.shards.storage import Unreachable
from tests.data_shards.shard_tools import counted_steps, damage, make_shards, small_config
from tests.own import own


def real_part(batch, i):
    """The tensors of sample i, without padding."""
    tokens = int(batch.lengths[i])
    whole = {"vision": None, "speech": samples_of(tokens), "text": tokens}[batch.modality]
    cropped = [batch.masks[:, 0][i, :tokens], batch.inputs[i, ..., :whole]]
    others = [batch.color, batch.scale, None if batch.corrupted is None else batch.corrupted[:, 0][:, :tokens]]
    return [*cropped, *(other[i] for other in others if other is not None)]


def contents(config, world=1, first=0, steps=4):
    """Per step: sample -> its tensors; images in the order of the ranks, others by their ids."""
    loaders = [open_loader(config, rank, world) for rank in range(world)]
    found = []
    for step, ranks in enumerate(counted_steps(loaders, steps, first), first):
        for loader, micro_batches in zip(loaders, ranks, strict=True):
            assert loader.micro_batch_sizes(step) == [len(batch) for batch in micro_batches]
        assert len({len(micro_batches) for micro_batches in ranks}) == 1
        batches = [batch for micro_batches in ranks for batch in micro_batches]
        assert sum(map(len, batches)) == config.batch.global_ and max(map(len, batches)) <= config.batch.micro
        pairs = [(int(batch.sample_ids[i]), real_part(batch, i)) for batch in batches for i in range(len(batch))]
        found.append(pairs if config.modality == "vision" else sorted(pairs, key=lambda pair: pair[0]))
    for loader in loaders:
        loader.close()
    return found


def same(a, b):
    return len(a) == len(b) and all(
        i == j and all(map(torch.equal, x, y))
        for left, right in zip(a, b, strict=True)
        for (i, x), (j, y) in zip(left, right, strict=True)
    )


@pytest.fixture(scope="module")
def reference(of_modality):
    return contents(of_modality(batch=8, micro=4), steps=12)


def test_shapes_and_types(shards):
    (batch, _), *_ = islice(ModalityLoader(own(small_config(shards)), 0, 1).steps(0), 1)
    assert batch.inputs.shape == (4, 3, 28, 28) and batch.inputs.dtype == torch.uint8
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last), "stacked without moving the channels"
    assert batch.color.shape == (4, 3, 4) and batch.color.dtype == torch.float32
    assert (
        batch.masks[:, 0].shape == (4, 49) and batch.masks[:, 0].dtype == torch.bool and batch.masks[:, 0].any(1).all()
    )
    assert batch.sample_ids.dtype == batch.lengths.dtype == torch.int64 and batch.lengths.tolist() == [49] * 4


@pytest.mark.parametrize(
    ("world", "micro", "workers"), [(1, 8, 0), (2, 2, 0), (4, 1, 0), (8, 1, 0), (1, 2, 1), (1, 4, 2), (2, 2, 2)]
)
def test_a_step_does_not_depend_on_ranks_micro_batches_and_workers(of_modality, reference, world, micro, workers):
    assert same(contents(of_modality(batch=8, micro=micro, workers=workers), world, steps=12), reference)


@pytest.mark.parametrize("first", [1, 7, 8, 10])
def test_resuming_anywhere_gives_the_same_steps(of_modality, reference, first):
    assert same(contents(of_modality(), first=first, steps=12 - first), reference[first:])


def test_an_epoch_has_each_sample_at_most_once_and_the_next_another_order(of_modality, reference):
    loader = open_loader(of_modality(), 0, 1)
    assert loader.samples == 70 and loader.steps_per_epoch == 8
    assert list(loader.parts.values()) == [loader]
    assert [loader.epoch_of(step) for step in (0, 7, 8, 16)] == [0, 0, 1, 2]
    epoch = [sample for step in reference[:8] for sample, _ in step]
    assert len(set(epoch)) == 64
    assert epoch[:32] != [sample for step in reference[8:12] for sample, _ in step]


def test_the_same_sample_is_masked_and_cropped_anew_in_another_epoch(reference):
    first = dict(pair for step in reference[:8] for pair in step)
    second = dict(pair for step in reference[8:] for pair in step)
    common = first.keys() & second.keys()
    equal = [i for i in common if torch.equal(first[i][0], second[i][0])]
    assert len(equal) < len(common) / 2, "masks (of texts of three tokens there is but one)"
    cropped = [i for i in common if not torch.equal(first[i][1], second[i][1])]
    assert len(cropped) > len(common) / 4, "windows of the samples that are too long"


def test_state_is_json_and_resumes(of_modality):
    loader = open_loader(of_modality(lanes=4), 0, 1)
    state = json.loads(json.dumps(loader.state_dict(9)))
    assert (state["consumed_steps"], state["epoch"], state["lane_pos"]) == (9, 1, 2)
    assert open_loader(of_modality(micro=2, lanes=4), 1, 2).load_state_dict(state) == 9
    with pytest.raises(ValueError, match=r"data\.lanes: set it to 4"):
        open_loader(of_modality(lanes=8), 0, 1).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_folder_that_is_unmounted_ends_the_run_and_replaces_nothing(tmp_path, modality, workers):
    make_shards(tmp_path / "shards", (4,) * 8, modality=modality)
    config = small_config(str(tmp_path / "shards"), 4, 4, modality=modality, workers=workers, window=1, read_ahead_mb=0)
    loader = ModalityLoader(own(config), 0, 1)
    steps = loader.steps(0)
    next(steps)
    (tmp_path / "shards").rename(tmp_path / "elsewhere")
    with pytest.raises(Unreachable, match=r"^data\.shards cannot be read: .*No such file or directory.*goes on once"):
        for _ in range(20):
            next(steps)
    assert loader.bad.replaced == 0
    loader.close()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_bad_sample_is_replaced_by_the_next_of_its_window(tmp_path, caplog, modality):
    pattern = make_shards(tmp_path, (30, 17, 23), modality=modality)
    config = small_config(pattern, modality=modality)
    loader = open_loader(config, 0, 1)
    order = EpochOrder(loader._index.counts, loader._cursor.order, 0)
    lanes = order.ids(torch.arange(8).numpy(), 0, order.lane_length).tolist()
    [(lane, position)] = [(lane, lane.index(5)) for lane in lanes if 5 in lane]
    window = lane[position // 5 * 5 : position // 5 * 5 + 5]
    instead = window[(position % 5 + 1) % len(window)]
    expected = [[instead if sample == 5 else sample for sample, _ in step] for step in contents(config, steps=8)]
    damage(tmp_path)
    for world, micro, workers in ((1, 8, 0), (2, 2, 0), (1, 4, 2)):
        caplog.clear()
        found = contents(small_config(pattern, modality=modality, micro=micro, workers=workers), world, steps=8)
        inside = list if modality == "vision" else sorted
        assert [[sample for sample, _ in step] for step in found] == [inside(step) for step in expected]
        assert caplog.text.count("bad sample 1, replaced") == caplog.text.count("bad samples: 1 (checksum 1)") == 1
        assert "train-000000.tar, key '000005' (row 5): checksum" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_without_any_usable_image_end_with_their_name(tmp_path, workers):
    pattern = make_shards(tmp_path, (16,))
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    loader = ModalityLoader(own(small_config(pattern, workers=workers)), 0, 1)
    with pytest.raises(ValueError, match=r"no usable sample among .*train-000000\.tar"):
        next(loader.steps(0))


@pytest.mark.parametrize(
    ("stored", "modality", "words"),
    [("speech", "vision", "no image among"), ("text", "speech", "no recording among"), ("vision", "text", "no token")],
)
def test_shards_of_another_modality(tmp_path, stored, modality, words):
    pattern = make_shards(tmp_path, (16,), modality=stored)
    with pytest.raises(ValueError, match=f"no usable sample among .*{words} .*cls"):
        next(open_loader(small_config(pattern, modality=modality), 0, 1).steps(0))


def test_warnings_come_from_rank_0_alone(tmp_path, caplog):
    pattern = make_shards(tmp_path, (30, 0, 17))
    for rank in (1, 0):
        assert not caplog.text
        with caplog.at_level(logging.WARNING):
            ModalityLoader(own(small_config(pattern)), rank, 2)
    assert "train-000001.tar is empty" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_without_workers_an_error_is_no_failed_process(shards, monkeypatch, error):
    def fail(self, request):
        raise error("out of order")

    monkeypatch.setattr(MicroBatches, "__getitem__", fail)
    with pytest.raises(error, match="^out of order$"):
        next(ModalityLoader(own(small_config(shards)), 0, 1).steps(0))


def test_impossible_masks_are_refused(shards):
    config = small_config(shards)
    vision = replace(config.vision, mask=replace(config.vision.mask, patches=49))
    with pytest.raises(ValueError, match=r"vision\.mask\.patches=49 must be below"):
        ModalityLoader(own(replace(config, vision=vision)), 0, 1)


def workers():
    """Loader processes of this one."""
    return {child for child in multiprocessing.active_children() if child.name != "read-ahead"}


def test_a_killed_worker_is_an_error_and_no_hang(shards):
    others = workers()
    steps = ModalityLoader(own(small_config(shards, workers=1)), 0, 1).steps(0)
    next(steps)
    [worker] = workers() - others
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a loader process failed"):
        for _ in range(100):
            next(steps)


PROGRAM = """
import os, signal, sys, time, multiprocessing
sys.path.insert(0, {folder!r})
from tests.data_shards.shard_tools import small_config
from tests.own import own
from data_shards.loading.modality_loader import ModalityLoader
steps = ModalityLoader(own(small_config({shards!r}, workers=2)), 0, 1).steps(0)
next(steps)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGUSR1, lambda *_: None)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
sys.stdin.readline()
for _ in range(50):
    next(steps)
print("50 more", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def program(shards):
    """A program without a main guard, as `python -c`, that loads with two workers; its workers' pids."""
    code = PROGRAM.format(folder=str(Path(__file__).parents[3]), shards=shards)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, text=True, start_new_session=True
    ) as process:
        yield process, [int(pid) for pid in process.stdout.readline().split()]
        process.stdin = None
        process.kill()


def group(leader):
    """Processes of a process group."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getpgid(int(entry.name)) == leader:
                found.add(int(entry.name))
    return found


def test_signals_to_the_whole_tree_leave_the_workers_alone(program):
    process, workers = program
    everyone = group(process.pid)
    assert len(workers) == 3 and {process.pid, *workers} < everyone, "two workers and the read-ahead process"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.killpg(process.pid, number)
    time.sleep(0.5)
    assert group(process.pid) == everyone
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "50 more\n"


def test_no_process_outlives_a_killed_program(program):
    process, workers = program
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"still there after 10 s: {workers}")
