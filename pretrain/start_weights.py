"""`init=DIR`: start from the student of another run, or from a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from models.data2vec import Data2Vec
from models.huggingface import load_pretrained
from pretrain.checkpoint import load_weights


def load_student(model: Data2Vec, init: str) -> str:
    """Load the weights of `init` into the student and copy them to the teacher; returns a line for the log.

    A run directory gives its newest checkpoint's student, regression head included: optimizer, schedules and teacher
    start anew (phase 2 of the published Large). A Hugging Face folder has no head, and may lack the mask vector: those
    keep their initial values. Raises ValueError that names the folder and what does not fit.
    """
    folder = Path(init)
    if (folder / "checkpoints").is_dir():
        weights, step = load_weights(folder, "student")
        source = f"student of {folder} at step {step}"
    elif (folder / "config.json").is_file():
        weights, source = load_pretrained(folder, model.config), f"Hugging Face folder {folder}"
    else:
        raise ValueError(f"init={init} is no run directory (checkpoints/) and no Hugging Face folder (config.json)")
    own = model.student.state_dict()
    for name, values in weights.items():
        if name not in own or own[name].shape != values.shape:
            there = tuple(own[name].shape) if name in own else "absent"
            raise ValueError(
                f"init={init}: {name} is {tuple(values.shape)} there and {there} here: use the same model= and vision.*"
            )
    kept = sorted(own.keys() - weights.keys())
    model.student.load_state_dict(weights, strict=False)
    model.teacher.load_state_dict(model.student.state_dict())
    return f"student and teacher start from the {source}" + (f"; not in it: {', '.join(kept)}" if kept else "")
