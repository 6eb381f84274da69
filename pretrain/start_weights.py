"""Initial weights of `init=DIR`: student and teacher of another run, or a Hugging Face folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from configs.checks.run import naming
from configs.compose import from_yaml
from configs.schema import PretrainConfig
from configs.signals import FIRST_POSITION
from data_shards.shards.index_file import TOKENIZER_NAME
from data_shards.text.stored_tokenizer import tokenizer_of
from data_shards.text.tokenizer import Tokenizer, load_tokenizer
from data_shards.text.vocabulary import ids_of_types
from models.data2vec import Data2Vec, part_state
from models.huggingface import load_pretrained
from models.layers.resize import repeated_rows, resized_offsets
from pretrain.checkpoints.reading import load_weights

_OF_ONE_OBJECTIVE = re.compile(r"(.*\.)?(head\..*|tokens\.mask|masking\.vector)")
"""Weights that data2vec and data2vec 2.0 do not share."""


class Start(NamedTuple):
    """Initial weights of a run: the student's are in its model already."""

    line: str
    """For the log."""
    teacher: dict[str, Tensor] | None = None
    """fp32 weights of the teacher by name; None: the student's."""


class _Source(NamedTuple):
    """Weights of the folder, named as in this run."""

    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None
    words: str
    optional: re.Pattern[str]
    """Weights of this run that may be absent there. They keep their initial values."""
    tokenizer: Tokenizer | None
    """The tokenizer of text that the weights were trained with, if the folder has it."""


def load_start(model: Data2Vec, init: str) -> Start:
    """Load the weights of `init` into the student, and copy them to the teacher.

    From a run directory come the newest checkpoint's student with the regression head, and for `init_teacher` its
    teacher. Optimizer and schedules start anew, as in phase 2 of the published Large. One modality of a mixture may go
    on alone. A Hugging Face folder has no head, and may have no mask vector: these keep their initial values. Raises
    ValueError that names the folder and the difference.
    """
    folder = Path(init)
    if (folder / "checkpoints").is_dir():
        source = _of_run(folder, model.config)
    elif (folder / "config.json").is_file():
        source = _of_huggingface(folder, model.config)
    else:
        raise ValueError(f"init={init} is no run directory (checkpoints/) and no Hugging Face folder (config.json)")
    own = model.student.state_dict()
    types = _types(source.tokenizer, model.config)
    student, changed, left = _fitted(source.student, own, types, init, model.config)
    kept = sorted(own.keys() - student.keys())
    if absent := [name for name in kept if not source.optional.fullmatch(name)]:
        keys = _same(model.config)
        raise ValueError(f"init={init}: {absent[0]} is absent there, of {len(absent)} that this run needs: {keys}")
    model.student.load_state_dict(student, strict=False)
    with torch.no_grad():
        for _, of_student, of_teacher in model.tracked():
            of_teacher.copy_(of_student)
    notes = (("not in it", kept), ("made from other sizes", changed), ("left there", left))
    told = "".join(f"; {what}: {', '.join(names)}" for what, names in notes if names)
    if source.teacher is None:
        return Start(f"student and teacher start from the {source.words}{told}")
    teacher, *_ = _fitted(source.teacher, own, types, init, model.config)
    whole = {name: values.float() for name, values in (model.student.state_dict() | teacher).items()}
    return Start(f"student and teacher start from the student and the teacher of {source.words}{told}", whole)


def _fitted(
    weights: dict[str, Tensor],
    own: dict[str, Tensor],
    types: list[list[int]] | None,
    init: str,
    config: PretrainConfig,
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return the weights in this run's shapes, the names of those that were resized, and of those without a place.

    types: see `_types`. Raises ValueError if one cannot be made to fit, or is not finite.
    """
    fitted, changed, left = {}, [], []
    for name, values in weights.items():
        if name not in own and _OF_ONE_OBJECTIVE.fullmatch(name):
            left.append(name)
            continue
        resized = _resized(name, values, own.get(name), types)
        _check_values(f"init={init}: {name}", resized, own.get(name), _same(config))
        if resized is not values:
            changed.append(f"{name} ({len(values)} -> {len(resized)} rows)")
        fitted[name] = resized
    return fitted, changed, left


def _resized(name: str, values: Tensor, own: Tensor | None, types: list[list[int]] | None) -> Tensor:
    """Return a table for this run's number of positions or types; other weights as they are."""
    if name.endswith("embedding.weight") and not name.endswith("patch_embedding.weight") and types is not None:
        return torch.stack([values[ids].float().mean(0) for ids in types]).to(values.dtype)
    if own is None or own.shape == values.shape or own.shape[1:] != values.shape[1:]:
        return values
    if name.endswith("positions.table"):
        return resized_offsets(values, len(own))
    return repeated_rows(values, len(own), FIRST_POSITION) if name.endswith("positions.weight") else values


def _same(config: PretrainConfig) -> str:
    """Return the remedy for weights of another shape."""
    return f"use the same model= and the same {', '.join(f'{modality}.*' for modality in config.modalities)}"


def _check_values(what: str, values: Tensor, own: Tensor | None, remedy: str) -> None:
    """Raise ValueError if values cannot take the place of our own: another shape, or no finite numbers."""
    if own is None or own.shape != values.shape:
        here = "absent" if own is None else tuple(own.shape)
        raise ValueError(f"{what} is {tuple(values.shape)} there and {here} here: {remedy}")
    if not torch.isfinite(values.to(own.dtype)).all():
        raise ValueError(f"{what} has values that are not finite: start from other weights, or from an earlier step")


def _of_run(folder: Path, config: PretrainConfig) -> _Source:
    """Weights of the run in `folder` for a run of `config`. Raises ValueError if they do not fit it."""
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
    found = {}
    for weights in ("student", "teacher") if config.init_teacher else ("student",):
        state, step = load_weights(folder, weights)
        found[weights] = state if config.is_mixture else part_state(state, theirs, config.modalities[0])
    tokenizer = load_tokenizer(folder / TOKENIZER_NAME) if (folder / TOKENIZER_NAME).is_dir() else None
    both = f"{folder} at step {step}"
    words = both if config.init_teacher else f"student of {both}"
    # Shared blocks of a mixture have no bias of keys.
    other = theirs.objective != config.objective
    optional = _OF_ONE_OBJECTIVE if other else re.compile(r"head\..*|.*\.k_bias")
    return _Source(found["student"], found.get("teacher"), words, optional, tokenizer)


def _of_huggingface(folder: Path, config: PretrainConfig) -> _Source:
    if config.is_mixture:
        raise ValueError(f"init={folder} holds one modality: a mixture starts from the run directory of a mixture")
    weights = load_pretrained(folder, config.for_modality(config.modalities[0]))  # which checks what must be there
    tokenizer = load_tokenizer(folder) if (folder / "vocab.json").is_file() else None
    return _Source(weights, None, f"Hugging Face folder {folder}", re.compile(".*"), tokenizer)


def _types(theirs: Tokenizer | None, config: PretrainConfig) -> list[list[int]] | None:
    """Return the rows of their embedding that each type of this run's begins from; None if the types are the same.

    None too if a tokenizer is unknown: the shards are of others, or the folder has none.
    """
    if "text" not in config.modalities or theirs is None:
        return None
    with naming(config, "text"):
        found = tokenizer_of(config.for_modality("text").data)
    return None if found is None or found[0] == theirs.entry else ids_of_types(theirs, load_tokenizer(found[1]))
