"""The configuration of a run's only modality, and the rights of the files that were written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig


def own(config: PretrainConfig) -> ModalityConfig:
    """Return the configuration of the only modality of a run."""
    (modality,) = config.modalities
    return config.for_modality(modality)


def odd_rights(folder: Path) -> dict[str, str]:
    """Return the files and folders below `folder` with other rights than the umask grants, and their modes."""
    os.umask(umask := os.umask(0))
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    return {
        str(path): oct(mode) for path, mode in found.items() if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    }
