"""`./run.sh shards show`: samples as a run decodes, augments and masks them, on a page or in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.checks.run import check_samples
from configs.modality_config import ModalityConfig
from configs.output.secrets import masked
from configs.output.stages import stage
from configs.schema import PretrainConfig
from configs.schema_commands import ShowConfig
from configs.schema_modalities import Modality, TextConfig
from configs.schema_training import DataConfig
from data_shards.files import atomic_write
from data_shards.kinds import kind_of, modality_of, nothing_known
from data_shards.progress import samples_progress
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.held_out import spread
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader
from data_shards.showing.cards import Card, Drawing
from data_shards.showing.page import page
from data_shards.showing.sheet import sheet
from data_shards.showing.tokens import Decode
from data_shards.text.stored_tokenizer import tokenizer_folder
from data_shards.text.tokenizer import load_tokenizer

_ENDINGS = {".html": page, ".png": sheet}
_LEGENDS = {
    "vision": "decoded: the whole image; augmented: cropped, flipped, colours jittered; masked: hatched patches are "
    "predicted by the student",
    "speech": "shaded frames are predicted by the student; the recording to play is the crop of the spectrogram",
    "text": "orange: masked, predicted by the student; blue, as seen → true: replaced by another token, not predicted",
}


def show(config: ShowConfig) -> list[str]:
    """Write the sheet, and return lines about it: its file, and the damaged samples.

    Raises ValueError if there are no shards, if no sample tells the modality, if a recipe is for another one, or if
    `out` cannot be written.
    """
    out = _checked_out(config.out)
    with stage("reading the index"):
        index = load_index(config.shards)
        chosen = spread(index, config.n)
        run = _run_config(config, index, _modality(config, index, chosen))
        drawing = Drawing(index, run, _decoder(index))
    with samples_progress("show", len(chosen)) as progress:
        cards = []
        for card in drawing.cards(chosen):
            cards.append(card)
            progress.advance(1)
    return _written(out, config, index, run, cards)


def _checked_out(out: str) -> Path:
    """Return the file to write. Raises ValueError if its name says no format, or if it is a folder."""
    path = Path(out)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"out={out}: expected a name that ends in .html (a page) or .png (a picture)")
    if path.is_dir():
        raise ValueError(f"out={out} is a folder: give the name of a file in it")
    return path


def _modality(config: ShowConfig, index: Index, chosen: Sequence[int]) -> Modality:
    """Return the modality of the samples.

    Raises ValueError if neither a key nor a sample tells it, or if the recipe is for another one.
    """
    if isinstance(config.modality, str) and not config.recipe:
        return config.modality
    found = "text" if index.tokenizer else _first_modality(index, chosen)
    asked = (config.modality,) if isinstance(config.modality, str) else config.modality
    if asked and found not in asked:
        source = f"recipe={config.recipe}" if config.recipe else f"modality={','.join(asked)}"
        raise ValueError(
            f"{source} is for {', '.join(asked)}, and the samples are {found}: leave it out, or give one for {found}"
        )
    return found


def _first_modality(index: Index, chosen: Sequence[int]) -> Modality:
    """Return the modality of the first of the samples that can be read. Raises ValueError if it is unknown."""
    reader = Reader(index, 1)
    try:
        for sample in chosen:
            try:
                members = reader.read(sample).members
            except BadSample as error:
                last = str(reader.report(sample, error))
                continue
            if modality := modality_of(members):
                return modality
            last = nothing_known(members)
    finally:
        reader.close()
    raise ValueError(f"none of {len(chosen)} samples tells what it is, the last: {last}; set modality")


def _run_config(config: ShowConfig, index: Index, modality: Modality) -> ModalityConfig:
    """Return the configuration of a run on these shards. Raises ValueError if its samples or masks cannot be made."""
    text = config.text
    if index.tokenizer and text.vocab_size == TextConfig().vocab_size:  # not given: the shards know it
        text = replace(text, vocab_size=index.tokenizer.vocab_size)
    data = DataConfig(shards=config.shards)
    sections = {"vision": config.vision, "speech": config.speech, "text": text, "masks": config.masks}
    run = PretrainConfig(modality=modality, objective=config.objective, data=data, **sections).for_modality(modality)  # type: ignore[arg-type]
    check_samples(run)
    kind_of(modality).check_index(run, index)
    return run


def _decoder(index: Index) -> Decode:
    """Return the decoding of token ids; without a tokenizer they are shown as numbers."""
    if index.tokenizer is None:
        return lambda ids: " ".join(map(str, ids))
    return load_tokenizer(tokenizer_folder(index)).decode


def _written(out: Path, config: ShowConfig, index: Index, run: ModalityConfig, cards: list[Card]) -> list[str]:
    """Write the sheet, and return the lines that end the command."""
    damaged = [card for card in cards if card.damage]
    shards = masked(config.shards if isinstance(config.shards, str) else ", ".join(config.shards))
    counts = f"{len(cards)} of {index.samples:,} samples" + (f", {len(damaged)} damaged" if damaged else "")
    recipe = f"recipe={config.recipe}" if config.recipe else "published keys but for those given"
    notes = [counts, f"{run.modality}, {recipe}; crops and masks of epoch 0, train.seed={run.seed}"]
    content = _ENDINGS[out.suffix.lower()](shards, [*notes, _LEGENDS[run.modality]], cards)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        file.write(content)
    names = [f"damaged: {card.shard}, {card.key}: {card.damage}" for card in damaged]
    return [*names, f"{out}: {counts}, {len(content) / 2**20:,.1f} MiB"]
