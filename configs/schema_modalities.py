"""The keys of one modality: geometry, waveform or vocabulary, and masks."""

from __future__ import annotations

import os
from dataclasses import field
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from configs.signals import frames

STRICT = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    validate_by_name=True,
    validate_by_alias=True,
    allow_inf_nan=False,
)
"""Unknown keys, inf and nan are errors, and the docstring below a field is its description."""


def _expanded(path: str) -> str:
    """Replace `~` and `~USER` at the start by the home folder. Raises ValueError if no path of a machine can be so."""
    if "://" in path:
        raise ValueError("a path of this machine is needed here, not a URL")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = path.partition("/")[0]
        raise ValueError(f"{user} is the home folder of no user here; for a folder of that name write ./{path}")
    encoded = expanded.encode("utf-8", "surrogateescape")  # not os.fsencode, which an ASCII locale limits
    if len(encoded) > 4000 or any(len(name) > 255 for name in encoded.split(b"/")):
        raise ValueError("no file system takes a path of this length: at most 255 bytes a name, and 4000 in all")
    return expanded


LocalPath = Annotated[str, AfterValidator(_expanded)]
"""A file or folder of this machine; `~` is expanded."""


LocalOrUrl = Annotated[str, AfterValidator(lambda path: path if "://" in path else _expanded(path))]
"""A path as `LocalPath`, or a URL."""


def is_command_or_url(path: str) -> bool:
    """True for what webdataset opens beside files: `pipe:COMMAND` and URLs."""
    return path.startswith("pipe:") or "://" in path


AnyPath = Annotated[str, AfterValidator(lambda path: path if is_command_or_url(path) else _expanded(path))]
"""A path as `LocalPath`, a URL, or `pipe:COMMAND`."""


Modality = Literal["vision", "speech", "text"]
"""Kind of samples."""


MODALITIES: tuple[Modality, ...] = get_args(Modality)
"""All modalities, in the order in which code goes through them."""


class SampleConfig:
    """Facts that the rest of the code asks of a section. Each section overrides what differs in its modality."""

    shape_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that the shapes of the modality's own parameters depend on; a resume cannot change them."""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample, to which longer ones are cropped; None where all samples are of one size."""
        return None

    @property
    def input_bytes(self) -> int:
        """Bytes of the longest sample as a loader gives it; 0 if they are few."""
        return 0

    @property
    def most_masked(self) -> int | None:
        """Masked tokens of a sample at most, so that shapes are static; None: as many as each micro-batch has."""
        return None

    @property
    def crop_to_shortest(self) -> bool:
        """True if the samples of a step are cropped to the shortest of them."""
        return False

    @property
    def equal_masks(self) -> bool:
        """True if samples of about one length are masked to one count."""
        return False


@dataclass(config=STRICT)
class VisionMaskConfig:
    """BEiT's block masks on the patch grid."""

    patches: Annotated[int, Field(ge=1)] = 120
    """Largest number of masked patches per image, or a percentage of the patches, e.g. 61%. Must be below their number.
    Published: 120 of 196."""
    min_block: Annotated[int, Field(ge=1)] = 16
    """Smallest area of a masked block, in patches or as a percentage of them. Published: 16."""
    max_block: Annotated[int, Field(ge=1)] = 196
    """Largest area of a masked block, in patches or as a percentage of them. Published: 196, the whole grid."""
    min_aspect: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Smallest aspect ratio of a masked block, in (0, 1]. Ratios are log-uniform from this to its inverse. Published:
    0.3."""


@dataclass(config=STRICT)
class VisionConfig(SampleConfig):
    """Images: geometry, augmentation and masks (group `modality`, file vision.yaml)."""

    shape_keys: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "positions")
    """Patch embedding and positions depend on them."""

    image_size: Annotated[int, Field(ge=8)] = 224
    """Side of the square crop in pixels. A multiple of `vision.patch_size`. Published: 224."""
    patch_size: Annotated[int, Field(ge=1)] = 16
    """Side of a square patch in pixels. Must divide `vision.image_size`. Published: 16. Null: the largest divisor up to
    16 that leaves 8 patches a side."""
    positions: Literal["relative", "sincos"] | None = None
    """Places of the patches in the network. relative: learned biases between patches. sincos: fixed sines and cosines
    added to the patches; such a model exports as a ViT. Null: as published (relative; `objective=v2` sincos)."""
    exif_orientation: bool = True
    """Turn images by their EXIF orientation. Published: false, since torchvision's loader ignores it."""
    max_pixels: Annotated[int, Field(ge=1)] = 89_478_485
    """Largest number of pixels of an image. A larger image is a bad sample: it is not decoded, and another replaces it.
    Decoding takes up to 20 bytes of memory for each pixel. The default is Pillow's limit, 256 MiB of RGB."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of a random crop's area, as a fraction of the image's: smallest and largest, at most 1. Published:
    [0.08,1]."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of a random crop's aspect ratio before it is resized: smallest and largest. Published: [3/4,4/3]."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip. 0: never. Published: 0.5."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Strength of random brightness, contrast and saturation, in [0, 1]: each factor is from 1 - jitter to 1 + jitter.
    0: off. Published: 0.4."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Means of the red, green and blue channel that pixels in [0, 1] are normalised by. Published: ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviations of the red, green and blue channel that pixels in [0, 1] are normalised by, above 0.
    Published: ImageNet's."""
    mask: VisionMaskConfig = field(default_factory=VisionMaskConfig)
    """The patch masks."""

    @property
    def input_bytes(self) -> int:
        """A byte for each colour of a pixel."""
        return 3 * self.image_size**2

    @property
    def most_masked(self) -> int:
        """`mask.patches`."""
        return self.mask.patches

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches of one image (the CLS token not counted)."""
        return self.grid**2


@dataclass(config=STRICT)
class SpeechMaskConfig:
    """Span masks over real frames (wav2vec 2.0)."""

    start: Annotated[float, Field(gt=0, lt=1)] = 0.065
    """Probability that a frame of 20 ms starts a masked span, in (0, 1). Published: 0.065."""
    length: Annotated[int, Field(ge=1)] = 10
    """Length of a masked span in frames of 20 ms. Spans may overlap. Published: 10."""
    same_count: bool = False
    """Trim the masks of 16 clips of about equal length to the smallest number of masked frames among them, by random
    choice. False: every clip keeps its mask. Published: true, among the clips of one GPU's batch."""


@dataclass(config=STRICT)
class SpeechConfig(SampleConfig):
    """Speech: waveform, feature encoder, positions and masks (group `modality`, file speech.yaml)."""

    shape_keys: ClassVar[tuple[str, ...]] = ("conv_width", "position_layers", "position_kernel", "position_groups")
    """Feature encoder and positions depend on them."""

    sample_rate: Literal[16000] = 16000
    """Samples of the waveform per second; it is mono. No other rate is possible."""
    max_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Longest clip in seconds. Longer recordings are cropped to it at a random place. Published: 20."""
    max_recording_seconds: Annotated[float, Field(gt=0)] = 8 * 3600.0
    """Longest recording in seconds. A longer one is a bad sample: another replaces it. Decoding takes up to 6 bytes of
    memory for each sample at 16 kHz, beside the file. The default is 8 hours: 2.8 GB."""
    normalise: Literal["recording", "crop"] = "recording"
    """Statistics for normalisation to zero mean and unit variance. recording: those of the whole recording (published).
    crop: those of the crop, so that only the crop of a long recording is decoded."""
    crop: Literal["own", "shortest"] = "own"
    """Length of the clips in a step. own: each keeps its own, up to `speech.max_seconds`, and batches are padded.
    shortest: all are cropped at a random place to the shortest in the step (published)."""
    conv_width: Annotated[int, Field(ge=1)] = 512
    """Channels of the feature encoder's seven convolutions. Published: 512."""
    position_layers: Annotated[int, Field(ge=1, le=1000)] = 5
    """Number of stacked positional convolutions, at most 1000. Published: 5."""
    position_kernel: Annotated[int, Field(ge=1)] = 19
    """Kernel of each positional convolution in frames. Must be odd. Published: 19."""
    position_groups: Annotated[int, Field(ge=1)] = 16
    """Groups of each positional convolution. Must divide `model.width`. Published: 16."""
    leaky_positions: bool = False
    """Let padded frames reach real ones through the positional convolutions, as Transformers' model and the published
    code do in padded batches. False: the features of a clip do not depend on its batch."""
    mask: SpeechMaskConfig = field(default_factory=SpeechMaskConfig)
    """The span masks."""

    @property
    def longest(self) -> int:
        """Frames of the longest clip."""
        return frames(int(self.max_seconds * self.sample_rate))

    @property
    def input_bytes(self) -> int:
        """Two bytes for each sample of the longest clip."""
        return 2 * int(self.max_seconds * self.sample_rate)

    @property
    def crop_to_shortest(self) -> bool:
        """True for `crop=shortest`."""
        return self.crop == "shortest"

    @property
    def equal_masks(self) -> bool:
        """`mask.same_count`."""
        return self.mask.same_count


@dataclass(config=STRICT)
class TextMaskConfig:
    """Masked tokens: single ones (BERT) or spans (wav2vec 2.0)."""

    kind: Literal["tokens", "spans"] = "spans"
    """Form of the masks. tokens: single tokens; most become <mask>, some a random token, some stay. spans: all tokens
    of a span become <mask>. Published: spans (code; 82.9 on GLUE) and tokens (82.7)."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.35
    """Fraction of the tokens that are chosen, in (0, 1). For spans: before overlaps, so that fewer are masked.
    Published: 0.35 for spans, 0.15 for tokens."""
    length: Annotated[int, Field(ge=1)] = 4
    """Length of a masked span in tokens, for `text.mask.kind=spans`. Published: 4."""
    random: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the chosen tokens that become a random one, in [0, 1], for `text.mask.kind=tokens`. They have no target.
    Published: 0.1."""
    keep: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the chosen tokens that stay as they are, in [0, 1], for `text.mask.kind=tokens`. They have no target.
    Published: 0.1."""
    specials: bool = False
    """Allow masks on <s> and </s>. Published: true."""


@dataclass(config=STRICT)
class TextConfig(SampleConfig):
    """Text: vocabulary, length and masks (group `modality`, file text.yaml)."""

    shape_keys: ClassVar[tuple[str, ...]] = ("vocab_size", "max_tokens")
    """Embeddings of types and positions depend on them."""

    vocab_size: Annotated[int, Field(ge=6)] = 50265
    """Number of types of the tokenizer that made the shards, special ones included. Published: 50265 (RoBERTa's)."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longest sequence in tokens, <s> and </s> included. Longer ones are cut. Published: 512."""
    mask: TextMaskConfig = field(default_factory=TextMaskConfig)
    """The token masks."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_tokens

    @property
    def input_bytes(self) -> int:
        """Four bytes for each token of the longest sequence, and for each of its masked form."""
        return 8 * self.max_tokens
