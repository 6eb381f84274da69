"""source=imagefolder: image files, with classes from their folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data_shards.shards.bad_sample import BadSample
from data_shards.sources.folders import Walk, class_names, extension, fitting_keys, keys_of, shuffled
from data_shards.sources.media import Encoded, MediaModality, Members, media_of
from data_shards.sources.stores import Store
from data_shards.sources.units import LeftOut, Split, Unit, label_size
from data_shards.vision.decoding import decoded_pixels, image_length
from data_shards.vision.formats import IMAGE_EXTENSIONS, extension_of


@dataclass(frozen=True)
class Images:
    """Images are stored unchanged. decode: leave out what cannot be decoded."""

    decode: bool = True
    modality: ClassVar[MediaModality] = "vision"
    extensions: ClassVar[tuple[str, ...]] = IMAGE_EXTENSIONS
    noun: ClassVar[str] = "image"

    def facts(self, suffix: str, size: int, modified: int, label: int | None, text: str | None) -> tuple:
        return (suffix, size, label, text, modified, self.decode)

    def stored_size(self, size: int, extension: str, label: int | None) -> int:
        return size + label_size(label)

    def samples(self, encoded: Encoded, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        if reason := self._problem(encoded.data):
            left_out.add("damaged or no image", f"{encoded.place} ({reason})")
        else:
            known = encoded.extension in IMAGE_EXTENSIONS
            name = encoded.extension if known else extension_of(encoded.data)
            yield encoded.key, {name: encoded.data, **encoded.others()}

    def _problem(self, data: bytes) -> str:
        """The reason why the image cannot be used, "" if it can be."""
        try:
            image_length(data)
            if self.decode:
                decoded_pixels(data)
        except (ValueError, BadSample) as error:
            too_large = isinstance(error, BadSample) and error.kind == "too_large"
            return f"{error}; decode=false keeps it for a run that allows more" if too_large else str(error)
        return ""


def image_folder(root: Path, name: str, decode: bool, store: Store | None = None) -> Split:
    """Split of the images in a folder, or in a store that is read in place.

    ROOT/class/.../image.jpg with labels, or ROOT/image.jpg without. A label is the number of the class folder in
    alphabetical order. decode: leave out what cannot be decoded. Raises ValueError if it holds no image, or if images
    lie beside class folders.
    """
    kinds, left_out = " ".join(IMAGE_EXTENSIONS), LeftOut()
    walk = Walk(lambda name: extension(name) in IMAGE_EXTENSIONS, kinds, left_out)
    files = list(walk.files(root) if store is None else walk.stored_files(store, store.entries()))
    if not files:
        raise ValueError(
            "; ".join([f"input={store.location if store else root} holds no image ({kinds})", *left_out.notes()])
        )
    flat = [file.name for file in files if len(file.parts) == 1]
    if 0 < len(flat) < len(files):
        raise ValueError(
            f"input={root} has {len(flat)} images beside class folders, the first: {flat[0]}; "
            f"move them into a class folder, or build the folders one by one"
        )
    classes = class_names(root, files)
    for empty in sorted(set(classes) - {file.parts[0] for file in files}):
        left_out.add("class folders without an image; they keep their number", empty)
    number = {class_name: i for i, class_name in enumerate(classes)}
    keys = fitting_keys(keys_of(files), files, lambda file: f".{extension(file.path)}", left_out)
    units: list[Unit] = [
        media_of(key, file, Images(decode), number.get(file.parts[0])) for key, file in zip(keys, files, strict=True)
    ]
    return Split(name, "vision", shuffled(units), classes, left_out=left_out)
