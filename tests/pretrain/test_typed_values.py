"""Every value that a user can type for a key of any command gives a run, or a mistake that names the key."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Literal, get_args, get_origin

import pytest

from configs import compose, schema_commands
from configs.compose import compose_pretrain, parse
from configs.keys import Key, flat, leaf_keys, plain
from configs.schema import PretrainConfig
from pretrain import launch
from pretrain.launching import resolved
from pretrain.launching.plan import Machine
from tests.data_shards.shard_tools import make_shards
from tests.integration.made_up import tiny

COMMANDS = [cls for name, cls in vars(schema_commands).items() if name.endswith("Config")]
KEYS = leaf_keys(PretrainConfig)
NUMBERS = [
    "0", "1", "2", "3", "7", "8", "16", "100", "1000", "-1", "-0", "+5", "007", "0.5", "-0.5", "1.0", "1.5", "1e3",
    "1e-300", "1e308", "1e400", "2147483647", "2147483648", "-2147483649", "9223372036854775808", "9" * 30, "9" * 5000,
    "0x10", "1_000", "0b1", "1e", ".5", "5.", "1/2", "50%", "inf", "-inf", "+inf", "Infinity", "nan", "NaN", "-nan",
]  # fmt: skip
WORDS = [
    "", "null", "None", "true", "false", "True", "on", "off", "yes", "no", "none", "auto", "x", "a b", " ", "  x  ",
    "a=b", "=", "a,b", "1,2", ",", "#", "a#b", "@x", "&x", "*x", "!!python/object:os.system", "|", ">", "-", "--help",
    "???", "1:2", "12:30:45", "2020-01-01", "<mask>", "%n", "%s", "{}", "{0}", "$HOME", "\\", "a\\nb", "`x`", "a;b",
    "ünï", "日本", "🙂", "e\u0301", "\u00a0", "\u200b", "\ufeff", "a\nb", "a\rb", "a\tb", "\x1b[31m", "\u2028", "\x85",
    "\udcff", "'", '"', "''", '""', "'a", "a'b", "'a b'", '"a\'b"', "((", "(1,2)", "[", "]", "[]", "[[]]", "[1]",
    "[1,2]", "[1,2,3]", "[0.1,0.2]", "[1,x]", "[true,false]", "[null]", "[nan,0,0]", "[1,[2]]", "[,]", "[1,,2]",
    "[a,b]", "['a','b']", "{", "}", "{a:1}", "{a:{b:1}}", "{a}", "[{a:1}]", "${model.width}", "${", "${}", "${nothing}",
    "${oc.env:HOME}", "${model}", "choice(1,2)", "range(1,5)", "interval(0,1)", "glob(*)", "int(1)", "sort(1)",
]  # fmt: skip
PATHS = [
    "~", "~/x", "~nobody-of-that-name/x", "./~", "x/~", ".", "./x", "x/", "x//y", "a" * 300, "a/" * 2500, "/dev/null",
    "/dev/null/x", "/proc/self/x", "/nothing/x", "s3://b/x", "file:///nothing", "file://", "http://", "http://[::1",
    "s3://", "nope://x", "://x", "**", "*", "?", "[a-", "x-{1..3}.tar", "x-{1..}", "{a,b", "{1..3", "x.tar", "x-*.tar",
]  # fmt: skip


def sensible(key: Key, chance: random.Random) -> str:
    """A value of the key's own type, often at a bound."""
    kinds = [kind for kind in (key.kind, *get_args(key.kind)) if kind is not type(None)]
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return str(chance.choice(choices))
    number = chance.choice([chance.randrange(-2, 40), 2 ** chance.randrange(40), round(chance.uniform(-1, 2), 3)])
    if key.values:
        return f"[{','.join([str(number)] * key.values)}]"
    return str(number)


def value_of(key: Key, chance: random.Random) -> str:
    """Any value."""
    match chance.randrange(6):
        case 0 | 1:
            return sensible(key, chance)
        case 2 | 3:
            return chance.choice(NUMBERS)
        case 4:
            return chance.choice(WORDS)
        case _:
            return chance.choice(PATHS)


def trials(keys: dict[str, Key], count: int, seed: int) -> Iterator[list[str]]:
    """Arguments with one key, or with several."""
    chance = random.Random(seed)
    for _ in range(count):
        names = chance.choices(list(keys), k=chance.choice([1, 1, 1, 2, 4]))
        yield [f"{name}={value_of(keys[name], chance)}" for name in dict.fromkeys(names)]


def is_told(error: ValueError, arguments: list[str]) -> bool:
    """True if each line of the error is one on a screen, and names a key or repeats what was typed."""
    lines = str(error).splitlines()
    typed = [part[:20] for argument in arguments for part in (argument.partition("=")[0], argument.partition("=")[2])]
    assert lines and all(line.strip() and line == line.strip() for line in lines), lines
    assert not any(sign in str(error) for sign in ("object at 0x", "Traceback", "\x1b")), error
    return any(part and (part in str(error) or ascii(part)[1:-1] in str(error)) for part in typed)


def told_or_taken(attempt: Callable[[list[str]], object], arguments: list[str]) -> None:
    """Assert that the arguments are taken, or that the mistake is a ValueError of our own that names the key."""
    try:
        attempt(arguments)
    except ValueError as error:
        assert type(error) is ValueError and is_told(error, arguments), (ascii(arguments), ascii(str(error)))


@pytest.fixture
def once(monkeypatch) -> None:
    """Each choice of YAML files is composed only once: it takes hydra a tenth of a second."""
    composed = functools.cache(lambda groups, hydra=compose._hydra: hydra(list(groups)))
    monkeypatch.setattr(compose, "_hydra", lambda groups: deepcopy(composed(tuple(groups))))


def test_values_of_a_run(tmp_path, monkeypatch, once, capsys) -> None:
    """Up to the start of its processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(resolved, "this_machine", lambda: Machine(gpus=[], cores=4))
    monkeypatch.setattr(launch, "supervise", lambda job: started.append(job))
    started: list[object] = []
    run = [*tiny("vision", 16, 4), f"data.shards={make_shards(tmp_path / 'shards', (30, 20))}", "run.dir=run"]
    for arguments in trials(KEYS, 200, seed=0):
        told_or_taken(lambda own: launch.main([*run, *own]), arguments)
    assert 20 < len(started) < 180
    assert [path.name for path in tmp_path.iterdir()] == ["shards"], "nothing is made before the ranks start"


@pytest.mark.parametrize("cls", COMMANDS, ids=lambda cls: cls.__name__)
def test_values_of_other_commands(cls, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = leaf_keys(cls)
    needed = [f"{name}={'demo' if name == 'source' else 'x'}" for name, key in keys.items() if key.required]
    for arguments in trials(keys, 300, seed=0):
        told_or_taken(lambda own: parse(cls, [*needed, *own]), arguments)


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    run = {"run.dir", "init", "cluster.hostfile", "data.cache_dir"}
    values = flat(plain(compose_pretrain([f"{key}=~/x" for key in run])))
    assert {values[key] for key in run} == {"/home/me/x"}
    assert parse(schema_commands.ExportConfig, ["run=~", "out=~/out"]).out == "/home/me/out"
    built = parse(schema_commands.BuildConfig, ["source=jsonl", "input=~/in", "output=~/out", "tokenizer=~/t"])
    assert (built.input, built.output, built.tokenizer) == ("/home/me/in", "/home/me/out", "/home/me/t")
    for cls in (schema_commands.ReshardConfig, schema_commands.ProbeCommandConfig, schema_commands.BoardConfig):
        assert parse(cls, ["run=~/x"]).run == "/home/me/x"
