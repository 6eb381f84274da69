"""Seconds of one measurement of all modules (`pretrain.health.collapse`) and of one step, vision Base on a CPU.

OMP_NUM_THREADS=2 python -m benchmarks.health [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

from benchmarks.saving import RECIPE, made_up, seconds_of
from configs.compose import compose_pretrain
from models.data2vec import Data2Vec
from pretrain.engine import distributed
from pretrain.engine.engine import Engine
from pretrain.health import collapse


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = compose_pretrain([*RECIPE, f"run.dir={folder}"])
        model, batch = Data2Vec(config), made_up(config)
        engine = Engine(model, config, distributed.start())
        engine.step(batch)
        pairs = []
        for _ in range(arguments.rounds):
            measured = seconds_of(lambda: collapse.measure(model, batch[0], engine.device))
            pairs.append((measured, seconds_of(lambda: engine.step(batch))))
    measure, step = (statistics.median(values) for values in zip(*pairs, strict=True))
    every = config.guard.collapse_every
    share = statistics.median(m / s for m, s in pairs) / every
    print(f"measurement {measure:.2f} s, step {step:.2f} s: {share:.2%} of training at guard.collapse_every={every}")


if __name__ == "__main__":
    main()
