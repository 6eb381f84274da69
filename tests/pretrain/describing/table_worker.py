"""On every rank: the table of a run of each kind, and what its engine and loader then did, as JSON.

table_worker.py FOLDER      of shards as tests/golden/worker.py makes them; rank 0 writes FOLDER/table.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from pretrain.assemble import assemble
from pretrain.describing.table import memory, run_table
from pretrain.engine import distributed
from tests.golden.worker import STEPS, overrides
from tests.integration.made_up import KINDS


def held(tensors: list[torch.Tensor]) -> int:
    """Bytes of the distinct storages of tensors."""
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())


def observed(config: PretrainConfig, device: torch.device) -> dict[str, Any]:
    """The table, and a row of figures for each step that is then taken."""
    run = assemble(config, device)
    lines, rows, steps = run_table(config, run.engine, run.loader), [], run.loader.steps(0)
    for step in range(STEPS):
        batches = next(steps)
        result = run.engine.step(batches)
        sizes, longest = [len(batch) for batch in batches], max(batch.tokens for batch in batches)
        rows.append([result.modality, run.loader.epoch_of(step), int(result.samples), sizes, result.lr,
                     result.teacher_decay, longest])  # fmt: skip
    run.loader.close()
    engine = run.engine
    adam = [value for state in engine.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    kept = held([*run.model.parameters(), *engine.partitions.masters, *adam])
    trained = sum(parameter.numel() for parameter in run.model.student.parameters())
    averaged = sum(parameter.numel() for parameter in run.model.teacher.parameters())
    states = memory(config, engine).states
    return {"lines": lines, "rows": rows, "trained": trained, "averaged": averaged, "kept": kept, "states": states}


def main(folder: Path) -> None:
    """Write what was observed of every kind."""
    device = distributed.start()
    found = {kind: observed(compose_pretrain(overrides(folder, kind)), device) for kind in KINDS}
    if distributed.rank() == 0:
        (folder / "table.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
