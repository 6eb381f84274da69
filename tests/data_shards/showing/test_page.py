"""The page stands alone, and shows what people have named without taking it for HTML."""

import base64
import io
import wave
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from data_shards.showing.cards import Card, Picture
from data_shards.showing.page import page
from data_shards.showing.tokens import Token


class Parsed(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
SOUND = np.array([0, 1, -32768, 32767], np.int16)


def data_of(url: str, kind: str) -> bytes:
    head, _, content = url.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(content)


def test_pictures_and_recordings_lie_in_the_page():
    parsed = Parsed(page("t", [], [Card("k", "s", ("1 s",), (Picture("whole", PIXELS),), True, SOUND)]))
    (image,), (audio,) = parsed.of("img"), parsed.of("audio")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data_of(image["src"], "image/png")))), PIXELS)
    with wave.open(io.BytesIO(data_of(audio["src"], "audio/wav"))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert np.array_equal(np.frombuffer(file.readframes(9), "<i2"), SOUND)
    assert "controls" in audio and "whole" in parsed.text and not parsed.open


def test_nothing_is_loaded_from_elsewhere():
    card = Card("k", "s", (), (Picture("whole", PIXELS),), True, SOUND, (Token("a", "seen"),))
    content = page("s3://bucket/x", [], [card])
    parsed = Parsed(content)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"link", "script", "iframe", "object"})
    loaded = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(loaded) == 2 and all(value.startswith("data:") for value in loaded)
    assert b"url(" not in content and b"@import" not in content


def test_masked_and_replaced_tokens_are_marked():
    tokens = (Token("the", "seen"), Token(" cat", "masked"), Token(" sat", "replaced", " mat"))
    parsed = Parsed(page("t", [], [Card("k", "s", (), tokens=tokens)]))
    assert [attributes["class"] for attributes in parsed.of("span")] == ["seen", "masked", "replaced"]
    assert "the cat mat →  sat" in parsed.text


def test_names_are_text_and_never_html():
    name = '<script>alert("1")</script> & \udcff'
    cards = [Card(name, name, (name,), tokens=(Token(name, "replaced", name),)), Card(name, name, damage=name)]
    parsed = Parsed(page(name, [name], cards))
    assert not parsed.of("script") and not parsed.open
    assert parsed.text.count('<script>alert("1")</script> & ?') == 11  # title twice, note, 5 and 3 of the cards


def test_damaged_samples_are_marked():
    parsed = Parsed(page("t", [], [Card("k", "s"), Card("bad", "s", damage="checksum differs")]))
    assert [attributes.get("class") for attributes in parsed.of("article")] == [None, "damaged"]
    assert "damaged: checksum differs" in parsed.text
