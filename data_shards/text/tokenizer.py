"""Byte-level BPE (GPT-2's, with RoBERTa's special ids): trained here, or loaded from a vocabulary in files.

A folder holds the files that Transformers' RobertaTokenizer loads: vocab.json and merges.txt, and two files of
settings. Ids are <s> 0, <pad> 1, </s> 2, <unk> 3, then the types, and <mask> last.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_shards.files import replace_text
from data_shards.shards.index_file import TokenizerEntry

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""Types 0 to 3."""
MASK = "<mask>"
"""The last type."""
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""Files of a tokenizer's folder."""

_FILLERS = ("madeupword0000", "madeupword0001", "madeupword0002")  # fill up to RoBERTa's 50,265; no text gives them
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": MASK,
}

Merges = list[tuple[str, str]]

_PIECE = 2**16
_LONGEST_WORD = 256
_PRE = pre_tokenizers.ByteLevel(add_prefix_space=False)
_RUN = re.compile(rf"\S{{{_LONGEST_WORD},}}|\s{{{_LONGEST_WORD},}}")


class Tokenizer:
    """A byte-level BPE: text <-> ids. A text that spells a special token never gives that token's id."""

    def __init__(self, vocab: dict[str, int], merges: Merges) -> None:
        """Make the tokenizer.

        Raises ValueError if the vocabulary is not like RoBERTa's: special ids, all 256 bytes, ids without gaps.
        """
        _check(vocab, merges)
        self.vocab = vocab
        self.merges = merges
        self._backend = _backend(models.BPE(vocab=vocab, merges=merges))

    @property
    def vocab_size(self) -> int:
        """Number of types, special ones included."""
        return len(self.vocab)

    @cached_property
    def sha256(self) -> str:
        """Hash of types and merges, independent of the layout of the files."""
        facts = (sorted(self.vocab.items(), key=lambda item: item[1]), self.merges)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def entry(self) -> TokenizerEntry:
        """The tokenizer's entry in index.json."""
        return TokenizerEntry(self.sha256, self.vocab_size)

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Every type by its id, in the byte alphabet of GPT-2."""
        return tuple(sorted(self.vocab, key=self.vocab.__getitem__))

    def encode(self, text: str) -> array:
        """Return the ids of a text, without <s> and </s>, as an array of type "I".

        A long text takes little memory beside its ids, and time that grows with its length.
        """
        ids = array("I")
        for piece in pieces(text):
            ids.extend(self._backend.encode(piece, add_special_tokens=False).ids)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special ids give their names."""
        text, plain = "", list[int]()
        for i in ids:
            if i < len(SPECIALS) or i == self.vocab_size - 1:
                text, plain = text + self._backend.decode(plain) + self.types[i], []
            else:
                plain.append(i)
        return text + self._backend.decode(plain)

    @property
    def files(self) -> dict[str, str]:
        """Content of the folder's files, by name."""
        config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "errors": "replace", **_ROLES}
        merges = "".join(f"{left} {right}\n" for left, right in self.merges)
        vocab = json.dumps({name: i for i, name in enumerate(self.types)}) + "\n"
        settings = (json.dumps(values, indent=1) + "\n" for values in (config, _ROLES))
        return dict(zip(FILES, (vocab, f"#version: 0.2\n{merges}", *settings), strict=True))

    def save(self, folder: Path) -> None:
        """Write the folder's files. Each is the old or the new one, at whatever moment the process is killed."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            replace_text(folder / name, text)


def pieces(text: str, longest: int = _PIECE) -> Iterator[str]:
    """Yield a text in pieces of at most `longest` characters, which give the same ids one by one as the whole text.

    A text is cut between a letter or digit and the white space or Chinese punctuation after it: there, words end in any
    context. A run of `longest` characters without such a place is cut at its end, which changes the ids around it.
    """
    if len(text) <= longest:
        yield text
        return
    to_boundary, begin = re.compile(rf".{{1,{longest}}}(?<=[^\W_])(?=[ \n。，！？、；：])", re.DOTALL), 0
    while len(text) - begin > longest:
        found = to_boundary.match(text, begin)
        end = found.end() if found else begin + longest
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _short_words(text: str) -> Iterator[str]:
    """Yield a text in parts whose words have at most _LONGEST_WORD characters; longer words are cut.

    Training looks at a whole word for each merge in it: a word of a million letters would take days.
    """
    for piece in pieces(text):
        if not _RUN.search(piece):
            yield piece
            continue
        for _, (begin, end) in _PRE.pre_tokenize_str(piece):
            yield from (piece[start : min(start + _LONGEST_WORD, end)] for start in range(begin, end, _LONGEST_WORD))


def _backend(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = _PRE
    backend.decoder = decoders.ByteLevel()
    return backend


def _check(vocab: dict[str, int], merges: Merges) -> None:
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError("the ids of its types are not 0, 1, 2, ...")
    wanted = {**{name: i for i, name in enumerate(SPECIALS)}, MASK: len(vocab) - 1}
    if wrong := [name for name, i in wanted.items() if vocab.get(name) != i]:
        raise ValueError(f"{wrong[0]} has id {vocab.get(wrong[0])}, RoBERTa's is {wanted[wrong[0]]}")
    if missing := set(pre_tokenizers.ByteLevel.alphabet()) - vocab.keys():
        raise ValueError(f"{len(missing)} of the 256 bytes are no type, as {min(missing)!r}: not a byte-level BPE")
    if lost := [pair for pair in merges if not {*pair, "".join(pair)} <= vocab.keys()]:
        raise ValueError(f"merge {' '.join(lost[0])!r} has parts that are no type: the files do not belong together")


def _with_specials(types: Iterable[str]) -> dict[str, int]:
    """Return the vocabulary of other types, in their order, between the special ones."""
    named = [name for name in types if name not in (*SPECIALS, MASK)]
    return {name: i for i, name in enumerate((*SPECIALS, *named, MASK))}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE of at most `vocab_size` types, special ones included; fewer if the texts give no more merges."""
    backend = _backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS) - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((part for text in texts for part in _short_words(text)), trainer)
    trained = json.loads(backend.to_str())["model"]
    types = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    # A text full of "<s>" would merge its way to the special type.
    merges = [(left, right) for left, right in trained["merges"] if left + right not in (*SPECIALS, MASK)]
    return Tokenizer(_with_specials(types), merges)


def _files(path: Path) -> tuple[Path, Path]:
    """Return the files of types and merges, in the folder `path` or beside the file `path`.

    Raises ValueError if there are none.
    """
    folder = path if path.is_dir() else path.parent
    for names in _PAIRS:
        if all((folder / name).is_file() for name in names) and (path == folder or path.name in names):
            return folder / names[0], folder / names[1]
    raise ValueError(f"{path} has neither {' and '.join(_PAIRS[0])} nor {' and '.join(_PAIRS[1])}")


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of a folder (or of one of its files) in RoBERTa's form or in GPT-2's.

    GPT-2's ids move up by four. Raises ValueError if the files are missing, damaged or of another kind.
    """
    types_file, merges_file = _files(path)
    try:
        vocab = json.loads(types_file.read_text("utf-8"))
        lines = merges_file.read_text("utf-8").removesuffix("\n").split("\n")  # splitlines() would split at more
        pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
        merges = [(left, right) for left, right in pairs]
        if "<s>" not in vocab:
            vocab = _with_specials([*sorted(vocab, key=vocab.__getitem__), *_FILLERS])
        return Tokenizer(vocab, merges)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{types_file}, {merges_file.name}: not a byte-level BPE like RoBERTa's: {error}") from None
