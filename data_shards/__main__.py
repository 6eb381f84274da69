"""`python -m data_shards build|validate|index|info|show|bench key=value ...`: making and checking shards."""

from __future__ import annotations

import sys
from typing import NoReturn

from configs.checks.nearest import nearest
from configs.command import FAILED, MISTAKE, fail, run
from configs.output.lines import say
from configs.output.secrets import masked
from configs.output.stages import LOADING_TORCH, stage
from configs.schema_commands import BenchConfig, BuildConfig, IndexConfig, InfoConfig, ShowConfig, ValidateConfig
from data_shards.leftovers import remove_leftovers
from data_shards.making.build import build
from data_shards.making.indexer import index_shards
from data_shards.making.info import describe
from data_shards.making.validate import validate_shards

USAGE = """usage: ./run.sh shards build source=SOURCE input=PATH output=DIR [name=train] [shard_mb=256] [workers=N] ...
           imagefolder                  class folders, one flat folder, or a TSV or CSV manifest
           audiofolder                  the same with recordings; LibriSpeech's layout; Common Voice's tables
                                        [min_seconds=2] [segment_seconds=20]
           textfiles | jsonl | parquet  a folder or a file of documents [tokenizer=DIR] [vocab_size=50265]
                                        [max_tokens=512] [pack=full] [documents=lines] [label_field=NAME]
           jsonl | parquet              tables of images or recordings [data_field=NAME] [label_field=NAME]
           webdataset                   tars of other tools: folders, URLs, pipe:COMMAND [data_field='jpg;png']
       ./run.sh shards build source=demo|demo_speech|demo_text output=DIR [input=DIR]
       ./run.sh shards validate shards=PATTERN [deep=true] [workers=N]   every difference from the index
       ./run.sh shards index shards=PATTERN                             for tars that others built
       ./run.sh shards info shards=PATTERN [deep=true] [n=1000]         counts, lengths, classes, what is amiss
       ./run.sh shards show shards=PATTERN out=FILE.html|png [n=12] [recipe=NAME] [vision.image_size=96] ...
           samples as decoded, augmented and masked, with keys and labels; recordings can be played on the page
       ./run.sh shards bench shards=PATTERN [workers=2] [batch=64]      samples/s of reading, decoding and loading
COMMAND --help lists its keys."""

_SHOWN = 20
"""Shards that `index` lists because they cannot be indexed."""


def _build(config: BuildConfig) -> None:
    print("\n".join(build(config)))


def _index(config: IndexConfig) -> None:
    lines, refused = index_shards(config.shards)
    for line in lines:
        print(line, flush=True)
    if len(refused) > _SHOWN:
        refused[_SHOWN:] = [f"... and {len(refused) - _SHOWN} shards more"]
    if refused:
        fail("\n".join(refused), FAILED)


def _info(config: InfoConfig) -> None:
    for line in describe(config.shards, config.deep, config.n, config.workers):
        print(masked(line), flush=True)


def _show(config: ShowConfig) -> None:
    with stage(LOADING_TORCH):
        from data_shards.showing.show import show

    print(masked("\n".join(show(config))))


def _bench(config: BenchConfig) -> None:
    with stage(LOADING_TORCH):
        from data_shards.loading.bench import bench

    for line in bench(config):
        print(masked(line), flush=True)


def _validate(config: ValidateConfig) -> None:
    differences, shards = validate_shards(config.shards, config.deep, config.workers)
    if not differences:
        print(f"{shards} shards are as their index says")
        return
    print("\n".join(differences))
    fail(f"{len(differences)} differences in {shards} shards", FAILED)


def _wrong(command: str) -> NoReturn:
    """Name the nearest command, if one was given at all, and show all of them."""
    if command:
        near = nearest(command, ["bench", "build", "index", "info", "show", "validate"])
        say(f"error: unknown command '{command}'" + (f": did you mean '{near}'?" if near else ""))
    say(USAGE)
    sys.exit(MISTAKE)


def main(arguments: list[str]) -> None:
    """Run a command; it ends the process as `configs.command.run` says, and with 1 for a difference from the index."""
    remove_leftovers()
    command, *arguments = arguments or [""]
    match command:
        case "bench":
            run(BenchConfig, _bench, arguments)
        case "build":
            run(BuildConfig, _build, arguments)
        case "index":
            run(IndexConfig, _index, arguments)
        case "info":
            run(InfoConfig, _info, arguments)
        case "show":
            run(ShowConfig, _show, arguments)
        case "validate":
            run(ValidateConfig, _validate, arguments)
        case "-h" | "--help":
            print(USAGE)
        case _:
            _wrong(command)


if __name__ == "__main__":
    main(sys.argv[1:])
