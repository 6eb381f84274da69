"""source=imagefolder: image files, with classes from their folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_shards.shards.bad_sample import BadSample
from data_shards.sources.folders import Walk, check_names, class_names, extension, keys_of, shuffled
from data_shards.sources.units import LeftOut, Split, Unit, label_member, label_size, read_unchanged
from data_shards.vision.decoding import decoded_pixels, image_length
from data_shards.vision.formats import IMAGE_EXTENSIONS


@dataclass(frozen=True)
class ImageFile:
    """An image file, stored unchanged."""

    key: str
    path: str
    file_size: int
    label: int | None
    modified: int
    decode: bool = True
    """Decode the image to see whether it can be."""

    @property
    def size(self) -> int:
        return self.file_size + label_size(self.label)

    def facts(self) -> tuple:
        return (self.key, Path(self.path).suffix, self.file_size, self.label, None, self.modified, self.decode)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, dict[str, bytes]]]:
        try:
            members = {extension(self.path): read_unchanged(self.path, self.file_size)}
        except OSError as error:
            left_out.add_unreadable(self.path, error)
            return
        if reason := self._problem(members[extension(self.path)]):
            left_out.add("damaged or no image", f"{self.path} ({reason})")
        else:
            yield self.key, {**members, **label_member(self.label)}

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


def image_folder(root: Path, name: str, decode: bool) -> Split:
    """Split of the images in a folder: ROOT/class/.../image.jpg with labels, or ROOT/image.jpg without.

    A label is the number of the class folder in alphabetical order. Raises ValueError if there is no such folder, if
    it holds no image, or if images lie beside class folders. decode: leave out what cannot be decoded.
    """
    if not root.is_dir():
        raise ValueError(f"input={root} is not a folder; give the folder that holds the images or the class folders")
    kinds, left_out = " ".join(IMAGE_EXTENSIONS), LeftOut()
    files = list(Walk(lambda name: extension(name) in IMAGE_EXTENSIONS, kinds, left_out).files(root))
    if not files:
        raise ValueError("; ".join([f"input={root} holds no image ({kinds})", *left_out.notes()]))
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
    keys = keys_of(files)
    check_names((f"{key}.{extension(file.path)}", file) for key, file in zip(keys, files, strict=True))
    units: list[Unit] = [
        ImageFile(key, file.path, file.size, number.get(file.parts[0]), file.modified, decode)
        for key, file in zip(keys, files, strict=True)
    ]
    return Split(name, "vision", shuffled(units), classes, left_out=left_out)
