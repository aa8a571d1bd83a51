"""Artefacts are told by what is in them, whatever they are called."""

from __future__ import annotations

import json
import pickle
import zipfile

import joblib
import pytest

from mmekit.errors import PackageError
from mmekit.scaffold import artifact as kinds
from mmekit.scaffold import recognise


@pytest.mark.parametrize(
    ("content", "kind", "form"),
    [
        (pickle.dumps([1]), kinds.SKLEARN, "a pickle"),
        (b"\x1f\x8b\x08\x00", kinds.SKLEARN, "a pickle compressed by gzip"),
        (b"CBM1\x00", kinds.CATBOOST, "CatBoost's own format"),
        (b"tree\nversion=v4\n", kinds.LIGHTGBM, "LightGBM's text"),
        (b'{"learner":{"attributes":{}}}', kinds.XGBOOST, "XGBoost's JSON"),
        (b'{\n  "version": [3, 0, 5],\n  "learner": {}}', kinds.XGBOOST, "XGBoost's JSON"),
        (b"{L\0\0\0\0\0\0\0\x07learner{L\0", kinds.XGBOOST, "XGBoost's UBJSON"),
    ],
)
def test_a_file_is_known_by_its_content(tmp_path, content, kind, form):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    found = recognise(path)
    assert (found.kind, found.form) == (kind, form)
    assert found.runs_code == (kind == kinds.SKLEARN)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["schema.json", "0.npy"], kinds.SKOPS),
        (["net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"], kinds.TORCHSCRIPT),
    ],
)
def test_a_zip_file_is_known_by_its_names(tmp_path, names, kind):
    assert recognise(zipped(tmp_path, names)).kind == kind


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["modules.json", "config_setfit.json", "model_head.pkl"], kinds.SETFIT),
        (["modules.json", "config.json"], kinds.SENTENCES),
        (["MLmodel", "model.pkl"], kinds.MLFLOW),
    ],
)
def test_a_folder_is_known_by_its_files(tmp_path, files, kind):
    for name in files:
        (tmp_path / name).write_text("{}")
    assert recognise(tmp_path).kind == kind


def test_the_one_model_in_a_folder_is_meant(tmp_path):
    joblib.dump([1], tmp_path / "model.joblib")
    (tmp_path / "measured.json").write_text("{}")
    (tmp_path / "notes.md").write_text("trained on Monday")
    assert recognise(tmp_path).path == tmp_path / "model.joblib"
    joblib.dump([1], tmp_path / "other.joblib")
    with pytest.raises(PackageError, match=r"several models: model.joblib, other.joblib"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5", "ONNX"),
        (b"PAR1", "no model", "--example"),
        (b"binf\0", "format that XGBoost gave up", "model.ubj"),
        (b"GGUF", "GGUF", "language models"),
        (json.dumps({"features_info": {}}).encode(), "CatBoost model as JSON", "model.cbm"),
        (b"age,city\n1,Oslo\n", "does not recognise", "docs/handlers.md"),
        (b"", "does not recognise", "docs/handlers.md"),
    ],
)
def test_what_is_not_served_is_called_by_its_name(tmp_path, content, what, remedy):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=what) as caught:
        recognise(path)
    assert remedy in caught.value.remedy


def test_a_network_that_needs_its_classes_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(PackageError, match="needs the network's own classes") as caught:
        recognise(zipped(tmp_path, ["archive/data.pkl", "archive/version"]))
    assert "torch.jit.script" in caught.value.remedy


def test_a_path_that_leads_nowhere_is_said(tmp_path):
    with pytest.raises(PackageError, match="does not exist"):
        recognise(tmp_path / "model.joblib")


def zipped(folder, names):
    path = folder / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return path
