"""Write the weights of a run as a folder that Hugging Face Transformers loads.

python -m pretrain.export run=DIR out=DIR [weights=teacher|student]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from torch import Tensor

from configs.command import run
from configs.compose import from_yaml
from configs.schema import ExportConfig, PretrainConfig
from models.huggingface import save_pretrained
from pretrain.checkpoint import load_weights


def export(command: ExportConfig) -> int:
    """Write the newest good checkpoint's weights to `command.out`; returns their step.

    The folder appears whole or not at all. Raises ValueError where `out` holds something already, or where the run or
    its checkpoint is missing.
    """
    out = Path(command.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} is not empty: name a new folder, or remove this one")
    config = from_yaml(Path(command.run) / "config.yaml")
    state, step = load_weights(Path(command.run), command.weights)
    _write(out, state, config)
    return step


def _write(out: Path, state: dict[str, Tensor], config: PretrainConfig) -> None:
    """Write into a temporary folder beside `out`, then rename it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
        save_pretrained(temporary, state, config)
        temporary.replace(out)  # an empty folder may be replaced
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def main(command: ExportConfig) -> None:
    """Export, then say what was written and how to load it."""
    step = export(command)
    print(f"{command.weights} weights of step {step} of {command.run} written to {command.out}:")
    for file in sorted(Path(command.out).iterdir()):
        print(f"  {file.name}  {file.stat().st_size:,} bytes")
    print("Load them with:")
    print("  from transformers import Data2VecVisionModel")
    print(f"  model = Data2VecVisionModel.from_pretrained({command.out!r})")
    print("  hidden = model(pixel_values).last_hidden_state  # [N, 1 + patches, H]")


if __name__ == "__main__":
    run(ExportConfig, main, sys.argv[1:])
