"""The probe of a network: features over ranks, and what they tell."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from configs.schema_running import LogConfig, ProbeConfig
from configs.schema_training import BatchConfig
from data_shards.batch import MaskedBatch, TokenSpan
from data_shards.loading.probe_samples import labelled_samples
from models.data2vec import Data2Vec
from pretrain.evaluation import probing
from pretrain.evaluation.probing import features, lone_classes, probe, probes, table
from pretrain.reporting.metrics import ProbeResult
from tests.models.common import tiny_config
from tests.own import own


def test_table_names_the_networks_and_the_pixels():
    text = table(
        {
            "untrained network": ProbeResult("vision", 0.5, 0.6, 0.7, 0.8, k=20, train_samples=50, test_samples=20),
            "teacher at step 9": ProbeResult("vision", 0.75, 0.65, 0.7, 0.8, k=20, train_samples=50, test_samples=20),
        }
    )
    assert text.splitlines() == [
        "top-1 accuracy on 20 held-out images, 50 labelled images as reference",
        "                   20-NN  linear",
        "untrained network  0.500   0.600",
        "teacher at step 9  0.750   0.650",
        "raw pixels         0.700   0.800",
    ]


class LengthPlusId(torch.nn.Module):
    """A network whose feature is made from a text's length and first token; it remembers the batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def features(self, batch: MaskedBatch, weights: str) -> Tensor:
        self.batches.append(batch.lengths.tolist())
        assert batch.inputs.shape[1] == batch.lengths.max()  # no padding that is not needed
        return (batch.inputs[:, :1] + 100 * batch.lengths[:, None]).float()


LENGTHS = [3, 9, 4, 8, 5, 7, 6, 2, 3, 9, 4]


def made_up_texts(lengths: list[int]) -> tuple[MaskedBatch, list[int]]:
    """Texts of these lengths, and what LengthPlusId makes of them."""
    count, longest = len(lengths), max(lengths)
    ids = torch.arange(count, dtype=torch.int32)[:, None].expand(-1, longest)
    mask = torch.zeros(count, longest, dtype=torch.bool)
    batch = MaskedBatch(
        modality="text",
        inputs=ids,
        lengths=torch.tensor(lengths),
        sample_ids=torch.arange(count),
        masks=mask[:, None],
        span=TokenSpan(1, 1),
    )
    return batch, [i + 100 * length for i, length in enumerate(lengths)]


def features_on_two_ranks(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    probing.FEATURE_BATCH = 2
    model, (batch, _) = LengthPlusId(), made_up_texts(LENGTHS)
    got = features(model, batch, "teacher", torch.device("cpu"))
    torch.save((got, model.batches), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_share_the_samples_in_equal_batches_of_like_length(tmp_path):
    torch.multiprocessing.spawn(features_on_two_ranks, (tmp_path,), nprocs=2)
    expected = made_up_texts(LENGTHS)[1]
    seen = [[[2, 3], [4, 6], [8, 9]], [[3, 4], [5, 7], [9, 9]]]  # sorted, dealt out; the longest twice
    for rank in range(2):
        got, batches = torch.load(tmp_path / f"{rank}.pt")
        assert got.flatten().tolist() == expected
        assert batches == seen[rank]


def test_one_process_computes_every_sample():
    batch, expected = made_up_texts(LENGTHS[:5])
    model, seen = LengthPlusId(), []
    got = features(model, batch, "teacher", torch.device("cpu"), seen.append)
    assert got.flatten().tolist() == expected and len(model.batches) == 1 and seen == [0]


def test_a_pass_holds_as_many_samples_as_their_length_allows(monkeypatch):
    batch, expected = made_up_texts(LENGTHS)
    for tokens, most, sizes in ((1, 256, [1] * 11), (27, 256, [3] * 4), (8192, 256, [11]), (8192, 4, [4] * 3)):
        monkeypatch.setattr(probing, "FEATURE_TOKENS", tokens)
        monkeypatch.setattr(probing, "FEATURE_BATCH", most)
        model, seen = LengthPlusId(), []
        assert features(model, batch, "teacher", torch.device("cpu"), seen.append).flatten().tolist() == expected
        assert [len(lengths) for lengths in model.batches] == sizes
        assert seen == [step / len(sizes) for step in range(len(sizes))]


def test_a_probe_shows_how_far_it_is_and_that_it_lives(coloured_shards, capsys, monkeypatch):
    monkeypatch.setattr(probing, "_LINE_S", 0)
    config = replace(
        tiny_config(), batch=BatchConfig(micro=1), probe=ProbeConfig(coloured_shards, coloured_shards, 40, 60)
    )
    alive, passes = [], []
    model = Data2Vec(config)
    monkeypatch.setattr(
        model, "features", lambda batch, weights: passes.append(len(batch)) or torch.rand(len(batch), 8)
    )
    probes(model, config, alive=lambda: alive.append(None))
    assert passes == [40, 60], "batch.micro has nothing to do with it"
    assert len(alive) == 40 + 60 + 2 + 4, "samples, passes, classifiers"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "probing vision: 0 %, reading" and said[-1] == "probing vision: 100 %, classifiers"
    assert [facts for facts, _ in groupby(line.split(", ")[1] for line in said)] == [
        "reading",
        "features",
        "classifiers",
    ]
    probes(model, replace(config, log=LogConfig(progress=False)))
    assert capsys.readouterr().err == ""


def test_classes_of_one_sample_are_named_once(coloured_shards, caplog):
    samples = ProbeConfig(train_shards=coloured_shards, test_shards=coloured_shards, train_samples=3, test_samples=10)
    config = replace(tiny_config(), probe=samples)
    model = Data2Vec(config)
    for _ in range(2):
        probe(model, own(config))
    (line,) = [record.getMessage() for record in caplog.records]
    (lone,) = lone_classes(labelled_samples(coloured_shards, own(config), 3))
    assert line.startswith(f"probe.train_shards: 1 classes have one sample ({lone}), which is too few: add samples")


def test_probe_of_a_network_reads_what_its_images_show(coloured_shards):
    samples = ProbeConfig(
        train_shards=coloured_shards, test_shards=coloured_shards, train_samples=40, test_samples=60, k=3
    )
    config = replace(tiny_config(), probe=samples)
    model = Data2Vec(config)
    result = probe(model, own(config))
    assert (result.k, result.train_samples, result.test_samples) == (3, 40, 60)
    assert result.knn_top1 == result.linear_top1 == result.baseline_knn_top1 == result.baseline_linear_top1 == 1
    torch.nn.init.zeros_(model.teacher.patch_embedding.weight)  # blind
    assert probe(model, own(config)).knn_top1 == probe(model, own(config), "teacher").linear_top1 == 0.5
    assert probe(model, own(config), "student") == result
