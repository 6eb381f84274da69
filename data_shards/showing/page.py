"""A contact sheet as one HTML page, which loads nothing: pictures and recordings lie in it as data URLs."""

from __future__ import annotations

import base64
import html
import io
import wave
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from configs.signals import SAMPLE_RATE
from data_shards.showing.cards import Card, Picture
from data_shards.showing.tokens import Token

_STYLE = """
:root { color-scheme: light dark; --edge: #8886; --faint: #8882; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; }
h1 { font-size: 1.3em; margin: 0; overflow-wrap: anywhere; }
ul.notes { color: #777; padding-left: 1.2em; margin: .5em 0 1.2em; }
main { display: grid; gap: 1em; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30em), 1fr)); }
article { border: 1px solid var(--edge); border-radius: 6px; padding: .8em; min-width: 0; }
article.damaged { border: 2px solid #c33; background: #c331; }
h2 { font-size: 1em; margin: 0 0 .3em; overflow-wrap: anywhere; }
h2 small, figcaption, .facts { color: #777; font-weight: normal; font-size: .85em; overflow-wrap: anywhere; }
.facts { margin: .4em 0 0; padding: 0; list-style: none; }
.pictures { display: flex; gap: .5em; }
.pictures.wide { flex-direction: column; }
figure { margin: 0; min-width: 0; }
img { max-width: 100%; display: block; image-rendering: pixelated; }
audio { width: 100%; margin-top: .4em; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; }
.text span { border: 1px solid var(--faint); border-radius: 3px; }
.text .masked { background: #ff8c0099; border-color: #ff8c00; }
.text .replaced { background: #3a8dde66; border-color: #3a8dde; }
.damage { color: #c33; font-weight: bold; margin: 0; overflow-wrap: anywhere; }
"""


def page(title: str, notes: Sequence[str], cards: Iterable[Card]) -> bytes:
    """Return the page of these cards, encoded. title, notes: of the whole sheet."""
    return "".join(_parts(title, notes, cards)).encode("utf-8", "replace")


def _parts(title: str, notes: Sequence[str], cards: Iterable[Card]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width">\n'
    yield f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    yield f"<h1>{html.escape(title)}</h1>\n{_list('notes', notes)}<main>\n"
    yield from map(_article, cards)
    yield "</main>\n</body>\n</html>\n"


def _list(name: str, lines: Iterable[str]) -> str:
    return f'<ul class="{name}">' + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>\n"


def _article(card: Card) -> str:
    """One card."""
    head = f"<h2>{html.escape(card.key)} <small>{html.escape(card.shard)}</small></h2>"
    if card.damage:
        content = f'<p class="damage">damaged: {html.escape(card.damage)}</p>'
    else:
        figures = "".join(map(_figure, card.pictures))
        content = f'<div class="pictures{" wide" * card.wide}">{figures}</div>' if figures else ""
        content += _player(card.sound) if card.sound is not None else ""
        content += f'<div class="text">{"".join(map(_span, card.tokens))}</div>' if card.tokens else ""
    kind = ' class="damaged"' if card.damage else ""
    return f"<article{kind}>{head}{content}{_list('facts', card.facts)}</article>\n"


def _figure(picture: Picture) -> str:
    return f'<figure><img src="{_url("image/png", _png(picture.pixels))}" alt="{picture.title}">' \
           f"<figcaption>{picture.title}</figcaption></figure>"  # fmt: skip


def _player(sound: np.ndarray) -> str:
    return f'<audio controls preload="metadata" src="{_url("audio/wav", _wav(sound))}"></audio>'


def _span(token: Token) -> str:
    text = html.escape(token.text)
    seen = f"{html.escape(token.instead)} → " if token.state == "replaced" else ""
    return f'<span class="{token.state}">{seen}{text}</span>'


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _png(pixels: np.ndarray) -> bytes:
    """PNG of uint8 [h, w, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _wav(sound: np.ndarray) -> bytes:
    """WAV of int16 [S] at 16 kHz, mono."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(sound.astype("<i2").tobytes())
    return buffer.getvalue()
