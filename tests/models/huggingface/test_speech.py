"""Speech: configuration and feature extractor."""

import numpy as np

from configs.schema import PretrainConfig
from configs.schema_objective import TeacherConfig
from configs.schema_training import ModelConfig
from tests.models.test_huggingface import exported, tiny, transformers


def test_configuration_of_speech(tmp_path):
    published = PretrainConfig(
        modality="speech",
        model=ModelConfig(layers=1, width=768, heads=12, ffn=8),
        teacher=TeacherConfig(layers=1),
    )
    exported(tmp_path, published)
    written = transformers.AutoModel.from_pretrained(tmp_path).encoder.pos_conv_embed.layers
    assert [(c.conv.kernel_size, c.conv.groups, c.conv.padding) for c in written] == [((19,), 16, (9,))] * 5
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (written.hidden_dropout, written.attention_dropout, written.activation_dropout) == (0.1, 0.1, 0.0)
    assert written.layerdrop == 0 and written.layer_norm_eps == 1e-5 and written.feat_extract_norm == "layer"


def test_feature_extractor_normalises_as_training_does(tmp_path):
    """Each clip by its own mean and deviation, zeros behind its end, and a mask that says where that is."""
    exported(tmp_path, tiny("speech"))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    generator = np.random.default_rng(0)
    clips = [generator.normal(900, 3000, size).astype(np.int16) for size in (4000, 5000)]
    inputs = extractor([clip / 32768 for clip in clips], sampling_rate=16000, padding=True, return_tensors="pt")
    assert inputs.attention_mask.sum(1).tolist() == [4000, 5000] and not inputs.input_values[0, 4000:].any()
    for clip, values in zip(clips, inputs.input_values, strict=True):
        expected = (clip - clip.mean()) / clip.std()
        np.testing.assert_allclose(values[: len(clip)].numpy(), expected, atol=1e-4)
