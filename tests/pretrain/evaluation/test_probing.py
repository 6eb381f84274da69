"""The probe of a network: features over ranks, and what they tell."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from configs.schema_running import ProbeConfig
from data_shards.batch import MaskedBatch, TokenSpan
from models.data2vec import Data2Vec
from pretrain.evaluation.probing import features, probe, table
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
    model, (batch, _) = LengthPlusId(), made_up_texts(LENGTHS)
    got = features(model, batch, "teacher", size=2, device=torch.device("cpu"))
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
    assert features(LengthPlusId(), batch, "teacher", size=4, device=torch.device("cpu")).flatten().tolist() == expected


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
