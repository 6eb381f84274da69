"""An example of every command, for its `--help`."""

from __future__ import annotations

EXAMPLES = {
    "pretrain": "recipe=vision_base_imagenet data.shards=/data/shards/photos run.dir=runs/photos",
    "config": "recipe=vision_base_imagenet model=large optimizer.lr=1e-3",
    "shards build": "source=imagefolder input=/data/photos/train output=/data/shards/photos",
    "shards validate": "shards=/data/shards/photos deep=true",
    "shards index": "shards='/data/theirs/train-{000000..000146}.tar'",
    "shards info": "shards=/data/shards/photos",
    "shards show": "shards=/data/shards/photos out=photos.html",
    "shards bench": "shards=/data/shards/photos workers=4",
    "export": "run=runs/photos out=exported/photos",
    "reshard": "run=runs/photos files=8",
    "probe": "run=runs/photos train_shards=/data/shards/photos test_shards=/data/shards/photos-val",
    "board": "run=runs/photos",
}
"""Command -> arguments."""
