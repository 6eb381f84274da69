"""Tars that `input` of source=webdataset names, and prefixes of their samples' keys."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import braceexpand

from configs.output.secrets import masked
from configs.schema_modalities import is_command_or_url
from data_shards.shards.tar import SKIPPED

_TAR = re.compile(r"\.(tar|tgz|tbz2|txz)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
_REMEDY = "give a folder of tars, a file, a URL or pipe:COMMAND"


def tar_urls(text: str) -> list[str]:
    """The tars, each once: of folders in the order of their names. Raises ValueError if one piece names none."""
    found: list[str] = []
    for piece in text.split("::"):
        urls = [*_expanded(piece)]
        if not urls:
            raise ValueError(
                f"input={masked(piece)} names no tar; give a folder of tars, a file, a URL or pipe:COMMAND"
            )
        found += urls
    return [*dict.fromkeys(found)]


def _expanded(piece: str) -> Iterator[str]:
    """Yield the tars of a folder, a glob, braces, a URL or a command. Raises ValueError if a file is not there."""
    if is_command_or_url(piece):
        yield from braceexpand.braceexpand(piece)
        return
    if Path(piece).is_dir():
        yield from sorted(str(path) for path in Path(piece).rglob("*") if _TAR.search(path.name) and path.is_file())
        return
    for path in [piece] if Path(piece).exists() else braceexpand.braceexpand(piece):
        matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))
        if not matches and not glob.has_magic(path):
            raise ValueError(f"input={path} is not there; {_REMEDY}")
        yield from matches


def prefixes(urls: Sequence[str]) -> list[str]:
    """Prefix of the keys per tar: its name without extension and dots; a number where there is none or it is taken."""
    found: dict[str, None] = {}
    for number, url in enumerate(urls):
        path = "" if url.startswith("pipe:") else urlsplit(url).path if "://" in url else url
        name = _TAR.sub("", path.rpartition("/")[2]).replace(".", "_")
        name = name[1:] if SKIPPED.match(f"{name}/") else name
        if not name or name in found:
            name = f"{name}_{number:06d}".lstrip("_")
        found[name] = None
    return [*found]
