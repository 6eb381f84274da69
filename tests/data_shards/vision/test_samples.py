import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from configs.schema import PretrainConfig
from configs.schema_modalities import VisionConfig
from data_shards.shards.bad_sample import BadSample
from data_shards.vision import decoding
from data_shards.vision import samples as image_module
from data_shards.vision.samples import CROP_DRAWS, Images, augment, centre_crop, color_jitter, crop_box, decode
from tests.data_shards.shard_tools import SMALL, encoded
from tests.own import own

PUBLISHED = VisionConfig(exif_orientation=False)


RNG = np.random.default_rng(0)


def with_exif(orientation, kind, size=(40, 30)):
    """A picture whose corners differ, stored with an EXIF orientation."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(encoded(3, size=size))).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(kind, orientation):
    """All of it, its random crop and the evaluation's, next to Pillow's exif_transpose of the pixels."""
    data = with_exif(orientation, kind)
    stored = Image.open(io.BytesIO(data))
    seen = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.abs(decode(data).astype(int) - seen).max() <= 1
    assert decode(data, PUBLISHED).shape == (30, 40, 3)
    upright = png(seen)
    for draws in RNG.random((3, CROP_DRAWS + 1)):
        pixels, mean = augment(data, draws, SMALL)
        expected, expected_mean = augment(upright, draws, SMALL)
        assert (pixels.int() - expected.int()).abs().max() <= 2 and mean == pytest.approx(expected_mean, abs=0.01)
    assert (centre_crop(data, 28).int() - centre_crop(upright, 28).int()).abs().max() <= 2


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_decoding_at_a_fraction_turns_too(orientation):
    data = with_exif(orientation, "JPEG", (1200, 900))
    draws = np.concatenate([[0.5, 0.9, 0.2, 0.8] * (CROP_DRAWS // 4), [0.9]])
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    box = crop_box(whole.height, whole.width, draws[:CROP_DRAWS], VisionConfig())
    image, _ = image_module._decode_crop(data, draws[:CROP_DRAWS], VisionConfig())
    assert image.shape[0] < whole.height and (image.shape[0] > image.shape[1]) == (whole.height > whole.width)
    slow = whole.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    slow = np.asarray(slow.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(augment(data, draws, VisionConfig())[0].permute(1, 2, 0).numpy() - slow).mean() < 2


@pytest.mark.parametrize("data", [b"", b"x" * 100, encoded(0)[:300], encoded(0, "PNG")[:200], b"\xff\xd8\xff\xe0"])
def test_damage_is_a_bad_sample(data):
    for use in (decode, lambda d: augment(d, np.zeros(CROP_DRAWS + 1), SMALL), lambda d: centre_crop(d, 28)):
        with pytest.raises(BadSample):
            use(data)


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("WEBP", "RGB"), ("BMP", "RGB")]
)
def test_images_of_too_many_pixels_are_not_decoded(kind, mode, monkeypatch):
    """Neither where the limit is below Pillow's own nor where it is above."""
    data, vision = encoded(0, kind, mode=mode), replace(SMALL, max_pixels=1199)
    monkeypatch.setattr(Image.Image, "convert", None)
    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", None)
    for use in (decode, lambda d, v: augment(d, np.zeros(CROP_DRAWS + 1), v), lambda d, v: centre_crop(d, 28, v)):
        with pytest.raises(BadSample, match=r"40 x 30 pixels, more than vision\.max_pixels=1199") as error:
            use(data, vision)
        assert error.value.kind == "too_large"


def test_a_sample_without_an_image():
    with pytest.raises(BadSample, match="no image among its members: cls, txt"):
        Images(own(PretrainConfig())).load({"txt": b"", "cls": b""}, np.zeros(41), 0)


def test_crops_follow_the_published_distribution():
    vision = VisionConfig()
    boxes = [crop_box(375, 500, draws, vision) for draws in RNG.random((4000, CROP_DRAWS))]
    areas = np.array([b.height * b.width / (375 * 500) for b in boxes])
    ratios = np.array([b.width / b.height for b in boxes])
    assert all(0 <= b.top <= 375 - b.height and 0 <= b.left <= 500 - b.width for b in boxes)
    assert areas.min() > 0.079 and areas.max() <= 1
    assert np.quantile(areas, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.42, 0.59], abs=0.02)  # torchvision's, drawn
    assert ratios.min() > 0.74 and ratios.max() < 1.35
    assert max(b.top + b.height for b in boxes) == 375 and max(b.left + b.width for b in boxes) == 500


@pytest.mark.parametrize(("height", "width", "box"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_narrow_images_get_the_central_crop(height, width, box):
    draws = np.tile([0.99, 0.5, 0, 0], CROP_DRAWS // 4)
    assert tuple(crop_box(height, width, draws, VisionConfig())) == box


def test_one_pixel_images_survive():
    pixels, mean = augment(encoded(0, "PNG", (1, 1)), RNG.random(CROP_DRAWS + 1), SMALL)
    assert pixels.shape == (3, 28, 28) and (pixels.flatten(1).double().mean(1) / 255).numpy() == pytest.approx(mean)


def test_crop_resize_and_flip_agree_with_pillow():
    data = encoded(5, "PNG", (300, 200))
    source = Image.open(io.BytesIO(data)).convert("RGB")
    for draws in RNG.random((20, CROP_DRAWS + 1)):
        box = crop_box(200, 300, draws[:CROP_DRAWS], VisionConfig())
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        expected = source.crop(area).resize((224, 224), Image.Resampling.BICUBIC)
        if draws[CROP_DRAWS] < 0.5:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels, _ = augment(data, draws, VisionConfig())
        assert pixels.dtype == torch.uint8 and pixels.shape == (3, 224, 224)
        assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 2


def test_decoding_at_a_fraction_changes_little():
    """A 1200 x 900 JPEG is decoded at 3/8 of its size where the crop still has 1.5 times the pixels needed."""
    data = encoded(5, size=(1200, 900))
    draws = np.concatenate([[0.95, 0.5, 0.5, 0.5] * (CROP_DRAWS // 4), [0.9]])
    box = crop_box(900, 1200, draws[:CROP_DRAWS], VisionConfig())
    image, scaled = image_module._decode_crop(data, draws[:CROP_DRAWS], VisionConfig())
    assert image.shape == (338, 450, 3)
    assert scaled == pytest.approx([value * 3 / 8 for value in box], abs=1)
    fast, _ = augment(data, draws, VisionConfig())
    slow = Image.open(io.BytesIO(data)).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    slow = np.asarray(slow.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(fast.permute(1, 2, 0).numpy() - slow).mean() < 1


def test_the_mean_colour_is_that_of_the_whole_image():
    data = encoded(1, "PNG", (60, 700))  # more lines than a 16-bit sum holds
    _, mean = augment(data, RNG.random(CROP_DRAWS + 1), VisionConfig())
    assert mean == pytest.approx(decode(data).mean((0, 1)) / 255)


def draws_of(factors, order, strength=0.4):
    return np.array([[*((np.array(factors) - 1) / strength + 1) / 2, (order + 0.5) / 6]])


@pytest.mark.parametrize("order", range(6))
def test_the_jitter_is_pillows_in_the_same_order(order):
    """Brightness, contrast, saturation one after another by Pillow, on an image that none of them clips."""
    pixels = (decode(encoded(9)).astype(int) // 4 + 90).astype(np.uint8)
    factors = (1.1, 0.8, 1.3)
    expected = Image.fromarray(pixels)
    for operation in image_module._ORDERS[order]:
        enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
        expected = enhance(expected).enhance(factors[operation])
    color = color_jitter(pixels.mean((0, 1))[None] / 255, draws_of(factors, order), 0.4)[0]
    ours = pixels / 255 @ color[:, :3].T + color[:, 3]
    assert np.abs(ours * 255 - np.asarray(expected)).max() < 4  # Pillow rounds after each


def test_jitter_off_is_the_identity_and_its_range_is_the_strength():
    identity = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1)
    assert color_jitter(RNG.random((4, 3)), RNG.random((4, 4)), 0.0) == pytest.approx(np.tile(identity, (4, 1, 1)))
    brightest = color_jitter(np.full((1, 3), 0.5), draws_of((1.4, 1, 1), 0), 0.4)
    assert brightest[0, :, :3] == pytest.approx(1.4 * np.eye(3), abs=1e-6)


def test_evaluation_keeps_small_images_and_crops_large_ones():
    small = encoded(0, "PNG", (28, 28))
    assert np.array_equal(centre_crop(small, 28).permute(1, 2, 0), decode(small))
    large = encoded(0, "PNG", (512, 256))
    source = Image.open(io.BytesIO(large)).crop((256 - 112, 16, 256 + 112, 240))
    assert np.array_equal(centre_crop(large, 224).permute(1, 2, 0), np.asarray(source))
    assert centre_crop(encoded(0, "PNG", (100, 37)), 224).shape == (3, 224, 224)


def test_flips_happen_half_of_the_time():
    data = encoded(2, "PNG", (28, 28))
    draws = np.tile([1.0 - 1e-9, 0.5, 0, 0], CROP_DRAWS // 4)
    plain = augment(data, np.append(draws, 0.5), SMALL)[0]
    flipped = augment(data, np.append(draws, 0.4999), SMALL)[0]
    assert torch.equal(plain.flip(-1), flipped) and not torch.equal(plain, flipped)


@pytest.mark.parametrize("size", [(900, 100), (100, 900), (4000, 50)])
def test_the_middle_of_a_thin_image_is_that_of_the_whole_resized(size):
    """Only the middle is resized: resized as a whole, a thin image would take memory without bound."""
    source = Image.open(io.BytesIO(encoded(1, "PNG", size))).convert("RGB")
    scaled = source.resize([round(side * 256 / min(size)) for side in size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in scaled.size)
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224))).astype(int)
    found = centre_crop(encoded(1, "PNG", size), 224).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).mean() < 1


def test_the_mean_colour_of_a_wide_image_is_summed_in_parts():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 150_000, 3), np.uint8)
    _, mean = augment(png(pixels), np.zeros(CROP_DRAWS + 1), SMALL)
    assert np.array_equal(mean, pixels.reshape(-1, 3).sum(0) / (255.0 * 450_000))
