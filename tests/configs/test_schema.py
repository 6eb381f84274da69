"""One modality's keys: the run's word, the mixture's, or the published values."""

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from configs.schema_training import ModelConfig


def test_a_modality_has_its_published_values_where_the_run_says_nothing() -> None:
    plain = PretrainConfig(modality=("vision", "speech", "text"), model=ModelConfig(layers=12))
    configs = [plain.for_modality(modality) for modality in plain.modalities]
    assert [own.modality for own in configs] == ["vision", "speech", "text"]
    assert [own.model.norm for own in configs] == ["pre", "pre", "pre"], "shared blocks have one form"
    assert [(own.teacher.layers, own.teacher.target) for own in configs] == [(6, "block"), (8, "ffn"), (10, "ffn")]
    assert [own.teacher.average for own in configs] == ["all", "transformer", "blocks"]
    assert [(own.loss.beta, own.loss.reduction) for own in configs] == [(2, "mean"), (0, "sqrt"), (4, "sum")]
    alone = PretrainConfig(modality="speech").for_modality("speech")
    assert (alone.model.norm, alone.model.dropout, alone.teacher.block_norm) == ("post", 0.1, "instance")


def test_the_runs_word_and_the_mixtures_share_win() -> None:
    config = compose_pretrain(
        ["recipe=demo_mixture", "modality=[vision,text]", "mixture.text.shards=/t", "mixture.text.global=4",
         "teacher.layers=2", "loss.beta=1",
         "model.dropout=0.2", "mixture.blocks=separate", "batch.global=64", "mixture.vision.weight=3"]
    )  # fmt: skip
    vision, text = config.for_modality("vision"), config.for_modality("text")
    assert (text.data.shards, text.batch.global_, vision.data.shards, vision.batch.global_) == ("/t", 4, "", 64)
    assert [(p.teacher.layers, p.loss.beta, p.model.dropout) for p in (vision, text)] == [(2, 1, 0.2)] * 2
    assert [p.model.norm for p in (vision, text)] == ["pre", "post"], "separate blocks are each as published"
    assert config.mixture.vision.weight == 3
