"""`./run.sh config`: every key with the value that a run uses, and marks where that is another one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from configs.compose import compose_pretrain, compose_recipe
from configs.keys import flat, leaf_keys, plain, written
from configs.schema import PretrainConfig
from pretrain.describing.configuration import describe, main


def marked(*overrides: str) -> dict[str, str]:
    """Key -> its line, of those with a mark."""
    lines = describe(compose_pretrain(list(overrides)))
    return {re.split(r"[ =]+", line[3:])[0]: line for line in lines if line[0] in "*~ " and line[:2].strip()}


def test_it_prints_every_key_of_the_runs_modalities_with_its_value() -> None:
    config = compose_pretrain(["recipe=speech_base_audioset", "optimizer.lr=1e-3", "data.weights=null"])
    lines = describe(config)[2:]
    others = ("vision", "text", "mixture", "masks", "decoder")
    expected = [key for key in leaf_keys(PretrainConfig) if key.split(".")[0] not in others and key != "loss.cls"]
    assert [line[3:].partition("=")[0] for line in lines] == expected
    values = {key: written(value) for key, value in flat(plain(config)).items() if key in expected}
    assert {line[3:].partition("=")[0]: line[3:].partition("=")[2].partition("  ")[0] for line in lines} == values


def test_keys_of_data2vec_2_are_printed_for_it_with_what_their_nulls_stand_for() -> None:
    lines = describe(compose_pretrain(["recipe=speech_base_librispeech", "objective=v2", "masks.count=4"]))
    keys = {line[3:].partition("=")[0]: line for line in lines[2:]}
    assert "here 4" in keys["decoder.layers"] and "masks.count=4" in keys["masks.count"] and "loss.cls" in keys


def test_a_published_recipe_as_it_is_has_no_marks() -> None:
    for recipe in ("vision_base_imagenet", "speech_base_audioset", "text_base_books_wikipedia"):
        assert marked(f"recipe={recipe}", "model.activation_checkpointing=false") == {}, recipe


def test_what_differs_from_the_recipe_and_from_the_publication_is_marked() -> None:
    changed = marked(
        "recipe=vision_base_imagenet", "optimizer.lr=1e-3", "model.dropout=0.0", "batch.micro=64", "log.every=7"
    )
    assert changed.keys() == {"optimizer.lr", "batch.micro", "log.every"}, "the dropout is what null stands for"
    assert re.fullmatch(r"\*~ optimizer.lr=0.001 +# recipe 0.002; published 0.002", changed["optimizer.lr"])
    assert re.fullmatch(r"\*  batch.micro=64 +# recipe 128", changed["batch.micro"]), (
        "it changes nothing that is learned"
    )


def test_a_choice_of_a_group_marks_the_keys_that_it_changes() -> None:
    assert marked("recipe=vision_base_imagenet", "model=huge").keys() >= {
        "model.size",
        "model.layers",
        "vision.patch_size",
    }


def test_a_recipe_of_ones_own_is_compared_with_the_published_one_of_its_kind() -> None:
    demo = marked("modality=speech")
    assert all(line.startswith(" ~") for line in demo.values()), "the recipe is as it is"
    assert "published 12" in demo["model.layers"] and not any(key.startswith("vision.") for key in demo)


def test_a_null_shows_what_it_stands_for() -> None:
    lines = "\n".join(describe(compose_pretrain(["recipe=text_base_books_wikipedia", "teacher.layers=null"])))
    assert re.search(r"^   teacher.layers=null +# here 10$", lines, re.MULTILINE)
    mixed = "\n".join(describe(compose_pretrain(["recipe=mixture_base"])))
    assert re.search(r"^   loss.beta=null +# here vision:2.0 speech:0.0 text:4.0$", mixed, re.MULTILINE)


def test_a_key_that_the_recipe_requires_counts_as_changed() -> None:
    assert compose_recipe("vision_large_imagenet_phase2").init == ""
    assert marked("recipe=vision_large_imagenet_phase2", "init=x").keys() == {"init"}


def test_the_command_hides_credentials_and_says_why_a_run_could_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["recipe=vision_base_imagenet", "data.shards=https://me:secret@host/x", "batch.micro=3"]
    with pytest.raises(ValueError, match="batch.micro=3 must divide"):
        main(arguments)
    out = capsys.readouterr().out
    assert "batch.micro=3" in out and "secret" not in out and "https://***@host/x" in out


def test_the_command_warns_of_what_cannot_work(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipe=vision_base_imagenet", "train.steps=60"])
    warmup, teacher = capsys.readouterr().err.splitlines()
    assert warmup.startswith("WARNING train.steps=60 ends within schedule.warmup=6250: ")
    assert teacher.startswith("WARNING teacher.decay=0.9998: ")
    main(["recipe=vision_base_imagenet"])
    assert capsys.readouterr().err == ""


def test_a_typing_error_is_a_line_and_code_2() -> None:
    command = [sys.executable, "-m", "pretrain.describing.configuration", "optimizer.rl=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'optimizer.rl': did you mean 'optimizer.lr'?\n"
