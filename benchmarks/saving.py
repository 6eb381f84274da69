"""Seconds that a checkpoint of vision Base stops training: a synchronous save, and an asynchronous one.

    OMP_NUM_THREADS=2 python -m benchmarks.saving [--rounds 5] [--folder DIR] [key=value ...]

One process, ZeRO 1, fp32, recipe vision_base_imagenet at batch 8 on made-up images. The two kinds of save take turns.
Training waits for the snapshot of the asynchronous one only; the steps beside its write are timed too.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import deepspeed
import torch

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from configs.schema_running import CheckpointConfig
from data_shards.batch import MaskedBatch
from models.data2vec import Data2Vec
from models.flops import parameters
from pretrain.checkpoints.reading import RunState
from pretrain.checkpoints.saving import Checkpoints
from pretrain.engine import distributed
from pretrain.engine.engine import Engine

RECIPE = [
    "recipe=vision_base_imagenet", "precision=fp32", "batch.global=8", "batch.micro=8", "model.drop_path=0",
]  # fmt: skip


def made_up(config: PretrainConfig) -> list[MaskedBatch]:
    """A micro-batch of noise, with the recipe's number of masked patches."""
    vision, count = config.vision, config.batch.micro
    pixels = torch.randint(0, 256, (count, 3, vision.image_size, vision.image_size), dtype=torch.uint8)
    masks = torch.zeros(count, 1, vision.tokens, dtype=torch.bool)
    masks[..., : vision.mask.patches] = True
    lengths = torch.full((count,), vision.tokens)
    color = torch.eye(3, 4).repeat(count, 1, 1)
    return [
        MaskedBatch(
            modality="vision", inputs=pixels, lengths=lengths, sample_ids=torch.arange(count), color=color, masks=masks
        )
    ]


def seconds_of(function: Callable[[], object]) -> float:
    """Duration of a call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def measure(engine: Engine, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of save, and of a step without and with a write beside it."""
    batch = made_up(engine.config)
    engine.step(batch)  # makes the optimizer's states
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=1))
    checkpoints.prepare(engine)
    taken: dict[str, list[float]] = {}

    def clock(name: str, function: Callable[[], object]) -> None:
        taken.setdefault(name, []).append(seconds_of(function))

    for _ in range(rounds):
        clock("step", lambda: engine.step(batch))
        clock("synchronous save", lambda: checkpoints.save(engine, RunState({}), wait=True))
        engine.steps += 1  # the folder of the next
        clock("asynchronous save, as training sees it", lambda: checkpoints.save(engine, RunState({})))
        clock("step beside the write", lambda: engine.step(batch))
        clock("rest of the write", checkpoints.finish)
        assert checkpoints.failure is None
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; a temporary one by default")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    config = compose_pretrain([*RECIPE, f"run.dir={folder}", *arguments.overrides])
    engine = Engine(Data2Vec(config), config, distributed.start())
    try:
        taken = measure(engine, folder, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    print(f"torch {torch.__version__}, deepspeed {deepspeed.__version__}, Python {platform.python_version()}, "
          f"{torch.get_num_threads()} threads, {parameters(config) / 1e6:.1f} M parameters")  # fmt: skip
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, values in taken.items():
        print(f"  {name}: {medians[name]:.3f} s ({', '.join(f'{value:.3f}' for value in values)})")
    ratios = [a / s for a, s in zip(*(taken[n] for n in list(taken)[2:0:-1]), strict=True)]
    print(f"  asynchronous / synchronous: {statistics.median(ratios):.1%} ({', '.join(f'{r:.1%}' for r in ratios)})")


if __name__ == "__main__":
    main()
