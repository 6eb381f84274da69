"""A contact sheet as one PNG picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_shards.showing.cards import Card, Picture
from data_shards.showing.tokens import State, Token

_WIDTH, _COLUMNS = 500, 3
"""Pixels of a card inside its frame, and cards side by side."""
_MARGIN, _GAP, _SIZE, _LINE = 10, 8, 13, 18
"""Pixels around a card, between its pictures, of letters, and from line to line."""
_INK, _FAINT, _DAMAGE, _PAPER = "#202020", "#707070", "#c03030", "#ffffff"
_MARKS: dict[State, str] = {"seen": "#f0f0f0", "masked": "#ffb964", "replaced": "#9fc8f0"}
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf")
"""Fonts of many scripts; Pillow's own has Latin letters only."""


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _SIZE)
        except OSError:
            continue
    return ImageFont.load_default(_SIZE)


def sheet(title: str, notes: Sequence[str], cards: Sequence[Card]) -> bytes:
    """Return the picture of these cards as PNG. title, notes: of the whole sheet."""
    columns = min(_COLUMNS, len(cards))
    rows = [[_framed(card) for card in cards[i : i + columns]] for i in range(0, len(cards), columns)]
    step = _WIDTH + 4 * _MARGIN
    head = _lines([(title, _INK), *((note, _FAINT) for note in notes)], columns * step - 2 * _MARGIN)
    blocks = [head, *(_beside(row, step) for row in rows)]
    whole = _below(blocks, columns * step, _MARGIN)
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()


def _framed(card: Card) -> Image.Image:
    """One card in its frame."""
    parts = [_lines([(f"{card.key}   {card.shard}", _INK)], _WIDTH)]
    if card.damage:
        parts.append(_lines([(f"damaged: {card.damage}", _DAMAGE)], _WIDTH))
    if card.pictures:
        parts.append(_pictures(card.pictures, card.wide))
    if card.tokens:
        parts.append(_text(card.tokens))
    parts.append(_lines([(fact, _FAINT) for fact in card.facts], _WIDTH))
    content = _below(parts, _WIDTH, 4)
    framed = Image.new("RGB", (_WIDTH + 2 * _MARGIN, content.height + 2 * _MARGIN), _PAPER)
    framed.paste(content, (_MARGIN, _MARGIN))
    edge = (0, 0, framed.width - 1, framed.height - 1)
    ImageDraw.Draw(framed).rectangle(edge, outline=_DAMAGE if card.damage else _FAINT, width=2 if card.damage else 1)
    return framed


def _pictures(pictures: Sequence[Picture], wide: bool) -> Image.Image:
    """Pictures with their titles: one below the other if they are wide, else side by side."""
    width = _WIDTH if wide else (_WIDTH - _GAP * (len(pictures) - 1)) // len(pictures)
    shown = [_below([_fitted(p.pixels, width), _lines([(p.title, _FAINT)], width)], width, 0) for p in pictures]
    return _below(shown, width, 2) if wide else _beside(shown, width + _GAP)


def _fitted(pixels: np.ndarray, width: int) -> Image.Image:
    """Picture of uint8 [h, w, 3], reduced to at most `width` pixels from left to right; a wide one keeps its height."""
    image = Image.fromarray(pixels)
    if image.width <= width:
        return image
    height = image.height if image.width > 2 * image.height else round(image.height * width / image.width)
    return image.resize((width, height), Image.Resampling.BOX)


def _text(tokens: Sequence[Token]) -> Image.Image:
    """Tokens on coloured ground, wrapped."""
    placed, x, y = list[tuple[int, int, int, Token, str]](), 0, 0
    for token in tokens:
        text = f"{token.instead} → {token.text}" if token.state == "replaced" else token.text
        for piece in _cut(text):
            width = round(_length(piece))
            if x and x + width > _WIDTH:
                x, y = 0, y + _LINE + 4
            placed.append((x, y, width, token, piece))
            x += width + 2
    image = Image.new("RGB", (_WIDTH, y + _LINE + 2), _PAPER)
    draw = ImageDraw.Draw(image)
    for x, y, width, token, piece in placed:
        draw.rectangle((x, y, x + width, y + _LINE), fill=_MARKS[token.state])
        draw.text((x, y + 1), piece, fill=_INK, font=_font())
    return image


def _lines(lines: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """Lines of text with their colours, wrapped."""
    wrapped = [(line, color) for text, color in lines for line in _wrapped(text, width)]
    image = Image.new("RGB", (width, max(1, _LINE * len(wrapped))), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, (line, color) in enumerate(wrapped):
        draw.text((0, number * _LINE), line, fill=color, font=_font())
    return image


def _length(text: str) -> float:
    return _font().getlength(text)


def _cut(text: str, width: int = _WIDTH) -> Iterator[str]:
    """Yield a text in pieces of at most `width` pixels."""
    while len(text) > 1 and _length(text) > width:
        count = max(1, int(len(text) * width / _length(text)))
        while count > 1 and _length(text[:count]) > width:
            count -= 1
        yield text[:count]
        text = text[count:]
    yield text


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels, cut at blanks where there are any."""
    lines = [""]
    for word in "".join(sign if sign.isprintable() else "·" for sign in text).split(" "):
        for piece in _cut(word, width):
            joined = f"{lines[-1]} {piece}" if lines[-1] else piece
            if _length(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
    return lines


def _joined(
    parts: Sequence[Image.Image], size: tuple[int, int], place: Callable[[int], tuple[int, int]]
) -> Image.Image:
    """Picture of `size` with part i at `place(i)`."""
    image = Image.new("RGB", size, _PAPER)
    for number, part in enumerate(parts):
        image.paste(part, place(number))
    return image


def _beside(parts: Sequence[Image.Image], step: int) -> Image.Image:
    """Parts side by side, `step` pixels from one to the next."""
    size = step * (len(parts) - 1) + parts[-1].width, max(part.height for part in parts)
    return _joined(parts, size, lambda number: (number * step, 0))


def _below(parts: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Parts one below the other, with `gap` pixels around each."""
    tops = [gap + sum(part.height + gap for part in parts[:number]) for number in range(len(parts) + 1)]
    return _joined(parts, (width, tops[-1]), lambda number: (gap if gap == _MARGIN else 0, tops[number]))
