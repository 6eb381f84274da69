"""The picture holds every card, and text stays within its width."""

import io

import numpy as np
from PIL import Image

from data_shards.showing.cards import Card, Picture
from data_shards.showing.sheet import sheet
from data_shards.showing.tokens import Token


def drawn(cards, title="t", notes=()):
    return np.asarray(Image.open(io.BytesIO(sheet(title, notes, cards))).convert("RGB"))


def holds(pixels, color):
    return (pixels == color).all(-1)


def picture(color, height, width):
    return Picture("p", np.full((height, width, 3), color, np.uint8))


RED, BLUE = (250, 0, 10), (0, 10, 250)


def test_pictures_stand_side_by_side_and_wide_ones_below_each_other():
    two = (picture(RED, 100, 100), picture(BLUE, 100, 100))
    beside, below = drawn([Card("k", "s", (), two)]), drawn([Card("k", "s", (), two, wide=True)])
    assert holds(beside, RED).sum() == holds(below, RED).sum() == 100 * 100
    rows, columns = (np.flatnonzero(holds(beside, color).any(1)) for color in (RED, BLUE))
    assert np.array_equal(rows, columns)
    assert np.flatnonzero(holds(below, RED).any(1)).max() < np.flatnonzero(holds(below, BLUE).any(1)).min()


def test_large_pictures_fit_their_card_and_a_spectrogram_keeps_its_height():
    large = drawn([Card("k", "s", (), (picture(RED, 256, 256),) * 3)])
    assert 3 * 150 < holds(large, RED).any(0).sum() < 500
    long = drawn([Card("k", "s", (), (picture(RED, 128, 2000),), wide=True)])
    assert holds(long, RED).any(0).sum() == 500 and holds(long, RED).any(1).sum() == 128


def test_all_cards_are_there_three_in_a_row():
    pixels = drawn([Card(f"k{i}", "s", (), (picture(RED, 50, 50),)) for i in range(7)])
    assert holds(pixels, RED).sum() == 7 * 50 * 50
    assert pixels.shape[1] == 3 * drawn([Card("k", "s")]).shape[1]


def test_tokens_and_long_names_wrap():
    tokens = tuple(Token(" word", state) for state in ("seen", "masked", "replaced") for _ in range(30))
    short, long = drawn([Card("k", "s")]), drawn([Card("k" * 500, "s", ("x " * 300,), tokens=tokens)])
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 200
    assert holds(long, (0xFF, 0xB9, 0x64)).any() and holds(long, (0x9F, 0xC8, 0xF0)).any()


def test_damaged_samples_have_a_red_frame():
    red = (0xC0, 0x30, 0x30)
    pixels = drawn([Card("k", "s"), Card("bad", "s", damage="checksum")])
    columns = np.flatnonzero(holds(pixels, red).any(0))
    assert columns.min() > pixels.shape[1] // 2 - 20
    assert not holds(drawn([Card("k", "s")]), red).any()


def test_signs_without_a_glyph_and_control_characters_are_no_error():
    assert drawn([Card("文\n\x00\udcff", "s", ("🙂",), tokens=(Token("你好", "seen"),))], "Ж\t").size
