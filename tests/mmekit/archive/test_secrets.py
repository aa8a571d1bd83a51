"""A secret in a package is an error that says where it is, and is printed nowhere."""

from __future__ import annotations

import base64
import io
import json
import random
import tarfile
import time

import pytest

from mmekit.archive import check, pack, secret_search
from mmekit.archive.secrets import MOST, Manner, is_binary, secrets_in
from mmekit.errors import CheckError

# Nothing here is a secret of anybody; put together, so that no other detector takes it for one.
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
HUB = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0bC3d"
PASSWORD = "tulips-in-Enschede-7"
BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
KEY = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n"
CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{BODY}\n-----END CERTIFICATE-----\n"

BY_NAME = [
    ".ssh/identity",
    ".ssh/config",
    ".npmrc",
    "prod.env",
    ".env.production",
    "aws_credentials",
    "credentials.csv",
    "my_accessKeys.csv",
    ".aws/sso/cache/0123.json",
    ".docker/config.json",
    ".kube/config",
    ".cache/huggingface/token",
    ".huggingface/stored_tokens",
    ".pypirc",
    "_netrc",
    ".git-credentials",
    "client_secret_12.json",
    "service-account-prod.json",
    "secrets.toml",
    "terraform.tfstate",
    "keys/id_ed25519_sk",
    "store.p12",
    "key.ppk",
    ".bash_history",
]

IN_TEXTS = [
    ("model.py", f"import os\n\nKEY = '{AWS_KEY}'\n", 3, "an access key of AWS"),
    ("features.py", f"client(\n    aws_secret_access_key='{AWS_SECRET}')\n", 2, "a key"),
    ("features.py", f"os.environ['DB_PASSWORD'] = '{PASSWORD}'\n", 1, "a password"),
    ("features.py", f"x = os.environ.get('API_KEY', '{BODY}')\n", 1, "a key"),
    ("features.py", f"def f(password: str = '{PASSWORD}'): ...\n", 1, "a password"),
    ("features.py", f"login(token='{HUB}')\n", 1, "a token of Hugging Face"),
    ("features.py", f"H = {{'Authorization': 'Bearer {BODY}'}}\n", 1, "a token of a request"),
    ("features.py", f"URL = 'postgres://ann:{PASSWORD}@db/x'\n", 1, "a password in an address"),
    ("chain.pem", CERTIFICATE * 2000 + KEY, 6001, "a private key"),
    ("tls.key", "\n-----BEGIN RSA PRIVATE KEY-----\n", 2, "a private key"),
    ("notes.txt", f"the key:\n\n{KEY}", 3, "a private key"),
    ("config.json", json.dumps({"private_key": KEY}), 1, "a private key"),
    ("conf/a.yaml", f"db:\n  password: {PASSWORD}\n", 2, "a password"),
    ("conf/a.ini", f"[db]\nclient_secret = {BODY}\n", 2, "a secret"),
    ("settings.xml", f"<x>\n<password>{PASSWORD}</password></x>\n", 2, "a password"),
    ("pip.conf", f"[global]\nindex-url = https://u:{PASSWORD}@host/simple\n", 2, "in an address"),
    ("docker.json", json.dumps({"auth": base64.b64encode(b"ann:" + b"7" * 9).decode()}), 1, "name"),
    ("a.ipynb", json.dumps({"source": [f'password = "{PASSWORD}"\n']}), 1, "a password"),
    ("utf16.ini", f"a=1\npassword={PASSWORD}\n".encode("utf-16"), 2, "a password"),
    ("windows.ini", f"a=1\r\npassword={PASSWORD}\r\n", 2, "a password"),
    ("requirements.txt", f"joblib\n--index-url https://u:{PASSWORD}@host/\n", 2, "in an address"),
    ("serving.properties", f"engine=Python\noption.env=A=1,HF_TOKEN={HUB}\n", 2, "Hugging Face"),
    (
        "serving.properties",
        f"engine=Python\noption.env=A=1,\\\n DB_PASS\\u0057ORD={PASSWORD}\n",
        2,
        "",
    ),
    ("serving.properties", f"engine=Python\noption.db_password={PASSWORD}\n", 2, "a password"),
]

HARMLESS = [
    ("model.py", "pad_token = '<pad>'\nsep_token = '[SEP]'\ntoken = 'reserved'\n"),
    ("model.py", "password = os.environ['DB_PASSWORD']\nsecret = f'{prefix}-{name}'\n"),
    ("model.py", "PASSWORD = 'changeme'\napi_key = 'your-api-key'\nkey = 'a1b2c3d4e5f6'\n"),
    ("model.py", "sort_key = 'price_2024'\nfirst_pass = 'quick12345'\n"),
    ("model.py", "SECRET = 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:x'\n"),
    ("model.py", "url = 'http://user:password@host'\nMARK = '-----BEGIN PRIVATE KEY-----'\n"),
    ("model.py", f"sha256 = '{'0123456789abcdef' * 4}'\n"),
    ("model.py", "COLUMNS = ['password', 'username1']\nNAMES = ('secret', 'Geheimnis')\n"),
    ("vocab.json", json.dumps({"password": 7, "secret": 8, "##token": 9, "sk-": 10})),
    ("vocab.txt", "password\nsecret\napi\n##key\ntoken: 12\nhf_\nghp_\n"),
    ("tokenizer.json", json.dumps({"bos_token": "<s>", "eos_token": "<|endoftext|>"})),
    ("words.csv", 'en,de\n"password","Passwort"\n"secret","Geheimnis"\n'),
    ("features.py", "DTYPES = {'password': 'float64', 'auth_token': 'datetime64'}\n"),
    ("vocab.txt", "xoxo-gossip-girl-loves-you\n2024\n"),
    ("notes.md", "Bearer authentication-in-each-header\nof 2024\n"),
    ("ca.pem", CERTIFICATE),
    ("requirements.txt", f"joblib==1.5.3 --hash=sha256:{'0123456789abcdef' * 4}\n"),
    ("conf/a.yaml", "password: ${DB_PASSWORD}\nsecret: <from vault>\ntoken: null\n"),
]


def found_in(text, manner=None):
    data = text if isinstance(text, bytes) else text.encode()
    return list(secrets_in(io.BytesIO(data), manner or Manner()))


def errors(findings):
    rules = ("looks-like-a-secret", "secret-in-text")
    return [one for one in findings if one.rule in rules]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_file_whose_name_tells_of_a_secret_is_an_error(workshop, name):
    workshop.write(name, b"anything")

    (error,) = errors(check(workshop.package))

    assert (error.rule, error.severity) == ("looks-like-a-secret", "error")
    assert error.where.endswith(f"ridge/{name}")
    assert name in error.message
    assert f"option.accepted_secrets={name}" in error.remedy


@pytest.mark.parametrize(("name", "text", "line", "what"), IN_TEXTS)
def test_a_secret_in_a_text_is_an_error_with_its_line_and_without_itself(
    workshop, name, text, line, what
):
    workshop.write(name, text)
    findings = check(workshop.package)

    (error,) = errors(findings)

    assert (error.rule, error.severity) == ("secret-in-text", "error")
    assert error.where.endswith(f"ridge/{name}:{line}")
    assert f"line {line} of {name}" in error.message
    assert what in error.message
    for secret in (AWS_KEY, AWS_SECRET, HUB, PASSWORD, BODY):
        assert secret not in repr(findings)


@pytest.mark.parametrize(("name", "text"), HARMLESS)
def test_what_models_are_made_of_is_no_secret(workshop, name, text):
    workshop.write(name, text)

    assert errors(check(workshop.package)) == []


def test_a_package_with_a_secret_is_not_packed(workshop):
    workshop.write("features.py", f"KEY = '{AWS_KEY}'\n")

    with pytest.raises(CheckError, match=r"line 1 of features\.py") as caught:
        pack(workshop.package, workshop.artifacts, workshop.archive)

    assert AWS_KEY not in f"{caught.value} {caught.value.findings}"
    assert caught.value.where.endswith("features.py:1")
    assert not workshop.archive.exists()
    assert not (workshop.artifacts / "measured.json").exists()


def test_a_secret_among_the_artefacts_is_found(workshop):
    (workshop.artifacts / "train.json").write_text(json.dumps({"api_key": BODY}))

    (error,) = errors(check(workshop.package, artifacts=workshop.artifacts))

    assert "line 1 of train.json" in error.message


def test_a_secret_in_the_sample_is_found_as_the_manifest_would_hold_it(workshop):
    workshop.write("sample_request.json", json.dumps({"url": f"https://ann:{PASSWORD}@host/a"}))

    (error,) = errors(check(workshop.package))

    assert "sample_request.json" in error.message


ACCEPTED = [
    ("model.py", f"KEY = '{AWS_KEY}'  # pragma: allowlist secret\n"),
    ("model.py", f"KEY = '{AWS_KEY}'  # gitleaks:allow\n"),
    ("model.py", f"# pragma: allowlist nextline secret\nKEY = '{AWS_KEY}'\n"),
    (
        "serving.properties",
        f"# pragma: allowlist nextline secret\noption.env=HF_TOKEN={HUB},DB_PASSWORD={PASSWORD}\n",
    ),
]


@pytest.mark.parametrize(("name", "text"), ACCEPTED)
def test_a_comment_accepts_what_is_in_its_line(workshop, name, text):
    workshop.write(name, text)
    assert errors(check(workshop.package)) == []

    workshop.write(name, f"{text}\n{text}".replace("pragma: ", "").replace("gitleaks:", ""))
    assert len(errors(check(workshop.package))) == 2


def test_a_setting_accepts_files_and_goes_with_the_archive(workshop):
    workshop.write("data/users.csv", f'"password","{PASSWORD}"\n')
    workshop.write("data/prod.env", "A=1\n")
    workshop.write("certs/tls.pem", KEY)
    setting = "option.accepted_secrets=data/*, certs/tls.pem"
    workshop.write("serving.properties", f"engine=Python\nretry_threshold=1\n{setting}\n")
    workshop.pretend_measured()

    assert check(workshop.package) == ()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    assert [one.rule for one in check(workshop.archive)] == ["worker-slots"]


def test_an_archive_that_somebody_else_made_is_searched_too(workshop):
    workshop.archive.parent.mkdir()
    with tarfile.open(workshop.archive, "w:gz") as tar:
        for name, text in {
            "model.py": "handle = None\n",
            "features.py": f"\n'{AWS_KEY}'\n",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))

    (error,) = errors(check(workshop.archive))

    assert error.where.endswith("ridge.tar.gz/features.py:2")


@pytest.mark.parametrize(
    "line",
    [
        f'option.env="DB_PASSWORD={PASSWORD}"',  # quoted-value
        f"option.env=OPTION_API_KEY={PASSWORD}",  # server-variable
        f"DB_PASSWORD={PASSWORD}",  # variable-as-key
        f"db_password={PASSWORD}",  # unknown-key
        f"option.hf_token='{PASSWORD}'",
    ],
)
def test_what_other_rules_say_holds_no_secret(workshop, line):
    workshop.write("serving.properties", f"engine=Python\nretry_threshold=1\n{line}\n")

    findings = check(workshop.package)

    assert len(findings) >= 2
    assert PASSWORD not in repr(findings)
    assert findings[0].rule == "secret-in-text"


def test_a_binary_file_is_not_read_as_a_text(workshop):
    data = b"\x93NUMPY\0" + f"password='{PASSWORD}'\n{KEY}".encode()
    assert is_binary(io.BytesIO(data))
    (workshop.artifacts / "weights.bin").write_bytes(data)

    assert errors(check(workshop.package, artifacts=workshop.artifacts)) == []


@pytest.mark.parametrize("before", [0, (1 << 20) - 4096, (1 << 20) - 10, 1 << 20, (3 << 20) + 17])
def test_a_secret_is_found_wherever_it_is_read_in_two_pieces(before):
    filler = (b"x" * 97 + b"\n") * (before // 98) + b"y" * (before % 98)
    text = filler + f"\nKEY = '{AWS_KEY}'\n{KEY}".encode()

    found = found_in(text)

    lines = filler.count(b"\n") + 2
    assert [(one.line, one.what) for one in found] == [
        (lines, "an access key of AWS"),
        (lines + 1, "a private key"),
    ]


def test_of_many_secrets_the_first_are_told():
    assert len(found_in(f"password = '{PASSWORD}'\n" * 5000)) == MOST


def test_texts_beyond_what_is_searched_are_told(workshop, monkeypatch):
    monkeypatch.setattr(secret_search, "SEARCHED_BYTES", 4096)
    (workshop.artifacts / "vocab.txt").write_text("word\n" * 2000)
    workshop.pretend_measured()

    (finding,) = check(workshop.package, artifacts=workshop.artifacts)

    assert (finding.rule, finding.severity) == ("secrets-not-sought", "warning")
    assert finding.where.endswith("vocab.txt")


@pytest.mark.parametrize(
    "piece",
    [
        "eyJ-",
        "://",
        '"key": ',
        "-----BEGIN PRIVATE KEY-----\n\\n",
        "password",
        "pass='",
        "key: ",
        "gh_",
        "\n",
    ],
)
def test_texts_that_are_made_to_take_long_take_time_in_proportion(piece):
    text = (piece * (1 << 20))[: 1 << 20]
    began = time.process_time()
    found_in(text, Manner(bare=True))
    assert time.process_time() - began < 20


def test_headers_of_a_key_that_never_comes_are_read_in_one_way():
    text = "-----BEGIN PRIVATE KEY-----" + "Comment-" * 500 + "!"
    began = time.process_time()
    assert found_in(text) == []
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "line", ["option.max_token=1", "option.pad_token=key", "option.use_auth_token=true"]
)
def test_numbers_and_words_are_left_in_what_other_rules_say(workshop, line):
    def said():
        return {(one.rule, one.message) for one in check(workshop.package)}

    workshop.write("serving.properties", "engine=Python\nmaxWorker=true1key\n")
    before = said()
    workshop.write("serving.properties", f"engine=Python\nmaxWorker=true1key\n{line}\n")

    assert before
    assert before <= said()


def test_a_large_text_of_numbers_and_words_holds_no_secret():
    source = random.Random(7)  # noqa: S311 - words, not secrets
    words = [f"##{source.getrandbits(60):x}"[: source.randint(4, 14)] for _ in range(2000)]
    vocabulary = json.dumps({source.choice(words) + str(n): n for n in range(50_000)}, indent=0)
    hashes = "\n".join(f"{source.getrandbits(256):064x}  file{n}.bin" for n in range(5000))
    blob = base64.b64encode(source.randbytes(1 << 20)).decode()

    for text in (vocabulary, hashes, json.dumps({"weights": blob})):
        assert found_in(text, Manner(bare=True)) == []
