"""`python -m data_shards build|validate|index key=value ...`: making and checking shards (./run.sh shards)."""

from __future__ import annotations

import sys

from configs.compose import parse
from configs.schema import BuildConfig, ShardsConfig
from data_shards.build import build
from data_shards.indexer import index_shards
from data_shards.validate import validate_shards

USAGE = """usage: ./run.sh shards build source=imagefolder input=DIR output=DIR [name=train] [shard_mb=256] [workers=N]
       ./run.sh shards build source=demo output=DIR [input=DIR]
       ./run.sh shards validate shards=PATTERN
       ./run.sh shards index shards=PATTERN"""


def _run(command: str, arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    match command:
        case "build":
            lines = build(parse(BuildConfig, arguments))
        case "index":
            lines = index_shards(parse(ShardsConfig, arguments).shards)
        case "validate":
            lines, shards = validate_shards(parse(ShardsConfig, arguments).shards)
            if not lines:
                print(f"{shards} shards are as their index says")
                return 0
            print("\n".join(lines))
            print(f"{len(lines)} differences in {shards} shards", file=sys.stderr)
            return 1
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    print("\n".join(lines))
    return 0


def main() -> int:
    """Exit status: 0, 1 for an error or a difference, 2 for wrong usage, 130 after Ctrl-C."""
    command, *arguments = sys.argv[1:] or [""]
    try:
        return _run(command, arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
