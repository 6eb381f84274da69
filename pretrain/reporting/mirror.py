"""A run's figures at Weights & Biases, beside its own files: `log.wandb=true`, with the optional package `wandb`."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_shards.files import replace_text

log = logging.getLogger(__name__)

_ID = "wandb_id"
"""File of a run with its name there, so that a resume goes on with the same curves."""


def check_installed(wanted: bool) -> None:
    """Raise ValueError if `log.wandb` is set and the package is missing."""
    if wanted and find_spec("wandb") is None:
        raise ValueError(
            "log.wandb=true needs the package wandb: .venv/bin/python -m pip install 'wandb>=0.22,<1', or leave it out"
        )


class Mirror:
    """The run at Weights & Biases. Only rank 0 makes one. No failure there ends a run: figures are then missing.

    The variables of wandb decide where the figures go: WANDB_PROJECT, WANDB_API_KEY, WANDB_MODE=offline, and so on.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """config: the keys of the run by dotted name, without credentials."""
        self._run: Any = None
        try:
            import wandb

            settings = wandb.Settings(console="off", silent=True)  # the screen is ours
            self._run = wandb.init(
                dir=str(folder), id=_id(folder), name=folder.name, resume="allow", config=config, settings=settings
            )
            self._run.define_metric("*", step_metric="step")  # rows that a resume takes again are logged again
        except Exception as error:  # of the network, the account or the package
            self._fail(error)

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Add the figures of a step; those that are None are left out."""
        if self._run is not None:
            try:
                self._run.log({"step": step, **{tag: value for tag, value in figures.items() if value is not None}})
            except Exception as error:
                self._fail(error)

    def close(self) -> None:
        """Send what is buffered. A second call does nothing."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._fail(error)
            self._run = None

    def _fail(self, error: Exception) -> None:
        self._run = None
        log.warning("Weights & Biases does not get this run's figures (%s): %s", type(error).__name__, error)


def _id(folder: Path) -> str:
    """Return the name of the run there, made at its first start."""
    file = folder / _ID
    if not file.is_file():
        replace_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8").strip()
