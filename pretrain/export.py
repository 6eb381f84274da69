"""Write the weights of a run to a folder that Hugging Face Transformers loads.

python -m pretrain.export run=DIR out=DIR [weights=teacher|student] [modality=vision|speech|text]
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from configs.command import run
from configs.compose import from_yaml
from configs.modality_config import ModalityConfig
from configs.output.stages import LOADING_TORCH, stage
from configs.schema import PretrainConfig
from configs.schema_commands import ExportConfig
from configs.schema_modalities import Modality

if TYPE_CHECKING:
    from torch import Tensor


def export(command: ExportConfig) -> tuple[Modality, int]:
    """Write the newest good checkpoint's weights to `command.out`; return their modality and step.

    The folder appears whole or not at all. Raises ValueError if `out` is not empty, if Transformers has no such
    model, or if the run, its checkpoint or its tokenizer is missing.
    """
    out = Path(command.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} is not empty: name a new folder, or remove this one")
    config = from_yaml(Path(command.run) / "config.yaml")
    modality = _modality(command, config)
    own = config.for_modality(modality)
    # Seconds to import, with torch: not for --help and mistakes on the command line.
    with stage(LOADING_TORCH):
        from models.data2vec import part_state
        from models.huggingface import layout_of
        from pretrain.checkpoints.reading import load_weights

    layout_of(own)  # raises its ValueError before anything is read
    with stage(f"exporting {command.run}"):
        state, step = load_weights(Path(command.run), command.weights)
        _write(out, part_state(state, config, modality), own, Path(command.run) / "tokenizer")
    return modality, step


def _modality(command: ExportConfig, config: PretrainConfig) -> Modality:
    """Modality to export. Raises ValueError that lists the run's modalities if it is missing there or not given."""
    known = ", ".join(config.modalities)
    if command.modality is None and config.is_mixture:
        raise ValueError(f"run={command.run} has several modalities ({known}): add modality={config.modalities[0]}")
    modality = command.modality or config.modalities[0]
    if modality not in config.modalities:
        raise ValueError(f"modality={modality} is not in run={command.run}: it has {known}")
    return modality


def _write(out: Path, state: dict[str, Tensor], config: ModalityConfig, tokenizer: Path) -> None:
    """Write to a temporary folder beside `out`, then rename it."""
    from models.huggingface import save_pretrained

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.mkdir()  # not mkdtemp, which lets only the owner in, whatever the umask
    try:
        save_pretrained(temporary, state, config, tokenizer)
        temporary.replace(out)  # replaces an empty folder
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def usage(modality: Modality, folder: str) -> list[str]:
    """Lines of Python that load the folder and use the model."""
    load = "model = AutoModel.from_pretrained(folder)"
    match modality:
        case "vision":
            load = "model = AutoModel.from_pretrained(folder, add_pooling_layer=False)"  # there is none to load
            classes, lines = "AutoModel", ["hidden = model(pixel_values).last_hidden_state  # [N, 1 + patches, H]"]
        case "speech":
            classes = "AutoFeatureExtractor, AutoModel"
            lines = [
                "extractor = AutoFeatureExtractor.from_pretrained(folder)",
                'inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")  # waveform: [samples]',
                "hidden = model(**inputs).last_hidden_state  # [1, frames, H]",
            ]
        case "text":
            classes = "AutoModel, AutoTokenizer"
            lines = [
                "tokenizer = AutoTokenizer.from_pretrained(folder)",
                'inputs = tokenizer("some text", truncation=True, return_tensors="pt")',
                "hidden = model(**inputs).last_hidden_state  # [1, tokens, H]",
            ]
    return [f"from transformers import {classes}", f"folder = {folder!r}", load, *lines]


def main(command: ExportConfig) -> None:
    """Export, and print the files and the code that loads them."""
    modality, step = export(command)
    print(f"{modality} {command.weights} weights of step {step} of {command.run} written to {command.out}:")
    for file in sorted(Path(command.out).iterdir()):
        print(f"  {file.name}  {file.stat().st_size:,} bytes")
    print("Load them with:")
    for line in usage(modality, command.out):
        print(f"  {line}")


if __name__ == "__main__":
    run(ExportConfig, main, sys.argv[1:])
