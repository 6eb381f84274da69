"""`pretrain.train` with something bad planted in some of its steps, for the tests of guards and faults.

    planted.py KIND FIRST LAST key=value ...     steps are counted from 1
    python -m tests.integration.planted_launch KIND FIRST LAST key=value ...     the same through `pretrain.launch`

nan         a module's output is not finite, on the last rank
spike       loss and gradient are 50 times what they are
collapse    at step FIRST: the weights of the feature encoder are scaled to nothing
hang        the last rank stands still for an hour
unreadable  the disk fails in each read of the second rank's file of the newest checkpoint
slow        a step takes a tenth of a second more
forward, data, save     so long takes a forward pass, a wait for data or the writing of a checkpoint that a test can act
            in the middle of it: the file RUN/at_KIND says when
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from data_shards.loading.modality_loader import ModalityLoader
from models.data2vec import Data2Vec
from pretrain.checkpoints import manifest, snapshot
from pretrain.checkpoints.folders import checkpoint_folders
from pretrain.engine import distributed
from pretrain.engine.engine import Engine

forward, step, steps, write = Data2Vec.forward, Engine.step, ModalityLoader.steps, snapshot.write_partitions


class Plant:
    """What is planted, and where the run is."""

    def __init__(self, kind: str, first: int, last: int, run: Path) -> None:
        self.kind, self.first, self.last, self.run = kind, first, last, run
        self.now = 0
        Data2Vec.forward = lambda model, *given: self.forward(model, *given)  # type: ignore[method-assign]
        Engine.step = lambda engine, *given: self.step(engine, *given)  # type: ignore[method-assign]
        ModalityLoader.steps = lambda loader, first: self.steps(loader, first)  # type: ignore[method-assign]
        snapshot.write_partitions = self.write
        if kind == "unreadable":
            self.break_disk(checkpoint_folders(run / "checkpoints")[-1] / manifest.file_name(1))

    def break_disk(self, broken: Path) -> None:
        sha256, manifest.WAITS_S = manifest.file_sha256, (0.1, 0.1)

        def read(path: Path) -> str:
            if path == broken:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return sha256(path)

        manifest.file_sha256 = read

    def here(self, kind: str) -> bool:
        return kind == self.kind and self.first <= self.now <= self.last

    def pause(self, kind: str) -> None:
        if self.here(kind):
            (self.run / f"at_{kind}").touch()
            time.sleep(2)

    def forward(self, model: Data2Vec, *given):
        self.pause("forward")
        time.sleep(0.1 * self.here("slow"))
        if self.here("nan") and distributed.rank() == distributed.world() - 1:
            module = model.student.encoder.blocks[1].feed_forward
            handle = module.register_forward_hook(lambda module, inputs, output: output * float("nan"), prepend=True)
            try:
                return forward(model, *given)
            finally:
                handle.remove()
        output = forward(model, *given)
        return output._replace(loss=50 * output.loss) if self.here("spike") else output

    def step(self, engine: Engine, *given):
        self.now = engine.steps + 1
        if self.now == self.first and self.kind == "collapse":
            shrink(engine)
        if self.now == self.first and self.kind == "hang" and distributed.rank() == distributed.world() - 1:
            time.sleep(3600)
        return step(engine, *given)

    def steps(self, loader: ModalityLoader, first_step: int) -> Iterator:
        for batches in steps(loader, first_step):
            self.pause("data")
            yield batches

    def write(self, *given):
        self.pause("save")
        return write(*given)


@torch.no_grad()
def shrink(engine: Engine) -> None:
    """Scale the feature encoder's weights by a millionth."""
    weights = engine.partitions.gather("student")
    for name, values in weights.items():
        if name.startswith("feature_encoder"):
            values.mul_(1e-6)
    engine.partitions.load_masters(weights)
    engine.partitions.write_weights()


if __name__ == "__main__":
    from pretrain.train import main

    kind, first, last, *overrides = sys.argv[1:]
    folder = next(override.partition("=")[2] for override in overrides if override.startswith("run.dir="))
    Plant(kind, int(first), int(last), Path(folder))
    main(overrides)
