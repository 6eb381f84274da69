"""Keys and their values: the nearest known one, and mistakes with their remedy."""

import pytest

from configs.compose import compose_pretrain


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?"),
        ("lr=1", "unknown key 'lr': did you mean 'optimizer.lr'?"),
        ("modle=tiny", "unknown key 'modle': did you mean 'model'?"),
        ("qqqq=1", "unknown key 'qqqq': --help lists the keys"),
        ("batch.global_=4", "unknown key 'batch.global_': did you mean 'batch.global'?"),
        ("modality=audio", "modality=audio: 'audio' is unknown: one of vision, speech, text"),
        ("modality=[text,text]", "modality=[text,text]: 'text' is twice"),
        ("recipe=base", "unknown recipe 'base': one of demo, demo_mixture, demo_speech"),
        ("deepspeed=zero4", "unknown deepspeed 'zero4': one of zero0, zero1, zero2, zero3"),
        ("optimizer=adam", "'optimizer' is a section: set one of its keys, e.g. optimizer.lr=VALUE"),
        ("optimizer.lr=abc", "optimizer.lr=abc: expected a valid number"),
        ("model.layers=2.5", "model.layers=2.5: expected a valid integer"),
        ("batch.global=0", "batch.global=0: expected greater than or equal to 1"),
        ("precision=fp8", "precision=fp8: expected 'auto', 'bf16', 'fp16' or 'fp32'"),
        ("vision.mean=[1,2]", "vision.mean=[1,2]: expected 3 values, e.g. vision.mean=[0.485,0.456,0.406]"),
        ("vision.mean=[1,2,3,4]", "vision.mean=[1,2,3,4]: expected 3 values, e.g. vision.mean=["),
        ("vision.crop_scale=0.5", "vision.crop_scale=0.5: expected 2 values, e.g. vision.crop_scale=[0.08,1]"),
        ("model.layers=null", "model.layers=null: expected a valid integer"),
        ("optimizer.lr=1,2", "optimizer.lr=1,2: expected a valid number"),
        ("optimizer.lr={a:1}", "optimizer.lr={a:1}: expected a valid number"),
        ("optimizer.lr=${model.width}", "optimizer.lr=${model.width}: expected a valid number"),
        ("optimizer.lr=inf", "optimizer.lr=inf: expected a finite number"),
        ("optimizer.eps=1e400", "optimizer.eps=inf: expected a finite number"),
        ("vision.mean=[0,nan,0]", "vision.mean.1=nan: expected a finite number"),
        ("train.steps=true", "train.steps=true: expected a number"),
        ("optimizer.betas=[false,0.9]", "optimizer.betas=[false,0.9]: expected a number"),
        ("train.steps=2147483648", "train.steps=2147483648: expected numbers between -2147483647 and 2147483647"),
        ("deepspeed.bucket_elements=7", "deepspeed.bucket_elements=7: expected a multiple of 2"),
        ("data.cache_gb=1e300", "data.cache_gb=1e+300: expected numbers between"),
        ("run.dir=s3://bucket/run", "run.dir=s3://bucket/run: a path of this machine is needed here, not a URL"),
        ("run.dir=~no-such-user/x", "run.dir=~no-such-user/x: ~no-such-user is the home folder of no user here"),
        ("run.dir=a\nb", r"'run.dir=a\nb' holds line breaks"),
        ("run.dir=\udcff", r"'run.dir=\udcff' holds line breaks, control characters or bytes that are not UTF-8"),
        ("optimizer.betas=[0.9,x]", "optimizer.betas.1=x: expected a valid number"),
        ("+optimizer.lr=1", "expected key=value, got '+optimizer.lr=1'"),
        ("optimizer.lr", "expected key=value, got 'optimizer.lr'"),
        ("recipe=vision_large_imagenet_phase2", "needs init=VALUE"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        compose_pretrain([override])
    assert message in str(error.value)


def test_a_missing_value_of_a_list_is_told_once() -> None:
    with pytest.raises(ValueError) as error:
        compose_pretrain(["vision.mean=[1]"])
    assert str(error.value).count("\n") == 0


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)model.layers=b.*optimizer.lr=a"):
        compose_pretrain(["model.layers=b", "optimizer.lr=a"])
