"""Agreement of the ranks at the start of a run: one configuration, one index, one code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from configs.keys import flat, plain
from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES, Modality
from data_shards.shards.index import Index, load_index
from pretrain.engine import distributed

_PATH = "nodes may see the same files under different paths; what is read from them is compared"
_RESOURCE = "a resource of the node; no sample and no result depends on it"
_MET = "only serves to start the ranks and to let them meet"
_SHARES = ("shards", "probe_train_shards", "probe_test_shards")
PATH_KEYS = (
    *("init", "data.shards", "probe.train_shards", "probe.test_shards"),
    *(f"mixture.{modality}.{key}" for modality in MODALITIES for key in _SHARES),
)
"""Keys of files that a run reads."""
NODE_KEYS = {
    **dict.fromkeys(PATH_KEYS, _PATH),
    **dict.fromkeys(("data.workers", "data.prefetch", "data.read_ahead_mb", "launch.threads"), _RESOURCE),
    **dict.fromkeys(("data.cache_dir", "data.cache_gb"), _RESOURCE),
    **dict.fromkeys(("launch.ranks", "launch.port"), _MET),
    **dict.fromkeys((f"cluster.{key}" for key in ("kind", "hostfile", "nodes", "node_rank", "master")), _MET),
}
"""Keys that may differ between nodes, each with the reason. All other keys are compared."""

_PACKAGES = ("torch", "deepspeed", "numpy")
_CODE = ("configs", "data_shards", "models", "pretrain")
_ROOT = Path(__file__).parents[2]
_SHOWN = 3  # differences that the error lists


def run_facts(config: PretrainConfig, indexes: Mapping[Modality, Index]) -> dict[str, str]:
    """Return what has to be equal on all ranks, by name: keys, indexes, tokenizers, versions and code.

    indexes: those of the training shards. Those of the probes are read here. Raises ValueError as `load_index` does.
    """
    facts = {key: str(value) for key, value in flat(plain(config)).items() if key not in NODE_KEYS}
    for modality, index in indexes.items():
        facts |= _index_facts(f"{modality} training shards", index)
        own = config.for_modality(modality)
        for name, shards in (("reference", own.probe.train_shards), ("held-out", own.probe.test_shards)):
            if shards:
                probed = load_index(replace(own.data, shards=shards, weights=None))
                facts |= _index_facts(f"{modality} probe's {name} shards", probed)
    facts |= {f"the version of {package}": version(package) for package in _PACKAGES}
    return facts | {f"the code of {', '.join(_CODE)}": _digest(_sources())}


def weight_facts(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a digest of the weights that training starts from."""
    tensors = [weights[name].detach().cpu().contiguous() for name in sorted(weights)]
    return {"the weights of init": _digest(tensor.flatten().view(torch.uint8).numpy().data for tensor in tensors)}


def check_ranks_agree(facts: Mapping[str, str]) -> None:
    """Raise ValueError, on every rank, that names the facts in which ranks differ, and these ranks. Collective."""
    mine = _digest([repr(sorted(facts.items())).encode()])
    if len(set(distributed.gather(mine))) == 1:
        return
    all_facts: list[dict[str, str]] = distributed.gather(dict(facts))
    names = dict.fromkeys(name for theirs in all_facts for name in theirs)
    values = {name: [theirs.get(name, "absent") for theirs in all_facts] for name in names}
    different = [_difference(name, found) for name, found in values.items() if len(set(found)) > 1]
    more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    raise ValueError(
        f"the ranks do not agree: {'; '.join(different[:_SHOWN])}{more}: "
        "start every node with the same command, code, packages and shards"
    )


def _index_facts(owner: str, index: Index) -> dict[str, str]:
    """Return digests of the index of some shards, and of their tokenizer."""
    content = repr((index.entries, index.classes, index.items)).encode()
    tokenizer = {f"the tokenizer of the {owner}": index.tokenizer.sha256[:12]} if index.tokenizer else {}
    return {f"the index of the {owner}": _digest([content]), **tokenizer}


def _sources() -> Iterable[bytes]:
    """Yield name and content of each source file, in a fixed order."""
    for package in _CODE:
        for path in sorted((_ROOT / package).rglob("*.py")):
            yield str(path.relative_to(_ROOT)).encode()
            yield path.read_bytes()


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]


def _difference(name: str, values: Sequence[str]) -> str:
    """Return "NAME is VALUE on ranks 0-3, OTHER on rank 4"."""
    ranks = {value: [rank for rank, own in enumerate(values) if own == value] for value in dict.fromkeys(values)}
    return f"{name} is " + ", ".join(f"{value} on {_ranks_text(own)}" for value, own in ranks.items())


def _ranks_text(ranks: Sequence[int]) -> str:
    """Return "rank 4", or "ranks 0-3, 8" with neighbours joined."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(parts)}"
