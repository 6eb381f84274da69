"""Students and teachers, and the modules that they share.

The modalities of a mixture can share their blocks. A teacher shares with its student all modules that it does not
average.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from configs.modality_config import ModalityConfig
from configs.published import PUBLISHED
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from models.layers.blocks import initialise_blocks, make_blocks
from models.network import Network
from models.speech import SpeechNetwork
from models.text import TextNetwork
from models.vision import VisionNetwork

_BLOCKS = "blocks"
_AVERAGED = {
    "transformer": ("positions", "norm_embeddings", "encoder", "norm"),
    "blocks": ("encoder", "norm"),
}
"""The children of a network that the teacher averages, by `teacher.average`. "all" averages every child."""


def make_student(config: PretrainConfig) -> nn.Module:
    """Return the network of the only modality; for a mixture a ModuleDict of networks by modality.

    It has the blocks that all modalities share, if any, under `blocks`. Their biases and epsilon belong to their norm:
    vision's for pre, speech's for the other norms.
    """
    configs = {modality: config.for_modality(modality) for modality in config.modalities}
    if not config.is_mixture:
        return make_network(configs[config.modalities[0]])
    if config.mixture.blocks == "separate":
        return nn.ModuleDict({modality: make_network(own) for modality, own in configs.items()})
    model = configs[config.modalities[0]].model
    blocks = make_blocks(model, PUBLISHED[config.objective, "vision" if model.norm == "pre" else "speech"])
    initialise_blocks(blocks, model.norm)
    networks: dict[str, nn.Module] = {modality: make_network(own, blocks) for modality, own in configs.items()}
    return nn.ModuleDict(networks | {_BLOCKS: blocks})


def network_class(modality: Modality) -> type[Network]:
    """Return the class of a modality's network."""
    match modality:
        case "vision":
            return VisionNetwork
        case "speech":
            return SpeechNetwork
        case "text":
            return TextNetwork


def make_network(config: ModalityConfig, blocks: nn.ModuleList | None = None) -> Network:
    """Return the network of one modality, with its own blocks or on shared ones."""
    return network_class(config.modality)(config, blocks)


def make_teacher(student: nn.Module, config: PretrainConfig) -> nn.Module:
    """Return a frozen copy of the modules that the teacher averages, in evaluation mode.

    The other modules are the student's own. They are attributes but no children of the teacher: they are not among its
    parameters, not in its state, and keep the student's mode.
    """
    shared = {m: _not_averaged(network_of(student, config, m), config.for_modality(m)) for m in config.modalities}
    memo = {id(module): module for children in shared.values() for module in children.values()}
    teacher = copy.deepcopy(student, memo)
    for modality, children in shared.items():
        network = network_of(teacher, config, modality)
        for name, module in children.items():
            delattr(network, name)
            network.__dict__[name] = module
    return teacher.requires_grad_(False).eval()


def _not_averaged(network: Network, config: ModalityConfig) -> dict[str, nn.Module]:
    """Return the children that the teacher takes from the student. data2vec 2.0's decoder is always one of them."""
    if config.teacher.average == "all":
        return {"head": network.head} if config.decoder else {}
    return {name: m for name, m in network.named_children() if name not in _AVERAGED[config.teacher.average]}


def network_of(networks: nn.Module, config: PretrainConfig, modality: Modality) -> Network:
    """Return the network of one modality from the result of `make_student` or `make_teacher`."""
    network = networks[modality] if config.is_mixture else networks  # type: ignore[index]
    assert isinstance(network, Network)
    return network


def modality_of(name: str, config: PretrainConfig) -> Modality | None:
    """Return the only modality whose steps move the student's parameter `name`; None if every step moves it."""
    return next((m for m in config.modalities if config.is_mixture and name.startswith(f"{m}.")), None)


def part_state(state: dict[str, Tensor], config: PretrainConfig, modality: Modality) -> dict[str, Tensor]:
    """Return the weights of one modality from a run's student weights, named as in a run of that modality alone."""
    if not config.is_mixture:
        return state
    prefix = f"{modality}."
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return own | {f"encoder.{name}": tensor for name, tensor in state.items() if name.startswith(f"{_BLOCKS}.")}
