"""SetFit by torch and by ONNX Runtime: sentences in, intents out, the same from both.

In one file, which one process runs: importing SetFit takes most of its time.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmekit.archive import read_properties
from mmekit.errors import ModelLoadError
from mmekit.testing import agree, load_handler, read_sample

# Libraries of the sentence model warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
ONNX = ROOT / "model_packages" / "setfit_onnx"
TEXTS = ["Where is my parcel?", "I forgot my password, and the mail never comes."]
EXPECTED = {"predictions": ["delivery", "account"]}
HEAD = "model_head.pkl"
PROBABILITIES = "probabilities=true"
FORKED = """
import json, os, sys
from pathlib import Path
from mmekit_runtime import Request

def traces():
    tasks = set(ls("task")) - {str(os.getpid())}
    names = [Path("/proc/self/task", one, "comm").read_text().strip() for one in tasks]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        # pyarrow brings it where it is installed, and does without it after a fork.
        "threads": [one for one in names if one != "jemalloc_bg_thd"],
        "descriptors": sorted(set(ls("fd")) - before),
        "shared": [one for one in maps if one.split()[1] == "rw-s"],
    }

def ls(folder):
    return os.listdir(f"/proc/self/{folder}")

before = set(ls("fd"))
package, artifacts, texts = sys.argv[1:]
sys.path.insert(0, package)
from model import handle
shared = handle.load_shared(Path(artifacts))
print(json.dumps(traces()), flush=True)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
handle.receive_shared(shared)
handle.prepare(Path(artifacts))
request = Request(texts.encode(), "application/json", attributes={"probabilities": "true"})
print(handle.answer([request])[0].body.decode(), flush=True)
"""


def test_the_sample_request_gets_the_sample_answer(setfit_classifier, packages):
    sample = read_sample(packages / "setfit_classifier")
    answer = setfit_classifier.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200
    assert agree(answer.json(), sample.answer)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"instances": TEXTS})),
        ("application/json", json.dumps({"inputs": TEXTS})),
        ("application/json", json.dumps(TEXTS)),
        ("text/plain", "\n".join(TEXTS)),
        ("text/plain; charset=utf-8", "\r\n".join(TEXTS) + "\r\n\r\n"),
        ("text/csv", "\n".join(f'"{text}"' for text in TEXTS)),
        ("text/csv", "text\n" + "\n".join(f'"{text}"' for text in TEXTS)),
        ("application/jsonlines", "\n".join(json.dumps({"text": text}) for text in TEXTS)),
    ],
)
def test_every_content_type_carries_two_sentences(setfit_classifier, content_type, body):
    answer = setfit_classifier.invoke(body, content_type=content_type)
    assert answer.status == 200, answer.text
    assert answer.json() == EXPECTED


def test_one_sentence_gets_one_label(setfit_classifier):
    assert setfit_classifier.invoke(json.dumps({"inputs": TEXTS[0]})).json() == {
        "predictions": ["delivery"]
    }


def test_probabilities_on_request(setfit_classifier):
    answer = setfit_classifier.invoke(
        "\n".join(TEXTS), content_type="text/plain", attributes="probabilities=true"
    ).json()
    assert answer["classes"] == ["account", "billing", "delivery", "returns"]
    for label, row in zip(answer["predictions"], answer["probabilities"], strict=True):
        assert sum(row) == pytest.approx(1)
        assert answer["classes"][row.index(max(row))] == label


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", "", 400),
        ("application/json", '{"instances": [1, 2]}', 400),
        ("application/json", '{"instances": []}', 400),
        ("text/plain", "\n \n", 400),
        ("audio/wav", "RIFF", 415),
    ],
)
def test_what_is_no_text_is_refused(setfit_classifier, content_type, body, status):
    answer = setfit_classifier.invoke(body, content_type=content_type)
    assert answer.status == status
    assert answer.json()["expected"]
    assert answer.json()["received"]


@pytest.mark.parametrize("name", ["setfit_classifier", "setfit_onnx"])
def test_a_package_without_its_artefacts_says_why_it_does_not_load(mme_model, packages, name):
    with pytest.raises(ModelLoadError, match=r"\(424\): .*option\.shared.* among the artefacts"):
        mme_model(packages / name)


def test_answers_are_those_of_the_whole_model_to_the_last_bit(
    setfit_classifier, setfit_artifacts, texts
):
    from setfit import SetFitModel

    whole = SetFitModel.from_pretrained(str(setfit_artifacts / "setfit"), local_files_only=True)
    for rows in (texts, texts[:1], [" ".join(texts * 5), "", "?"]):
        expected = whole.predict_proba(rows, as_numpy=True, show_progress_bar=False)
        answer = setfit_classifier.invoke(json.dumps(rows), attributes="probabilities=true").json()
        assert answer["probabilities"] == expected.tolist()
        assert answer["predictions"] == list(whole.predict(rows, show_progress_bar=False))


def test_a_customer_who_normalises_embeddings_shares_the_body_of_one_who_does_not(
    mme_model, packages, setfit_artifacts, texts, tmp_path
):
    from setfit import SetFitModel

    other = SetFitModel.from_pretrained(
        str(setfit_artifacts / "setfit"), normalize_embeddings=True, labels=["no", "yes"]
    )
    other.model_head = type(other.model_head)().fit(other.encode(texts), ["no", "yes"] * 8 + ["no"])
    other.save_pretrained(str(tmp_path / "setfit"))
    for file in (setfit_artifacts / "setfit").rglob("*"):
        if file.is_file() and file.name not in ("README.md", "config_setfit.json", HEAD):
            same = tmp_path / file.relative_to(setfit_artifacts)
            assert file.read_bytes() == same.read_bytes(), file
    model = mme_model(packages / "setfit_classifier", tmp_path)
    answer = model.invoke(json.dumps(texts), attributes="probabilities=true").json()
    assert answer["classes"] == ["no", "yes"]
    assert answer["probabilities"] == other.predict_proba(texts, as_numpy=True).tolist()


@pytest.fixture(scope="module")
def onnx_artifacts(setfit_artifacts, tmp_path_factory):
    """Return what notebook 7 makes of a SetFit model."""
    folder = str(ROOT / "notebooks" / "networks")
    sys.path.insert(0, folder)
    try:
        import sentences
    finally:
        sys.path.remove(folder)
    artifacts = tmp_path_factory.mktemp("artifacts")
    sentences.export(setfit_artifacts / "setfit", artifacts)
    return artifacts


@pytest.fixture(scope="module")
def setfit_onnx(onnx_artifacts):
    with load_handler(ONNX, onnx_artifacts) as model:
        yield model


@pytest.fixture(scope="module")
def texts():
    with (ROOT / "notebooks" / "data" / "support_requests.csv").open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)][::8]


def test_the_sample_request_gets_the_sample_answer_from_onnx(setfit_onnx):
    sample = read_sample(ONNX)
    answer = setfit_onnx.invoke(sample.body, content_type=sample.content_type)
    assert (answer.status, answer.json()) == (200, sample.answer)


@pytest.mark.parametrize("kind", ["many", "long"])
def test_labels_and_probabilities_are_those_of_setfit(setfit_onnx, setfit_classifier, texts, kind):
    # A long one has more words than the sentence model reads.
    body = json.dumps([*texts, ""] if kind == "many" else " ".join(texts * 5))
    answers = [
        one.invoke(body, attributes="probabilities=true").json()
        for one in (setfit_onnx, setfit_classifier)
    ]
    assert answers[0]["predictions"] == answers[1]["predictions"]
    assert answers[0]["classes"] == answers[1]["classes"]
    assert np.allclose(answers[0]["probabilities"], answers[1]["probabilities"], atol=1e-5)


def test_a_sentence_is_answered_alike_alone_and_among_others(setfit_onnx, texts):
    together = setfit_onnx.invoke(json.dumps(texts), attributes="probabilities=true").json()
    alone = setfit_onnx.invoke(json.dumps(texts[:1]), attributes="probabilities=true").json()
    assert np.allclose(together["probabilities"][0], alone["probabilities"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [("", "application/json", 400), ("[1]", "application/json", 400), ("x", "audio/wav", 415)],
)
def test_what_is_no_text_is_refused_by_onnx(setfit_onnx, body, content_type, status):
    assert setfit_onnx.invoke(body, content_type=content_type).status == status


def test_onnx_imports_no_torch(onnx_artifacts):
    code = f"""
import sys
from mmekit.testing import load_handler
with load_handler({str(ONNX)!r}, {str(onnx_artifacts)!r}) as model:
    assert model.invoke('["Where is my parcel?"]').json() == {{"predictions": ["delivery"]}}
print(*sorted({{"torch", "transformers", "setfit", "sklearn"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["setfit_classifier", "setfit_onnx"])
def test_a_process_that_has_loaded_the_body_can_be_forked(request, packages, name):
    # As a worker finds it: OpenBLAS starts threads when it is imported, if it may.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, **single, **read_properties(packages / name).env}
    artifacts = request.getfixturevalue(
        "setfit_artifacts" if name == "setfit_classifier" else "onnx_artifacts"
    )
    run = subprocess.run(
        [sys.executable, "-c", FORKED, str(packages / name), str(artifacts), json.dumps(TEXTS)],
        env=environment,
        timeout=120,
        capture_output=True,
        text=True,
        check=True,
    )
    left, answer = map(json.loads, run.stdout.splitlines())
    assert left == {"threads": [], "descriptors": [], "shared": []}
    expected = request.getfixturevalue(name).invoke(json.dumps(TEXTS), attributes=PROBABILITIES)
    assert answer == expected.json()
