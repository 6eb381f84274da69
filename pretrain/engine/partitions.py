"""The fp32 state of training in whatever layout ZeRO gives it: masters, Adam's moments and the teacher.

`zero_partitions.py` reads DeepSpeed's layouts. This file needs three things of a layout:

- `masters`: this rank's fp32 partitions of the weights, the keys of the base optimizer's state;
- `fragments`: the slices of partitions and the slices of parameters that they hold;
- `update_teacher_copy()`, which casts the teacher's partitions into the frozen low-precision copy that the forward pass
  uses, and `write_weights()`, which casts the masters into the weights.

`tensors()` and `restore()` move all that training needs out of one layout and into another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from models.data2vec import Weights
from pretrain.engine import distributed
from pretrain.engine.layout import MASTER, Fragment, GroupState
from pretrain.engine.teacher import STATE

Read = Callable[[str, str, int, Tensor], None]
"""Fill a flat tensor with elements of a parameter's state.

The arguments are the parameter's name, the key of the state, the first element, and the tensor.
"""


class Partitions(ABC):
    """The masters and the teacher of one engine on this rank."""

    masters: list[Tensor]
    groups: list[int]
    """Number of the optimizer's parameter group of each master."""
    fragments: list[Fragment]
    sharded = True
    """False if every rank holds everything."""

    def __init__(self, optimizer: Any, shapes: dict[str, torch.Size]) -> None:
        """optimizer: the base optimizer, whose states are kept by master. shapes: of the parameters, by name."""
        self._base = optimizer
        self.shapes = shapes

    @property
    @abstractmethod
    def grad_norm(self) -> Tensor | float:
        """Norm of the gradient that is about to be applied, before clipping."""

    @property
    @abstractmethod
    def loss_scale(self) -> dict[str, Any]:
        """State of fp16's dynamic loss scale; empty in other precisions."""

    @loss_scale.setter
    @abstractmethod
    def loss_scale(self, saved: dict[str, Any]) -> None: ...

    @abstractmethod
    def update_teacher_copy(self) -> None:
        """Cast the teacher into its low-precision copy. Collective: every rank calls it."""

    @abstractmethod
    def write_weights(self) -> None:
        """Cast the masters into the weights that the forward pass uses. Collective."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Return a name for each master."""
        return tuple(str(number) for number in range(len(self.masters)))

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training needs of this rank, flat and fp32, as LABEL/KEY: masters and optimizer states."""
        found = {}
        for label, master in zip(self.labels, self.masters, strict=True):
            found[f"{label}/{MASTER}"] = _flat(master)
            for key in self._keys(master):
                found[f"{label}/{key}"] = _flat(self._base.state[master][key])
        return found

    def group_states(self) -> list[GroupState]:
        """Return an entry per parameter group of the optimizer, the same on every rank."""
        found = [GroupState(None)] * len(self._base.param_groups)
        for master, group in zip(self.masters, self.groups, strict=True):
            if keys := self._keys(master):  # apex counts steps in the group
                step = self._base.state[master].get("step", self._base.param_groups[group].get("step"))
                found[group] = GroupState(int(step), keys)
        return found

    @torch.no_grad()
    def restore(self, saved: list[GroupState], read: Read) -> None:
        """Overwrite masters and optimizer states with those of another engine, of any layout. Collective.

        Weights and the teacher's copy follow. One slice of one parameter is in memory at a time.
        """
        places = [self._place_states(i, saved[group]) for i, group in enumerate(self.groups)]
        for f in self.fragments:
            for key, tensor in places[f.partition].items():
                read(f.name, key, f.start, tensor.narrow(0, f.offset, f.numel))
        self.write_weights()
        self.update_teacher_copy()

    def _place_states(self, number: int, saved: GroupState) -> dict[str, Tensor]:
        """Return one master's flat tensors to be overwritten, and set its step count. Missing states begin as zeros."""
        master, group = self.masters[number], self._base.param_groups[self.groups[number]]
        state = self._base.state[master]
        old = {key: state[key] for key in self._keys(master)}
        state.clear()
        state |= {key: old[key] if key in old else torch.zeros_like(master) for key in saved.keys}
        if saved.step is None:
            self._base.state.pop(master)
        elif isinstance(self._base, torch.optim.AdamW):
            on_device = group["fused"] or group["capturable"]
            state["step"] = torch.tensor(float(saved.step), device=master.device if on_device else "cpu")
        else:  # apex's
            group["step"] = saved.step
        return {MASTER: _flat(master)} | {key: _flat(state[key]) for key in saved.keys}

    def _keys(self, master: Tensor) -> tuple[str, ...]:
        state = self._base.state.get(master, {})
        return tuple(k for k, v in state.items() if isinstance(v, Tensor) and v.shape == master.shape and k != "step")

    def clear_gradients(self) -> None:  # noqa: B027 nothing to do where ZeRO makes or clears them in each step
        """Forget the gradients of the step before; called before every step.

        Some layouts keep gradients in buffers that last, and overwrite a parameter's part only when the parameter gets
        a gradient. A block that layer drop leaves out, or another modality's encoder, would be moved by a stale
        gradient.
        """

    def local(self, weights: Weights) -> list[Tensor]:
        """Return this rank's partitions, flat and fp32. Before the first update, the teacher's are the masters."""
        if weights == "student":
            return [master.detach().flatten() for master in self.masters]
        return [self._base.state.get(master, {}).get(STATE, master).detach().flatten() for master in self.masters]

    def teacher_bytes(self) -> int:
        """Return the bytes of the teacher's fp32 partitions on this rank; 0 before the first update."""
        states = [self._base.state.get(master, {}).get(STATE) for master in self.masters]
        return sum(state.untyped_storage().nbytes() for state in states if state is not None)

    def gather(self, weights: Weights) -> dict[str, Tensor]:
        """Return the whole fp32 tensors, on the CPU of every rank. Collective and slow: for tests and start-up."""
        partitions = self.local(weights)
        mine = [(f, partitions[f.partition].narrow(0, f.offset, f.numel).cpu().clone()) for f in self.fragments]
        pieces = distributed.gather(mine) if self.sharded else [mine]
        return assemble(self.shapes, (piece for rank in pieces for piece in rank))

    @torch.no_grad()
    def load_teacher(self, weights: dict[str, Tensor]) -> None:
        """Start the teacher from whole fp32 tensors, before the first update. Collective.

        Adam's moments are made with it, as zeros, so that a checkpoint of step 0 holds it too.
        """
        groups = self._base.param_groups
        start = GroupState(0, ("exp_avg", "exp_avg_sq", STATE))
        places = {i: self._place_states(i, start)[STATE] for i, g in enumerate(self.groups) if groups[g]["teacher"]}
        for f in self.fragments:
            if f.partition in places:
                values = weights[f.name].flatten()[f.start : f.start + f.numel]
                places[f.partition].narrow(0, f.offset, f.numel).copy_(values)
        self.update_teacher_copy()

    @torch.no_grad()
    def load_masters(self, weights: dict[str, Tensor]) -> None:
        """Overwrite the masters with whole fp32 tensors: DeepSpeed makes them from weights that it has rounded."""
        partitions = self.local("student")
        for f in self.fragments:
            values = weights[f.name].flatten()[f.start : f.start + f.numel]
            partitions[f.partition].narrow(0, f.offset, f.numel).copy_(values)


def assemble(shapes: dict[str, torch.Size], pieces: Iterable[tuple[Fragment, Tensor]]) -> dict[str, Tensor]:
    """Put the fragments of all ranks together. Raises ValueError if a parameter is not covered exactly once."""
    flat = {name: torch.full((shape.numel(),), float("nan")) for name, shape in shapes.items()}
    covered = dict.fromkeys(shapes, 0)
    for fragment, values in pieces:
        flat[fragment.name][fragment.start : fragment.start + fragment.numel] = values
        covered[fragment.name] += fragment.numel
    wrong = [name for name, shape in shapes.items() if covered[name] != shape.numel()]
    if wrong:
        raise ValueError(f"the partitions of all ranks do not cover {wrong[0]} exactly once ({len(wrong)} such)")
    return {name: values.view(shapes[name]) for name, values in flat.items()}


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1)
