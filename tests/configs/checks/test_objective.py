"""Rules of data2vec 2.0's keys: each broken one is named, with a remedy that holds."""

import pytest

from configs.checks.run import check
from configs.compose import compose_pretrain

VISION, SPEECH, TEXT = (
    f"objective=v2 {kind} decoder.groups=4"
    for kind in (
        "vision.image_size=28 vision.patch_size=7 masks.fraction=0.7 masks.block=2",
        "recipe=demo_speech",
        "recipe=demo_text",
    )
)


@pytest.mark.parametrize(
    ("overrides", "message", "remedy"),
    [
        ("modality=text masks.count=2", "masks.count is of data2vec 2.0: add objective=v2", "objective=v2"),
        ("objective=v1 decoder.layers=2", "decoder.layers is of data2vec 2.0: add objective=v2", "decoder.layers=null"),
        ("objective=v1 loss.cls=1", "loss.cls is of data2vec 2.0: add objective=v2", "loss.cls=null"),
        (f"{VISION} masks.fraction=0.95", "leaves nothing to see of 16 tokens", "masks.fraction=0.9"),
        (f"{VISION} masks.fraction=0.05", "leaves nothing to predict of 16 tokens", "masks.fraction=0.07"),
        (f"{VISION} masks.block=5", "masks.block=5 does not fit into the 4 x 4 patches", "masks.block=4"),
        (f"{SPEECH} masks.block=500", "masks.block=500 is too long for clips of", "masks.block=5"),
        (f"{TEXT} masks.block=2", "masks of text are of single tokens", "masks.block=1"),
        (f"{VISION} vision.mask.patches=99 decoder.groups=3", "groups=3 must divide model.width=", "decoder.groups=8"),
        (f"{VISION} decoder.kernel=4", "decoder.kernel=4 must be odd", "decoder.kernel=5"),
    ],
)  # fmt: skip
def test_every_rule_names_key_and_remedy(overrides: str, message: str, remedy: str) -> None:
    with pytest.raises(ValueError) as error:
        check(compose_pretrain(overrides.split()), 2)
    assert message in str(error.value)
    check(compose_pretrain([*overrides.split(), *remedy.split()]), 2)


@pytest.mark.parametrize("objective", [VISION, SPEECH, TEXT])
def test_every_demo_runs_in_data2vec_2(objective: str) -> None:
    check(compose_pretrain(objective.split()), 2)
