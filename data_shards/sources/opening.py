"""The source that a configuration names, opened as splits."""

from __future__ import annotations

from pathlib import Path

from configs.schema_commands import BuildConfig
from data_shards.sources.demo.images import demo_images
from data_shards.sources.demo.speech import demo_speech
from data_shards.sources.demo.text import demo_text
from data_shards.sources.images import image_folder
from data_shards.sources.media import MediaModality
from data_shards.sources.recordings import audio_folder
from data_shards.sources.stores import store_of
from data_shards.sources.tables.manifests import manifest_split
from data_shards.sources.tables.tables import media_kind, table_source
from data_shards.sources.tars.tars import tar_source
from data_shards.sources.texts import text_source
from data_shards.sources.units import Split


def open_source(config: BuildConfig) -> list[Split]:
    """The splits of the source that `config` names. Raises ValueError if it cannot be read."""
    if not config.input and not config.source.startswith("demo"):
        raise ValueError(f"input is empty; give the files of source={config.source}: input=DIR")
    root = Path(config.input)
    match config.source:
        case "imagefolder":
            return [_files_split(root, "vision", config)]
        case "audiofolder":
            return [_files_split(root, "speech", config)]
        case "textfiles":
            return [text_source(root, config)]
        case "jsonl" | "parquet":
            return [table_source(root, config)]
        case "webdataset":
            return [tar_source(config)]
        case "demo":
            return demo_images(config.input)
        case "demo_speech":
            return demo_speech(config.input)
        case "demo_text":
            return demo_text(config)


def _files_split(root: Path, modality: MediaModality, config: BuildConfig) -> Split:
    """Split of the files of a folder, a store or a manifest. Raises ValueError if it cannot be read."""
    store = store_of(config.input)
    if store is None and root.is_file():
        return manifest_split(root, media_kind(modality, config), config)
    if store is None and not root.is_dir():
        wrong = "no folder of images or of class folders" if modality == "vision" else "not there"
        raise ValueError(f"input={root} is {wrong}: give a folder, an archive, a URL, or a TSV or CSV manifest")
    speech = modality == "speech"
    return audio_folder(root, config, store) if speech else image_folder(root, config.name, config.decode, store)
