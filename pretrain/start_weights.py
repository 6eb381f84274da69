"""Initial weights of `init=DIR`: the student of another run, or a Hugging Face folder."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from configs.checks.run import naming
from configs.compose import from_yaml
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from data_shards.shards.index_file import TOKENIZER_NAME
from data_shards.text.stored_tokenizer import tokenizer_of
from data_shards.text.tokenizer import load_tokenizer
from models.data2vec import Data2Vec, part_state
from models.huggingface import load_pretrained
from pretrain.checkpoints.reading import load_weights


def load_student(model: Data2Vec, init: str) -> str:
    """Load the weights of `init` into the student and copy them to the teacher; return a line for the log.

    From a run directory come the newest checkpoint's student weights with the regression head. Optimizer, schedules and
    teacher start anew, as in phase 2 of the published Large. One modality of a mixture may go on alone. A Hugging Face
    folder has no head, and may have no mask vector: these keep their initial values. Raises ValueError that names the
    folder and the difference.
    """
    folder = Path(init)
    if (folder / "checkpoints").is_dir():
        weights, source = _run_weights(folder, model.config)
        optional = re.compile(r"head\..*|.*\.k_bias")  # shared blocks of a mixture have no bias of keys
    elif (folder / "config.json").is_file():
        weights, source = _huggingface_weights(folder, model.config), f"Hugging Face folder {folder}"
        optional = re.compile(".*")  # load_pretrained has checked what must be there
    else:
        raise ValueError(f"init={init} is no run directory (checkpoints/) and no Hugging Face folder (config.json)")
    own = model.student.state_dict()
    keys = f"use the same model= and the same {', '.join(f'{modality}.*' for modality in model.config.modalities)}"
    for name, values in weights.items():
        _check_values(f"init={init}: {name}", values, own.get(name), keys)
    kept = sorted(own.keys() - weights.keys())
    if absent := [name for name in kept if not optional.fullmatch(name)]:
        raise ValueError(f"init={init}: {absent[0]} is absent there, of {len(absent)} that this run needs: {keys}")
    model.student.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for _, student, teacher in model.tracked():
            teacher.copy_(student)
    return f"student and teacher start from the {source}" + (f"; not in it: {', '.join(kept)}" if kept else "")


def _check_values(what: str, values: Tensor, own: Tensor | None, remedy: str) -> None:
    """Raise ValueError if values cannot take the place of our own: another shape, or no finite numbers."""
    if own is None or own.shape != values.shape:
        here = "absent" if own is None else tuple(own.shape)
        raise ValueError(f"{what} is {tuple(values.shape)} there and {here} here: {remedy}")
    if not torch.isfinite(values.to(own.dtype)).all():
        raise ValueError(f"{what} has values that are not finite: start from other weights, or from an earlier step")


def _run_weights(folder: Path, config: PretrainConfig) -> tuple[dict[str, Tensor], str]:
    """Student weights of the run in `folder` for a run of `config`, and their description.

    Raises ValueError if they do not fit `config`.
    """
    theirs = from_yaml(folder / "config.yaml")
    there, here = set(theirs.modalities), set(config.modalities)
    if here != there and (config.is_mixture or not here < there):
        known, asked = ",".join(theirs.modalities), ",".join(config.modalities)
        raise ValueError(f"init={folder} was trained on {known}, this run has modality={asked}: give a run of {asked}")
    blocks = theirs.mixture.blocks
    if config.is_mixture and config.mixture.blocks != blocks:
        raise ValueError(f"init={folder} has mixture.blocks={blocks}, here it is another: set mixture.blocks={blocks}")
    for modality in config.modalities:
        norm, own = theirs.for_modality(modality).model.norm, config.for_modality(modality).model.norm
        if norm != own:
            raise ValueError(
                f"init={folder} has {norm}-norm {modality} blocks, here they are {own}: set model.norm={norm}"
            )
    if "text" in config.modalities:
        with naming(config, "text"):
            _check_tokenizer(folder, config.for_modality("text"))
    weights, step = load_weights(folder, "student")
    if not config.is_mixture:
        weights = part_state(weights, theirs, config.modalities[0])
    return weights, f"student of {folder} at step {step}"


def _check_tokenizer(folder: Path, config: ModalityConfig) -> None:
    """Raise ValueError if the shards' tokenizer is not that of the run in `folder`."""
    theirs, own = folder / TOKENIZER_NAME, tokenizer_of(config.data)
    if own and theirs.is_dir() and load_tokenizer(theirs).entry != own[0]:
        raise ValueError(
            f"init={folder} was trained with another tokenizer ({theirs}) than that of data.shards ({own[1]}); build "
            f"them with its own: ./run.sh shards build ... tokenizer={theirs}"
        )


def _huggingface_weights(folder: Path, config: PretrainConfig) -> dict[str, Tensor]:
    if config.is_mixture:
        raise ValueError(f"init={folder} holds one modality: a mixture starts from the run directory of a mixture")
    return load_pretrained(folder, config.for_modality(config.modalities[0]))
