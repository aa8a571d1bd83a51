"""SetFit as two ONNX networks: words' numbers to a sentence's, and these to probabilities.

The first is the sentence model, the mean over its words and the length of one: customers share it.
The second is a customer's own, the regression on top. Both are for model_packages/setfit_onnx.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from onnx_file import write_onnx
from setfit import SetFitModel
from torch import nn
from transformers import AutoModel


class SentenceModel(nn.Module):
    """What SetFitModel.encode does after its tokenizer."""

    def __init__(self, folder):
        super().__init__()
        self.sentences = AutoModel.from_pretrained(folder, attn_implementation="eager")

    def forward(self, tokens, mask):
        words = self.sentences(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(words.dtype)
        mean = (words * weights).sum(dim=1) / weights.sum(dim=1)
        return nn.functional.normalize(mean)


class Regression(nn.Module):
    """What the regression of scikit-learn makes of sentences: probabilities."""

    def __init__(self, regression):
        super().__init__()
        weights, biases = regression.coef_, regression.intercept_
        if len(weights) == 1:  # two classes: scikit-learn keeps the second's alone
            weights, biases = (np.concatenate([0 * one, one]) for one in (weights, biases))
        self.regression = nn.Linear(weights.shape[1], len(weights))
        self.regression.weight.data = torch.from_numpy(weights).float()
        self.regression.bias.data = torch.from_numpy(biases).float()

    def forward(self, sentences):
        return torch.softmax(self.regression(sentences), dim=1)


def export(trained, artifacts):
    """Write the artefacts of setfit_onnx from what SetFit has saved in a folder.

    The sentence model has to be one with the mean over its words and normalised embeddings, as
    all-MiniLM-L6-v2. Its files (sentences.*, tokenizer.json) are the same for all customers that
    have the same one.
    """
    trained, artifacts = Path(trained), Path(artifacts)
    model = SetFitModel.from_pretrained(str(trained), local_files_only=True)
    pooling = json.loads((trained / "1_Pooling" / "config.json").read_text())
    kinds = [type(module).__name__ for module in model.model_body]
    if kinds != ["Transformer", "Pooling", "Normalize"] or pooling["pooling_mode"] != "mean":
        raise ValueError(f"this is no sentence model of mean and normalisation: {kinds}")
    sentences = SentenceModel(str(trained)).eval()
    regression = Regression(model.model_head).eval()
    artifacts.mkdir(parents=True, exist_ok=True)
    tokens = torch.ones(2, 8, dtype=torch.int64)
    with torch.inference_mode():
        write_onnx(
            sentences,
            (tokens, tokens),
            artifacts / "sentences.onnx",
            inputs={name: {0: "sentences", 1: "words"} for name in ("tokens", "mask")},
            outputs={"embeddings": {0: "sentences"}},
        )
        write_onnx(
            regression,
            (torch.ones(2, regression.regression.in_features),),
            artifacts / "regression.onnx",
            inputs={"embeddings": {0: "sentences"}},
            outputs={"probabilities": {0: "sentences"}},
        )
    shutil.copy(trained / "tokenizer.json", artifacts / "tokenizer.json")
    for name, description in (
        ("sentences.json", {"longest": model.model_body.max_seq_length}),
        ("labels.json", list(model.labels)),
    ):
        (artifacts / name).write_text(json.dumps(description) + "\n", encoding="utf-8")
