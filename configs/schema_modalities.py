"""The keys of one modality: geometry or waveform or vocabulary, and masks; and what keys that are null stand for."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from configs.signals import frames

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_by_name=True, validate_by_alias=True)


Modality = Literal["vision", "speech", "text"]


MODALITIES: tuple[Modality, ...] = get_args(Modality)


class SampleConfig:
    """What the house asks of a modality's section; each section says what differs from this."""

    shape_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that the shapes of the modality's own parameters depend on; a resume cannot change them."""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample, to which longer ones are cropped; None where all samples are of one size."""
        return None

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
    """BEiT block masks on the patch grid."""

    patches: Annotated[int, Field(ge=1)] = 120
    """At most this many masked patches per image (published: 120 of 196)."""
    min_block: Annotated[int, Field(ge=1)] = 16
    """Smallest area of a block, in patches."""
    max_block: Annotated[int, Field(ge=1)] = 196
    """Largest area of a block, in patches."""
    min_aspect: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Aspect ratios are log-uniform in [min_aspect, 1 / min_aspect]."""


@dataclass(config=STRICT)
class VisionConfig(SampleConfig):
    """Images: geometry, augmentation and masks (group `modality`, file vision.yaml)."""

    shape_keys: ClassVar[tuple[str, ...]] = ("image_size", "patch_size")

    image_size: Annotated[int, Field(ge=8)] = 224
    """Side of the square crop, in pixels; a multiple of `patch_size`."""
    patch_size: Annotated[int, Field(ge=1)] = 16
    """Side of a patch, in pixels."""
    exif_orientation: bool = True
    """Turn images as their EXIF orientation says (published: false, torchvision's loader ignores it)."""
    max_pixels: Annotated[int, Field(ge=1)] = 89_478_485
    """Images of more pixels are bad samples, and not decoded. The default is Pillow's limit: 256 MiB of RGB."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Random resized crop: range of the area fraction."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random resized crop: range of the aspect ratio."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Strength of brightness, contrast and saturation jitter; 0 is off."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means, of images in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations, of images in [0, 1]."""
    mask: VisionMaskConfig = field(default_factory=VisionMaskConfig)
    """The patch masks."""

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
    """Span masks over frames (wav2vec 2.0), on real frames only."""

    start: Annotated[float, Field(gt=0, lt=1)] = 0.065
    """Probability that a frame starts a span (published as 0.65 / 10)."""
    length: Annotated[int, Field(ge=1)] = 10
    """Frames of a span; spans may overlap."""
    same_count: bool = False
    """Trim every clip's mask to the smallest count among 16 clips of about its length, at random (published: true,
    among those of one GPU's batch)."""


@dataclass(config=STRICT)
class SpeechConfig(SampleConfig):
    """Speech: waveform, feature encoder, positions and masks (group `modality`, file speech.yaml)."""

    shape_keys: ClassVar[tuple[str, ...]] = ("conv_width", "position_layers", "position_kernel", "position_groups")

    sample_rate: Literal[16000] = 16000
    """Samples per second, mono."""
    max_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Longer clips are cropped to this, at random."""
    max_recording_seconds: Annotated[float, Field(gt=0)] = 8 * 3600.0
    """Longer recordings are bad samples: 8 hours are 0.9 GB of samples."""
    normalise: Literal["recording", "crop"] = "recording"
    """Over what a waveform is normalised: the whole recording (published), or the crop alone; then no more than the
    crop is decoded of a recording that is longer than `max_seconds`."""
    crop: Literal["own", "shortest"] = "own"
    """`own`: every clip keeps its length, batches are padded; `shortest`: the clips of a step are cropped, at random,
    to the shortest of them (published)."""
    conv_width: Annotated[int, Field(ge=1)] = 512
    """Channels of the feature encoder's seven convolutions."""
    position_layers: Annotated[int, Field(ge=1)] = 5
    """Stacked positional convolutions."""
    position_kernel: Annotated[int, Field(ge=1)] = 19
    """Kernel of each of them; odd."""
    position_groups: Annotated[int, Field(ge=1)] = 16
    """Groups of each of them; must divide `model.width`."""
    leaky_positions: bool = False
    """Let padded frames reach real ones through the positional convolutions, as the published code and Transformers do
    in padded batches. False: a clip's features do not depend on its batch."""
    mask: SpeechMaskConfig = field(default_factory=SpeechMaskConfig)
    """The span masks."""

    @property
    def longest(self) -> int:
        """Frames of the longest clip."""
        return frames(int(self.max_seconds * self.sample_rate))

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
    """`tokens`: single tokens, of which some are replaced by random ones or kept; `spans`: spans of <mask>."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.35
    """`tokens`: of the tokens; `spans`: span starts times `length` over the tokens (before overlaps)."""
    length: Annotated[int, Field(ge=1)] = 4
    """Tokens of a span, for `spans`."""
    random: Annotated[float, Field(ge=0, le=1)] = 0.1
    """`tokens`: share of the chosen tokens that become a random one; they have no target."""
    keep: Annotated[float, Field(ge=0, le=1)] = 0.1
    """`tokens`: share of the chosen tokens that stay as they are; they have no target."""
    specials: bool = False
    """Whether <s> and </s> may be masked (published: true)."""


@dataclass(config=STRICT)
class TextConfig(SampleConfig):
    """Text: vocabulary, length and masks (group `modality`, file text.yaml)."""

    shape_keys: ClassVar[tuple[str, ...]] = ("vocab_size", "max_tokens")

    vocab_size: Annotated[int, Field(ge=6)] = 50265
    """Types of the tokenizer that the shards were made with, special ones included."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longest sequence, <s> and </s> included; longer ones are cut."""
    mask: TextMaskConfig = field(default_factory=TextMaskConfig)
    """The token masks."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_tokens
