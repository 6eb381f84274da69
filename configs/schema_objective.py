"""The keys of the objective: the teacher and its targets, the loss, and for data2vec 2.0 its masks and decoder.

"Published" values are those of arXiv 2202.03555 and, for `objective=v2`, of arXiv 2212.07525 and fairseq's
examples/data2vec, config/v2. Those are of v1 where v2 is not named.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from configs.published import Normalisation
from configs.schema_modalities import STRICT


@dataclass(config=STRICT)
class TeacherConfig:
    """The exponential moving average, and the targets made from it."""

    decay: Annotated[float, Field(ge=0, le=1)] = 0.9998
    """Decay of the teacher (tau), in [0, 1]: teacher = decay * teacher + (1 - decay) * student. Start of the ramp, if
    there is one: the first update is already a step up it, as in the authors' code. Published: vision 0.9998 (Large's
    second phase 0.9999), speech and text 0.999."""
    horizon: Annotated[float | None, Field(ge=1)] = None
    """Number of steps over which the teacher averages, in place of `teacher.decay_end`: the decay ends at
    1 - 1 / horizon, and a start above that is lowered to it. Also a percentage of the schedule, e.g. 20%. Half of the
    average is younger than 0.69 horizons. Null: the decays say it."""
    decay_end: Annotated[float | None, Field(ge=0, le=1)] = None
    """Decay of the teacher after `teacher.decay_steps` applied steps, in [0, 1]. Null: `teacher.decay` throughout, as
    published for vision. Published for speech and text: 0.9999;
    v2: 0.99999, and 1 for Large speech. With 1 the teacher no longer moves once the ramp is over."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """Length of the linear ramp from `teacher.decay` to `teacher.decay_end`, in applied steps or as a percentage of the
    schedule, e.g. 25%. 0: no ramp. Published: speech 30,000; text 100,000 (paper) or 300,000 (code);
    v2: speech 75,000, vision and text 100,000."""
    average: Literal["all", "transformer", "blocks"] | None = None
    """Modules that the teacher averages; for the others it takes the student's. all: every module. transformer:
    positions and blocks. blocks: the blocks. Null: vision all, speech transformer, text blocks. Published: the same,
    except blocks for speech on LibriSpeech."""
    layers: Annotated[int | None, Field(ge=1)] = None
    """Number of top blocks whose outputs make a target, K. At most `model.layers`. Or a percentage of them, as
    50%. Null: the share published for Base (of 12: vision 6, speech 8, text 10; v2: 10, 8, 12). Published for AudioSet:
    12."""
    target: Literal["block", "ffn"] | None = None
    """Output of a block that makes the targets. block: its last, after both residual sums. ffn: the feed-forward
    layer's, before dropout and residual sum; in pre-norm blocks also before LayerScale's gamma (`model.layer_scale`),
    which published code for vision applies. Null: as published (vision block, speech and text ffn; v2: ffn)."""
    block_norm: Normalisation | None = None
    """Normalisation of each block's output before averaging, without scale and bias. layer: over the channels of a
    token. instance: over the real tokens of a sample, for each channel. none: no normalisation. Null: as published
    (vision and text layer, speech instance; v2: instance)."""
    mean_norm: Normalisation | None = None
    """Normalisation of the average over blocks, without scale and bias. layer: over the channels of a token. instance:
    over the real tokens of a sample, for each channel. none: no normalisation. Null: vision layer, speech and text
    none. Published: the same, except layer for speech on AudioSet."""


@dataclass(config=STRICT)
class LossConfig:
    """The regression loss at masked positions."""

    beta: Annotated[float | None, Field(ge=0)] = None
    """Beta of the smooth-L1 loss between prediction and target. 0: the squared error, without the factor 1/2. Null: as
    published (vision 2, speech 0, text 4; v2: 0)."""
    reduction: Literal["mean", "sqrt", "sum"] | None = None
    """Reduction of the loss over the H channels of a target. mean: sum / H. sqrt: sum / sqrt(H). sum: the sum. Null: as
    published (vision mean, speech sqrt, text sum; v2: vision sqrt)."""
    cls: Annotated[float | None, Field(ge=0)] = None
    """Weight of the loss of the CLS output against the mean of an image's targets, averaged over images and masks, for
    `objective=v2`. 0: none. Null: as published (vision 2.56: 0.01 times the 256 rows of a GPU)."""


@dataclass(config=STRICT)
class MasksConfig:
    """The masks of `objective=v2`. Every mask hides the exact number of tokens that `masks.fraction` says."""

    count: Annotated[int | None, Field(ge=1, le=256)] = None
    """Masks of each sample, M. They share one pass of the teacher and of the local encoder. Null: as published for Base
    (vision 16, speech 8, text 8)."""
    fraction: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Fraction R of a sample's tokens that each mask hides, in (0, 1). Vision keeps floor((1 - R) T) of T patches, text
    floor((1 - R) T) of T tokens, and speech hides floor(R T) of T frames. Null: as published for Base (vision 0.8,
    speech 0.5, text 0.48)."""
    adjust: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Fraction of the tokens by which the blocks of a mask are drawn in excess, since they overlap, in [0, 1). Single
    tokens then leave or join the mask at random until its number is exact. Null: as published for Base (vision 0.07,
    speech 0.05, text 0)."""
    block: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Side of a block in tokens. Vision: squares of patches that the student sees. Speech: runs of hidden frames. Text:
    single tokens alone, 1. Null: as published (vision 3, speech 5, text 1)."""


@dataclass(config=STRICT)
class DecoderConfig:
    """The convolutional decoder of `objective=v2`: it fills the hidden places, and predicts the targets there."""

    layers: Annotated[int | None, Field(ge=1, le=100)] = None
    """Convolutions of the decoder. Null: as published for Base (vision 6, speech 4, text 5)."""
    width: Annotated[int | None, Field(ge=1)] = None
    """Channels of the decoder. Null: as published for Base (vision 768, speech 384, text 768), in the proportion of
    `model.width` to 768, rounded to a multiple of the groups."""
    kernel: Annotated[int | None, Field(ge=1, le=255)] = None
    """Kernel of each convolution, in tokens; for images also in the other direction. Must be odd. Null: as published
    for Base (vision 3, speech 7, text 9)."""
    groups: Annotated[int | None, Field(ge=1)] = None
    """Groups of each convolution. Must divide `model.width` and `decoder.width`. Null: as published (vision and speech
    16, text 1)."""
    residual: bool | None = None
    """Add a convolution's input to its output where both have the same channels. Null: as published (vision and speech
    true, text false)."""
    hidden: Annotated[int | None, Field(ge=0)] = None
    """Channels of the hidden layer between the convolutions and the prediction. 0: the prediction is one linear layer.
    Null: as published (vision and speech 0, text 2 `decoder.width`)."""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Dropout rate of the decoder's input, in [0, 1). Null: as published (vision 0, speech and text 0.1)."""
