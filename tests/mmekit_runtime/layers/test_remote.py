"""Layers from S3: signed as AWS wants it, tried again where that helps, and no secret told."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mmekit_runtime.layers import remote
from mmekit_runtime.layers.listing import LayerError
from mmekit_runtime.layers.signing import Credentials, signed_headers
from tests.signed_objects import ACCESS_KEY, SECRET_KEY, TOKEN, SignedObjects, tar_of

FILES = {"pkg/a.py": b"x = 1\n"}
SECRETS = (ACCESS_KEY, SECRET_KEY, TOKEN)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE_S", 0.001)


@pytest.fixture
def entry(entry_of, bucket):
    made = entry_of({"pkg/a.py": "x = 1\n"})
    bucket.put(made.sha256, tar_of(FILES))
    return made


@pytest.fixture
def fetch(bucket, entry, tmp_path):
    def fetch(prefix="s3://shared/layers/", **environment):
        folder = tmp_path / "new"
        folder.mkdir(exist_ok=True)
        remote.fetch(prefix, entry, str(folder), bucket.environment(**environment))
        return (folder / "pkg" / "a.py").read_bytes()

    return fetch


def refused(fetch, **environment):
    with pytest.raises(LayerError) as caught:
        fetch(**environment)
    said = str(caught.value)
    assert not any(secret in said for secret in SECRETS)
    assert "\n" not in said
    return said


def test_a_layer_is_fetched_with_one_signed_request(fetch, bucket, entry):
    assert fetch() == b"x = 1\n"
    assert bucket.requests == [f"/shared/layers/{entry.sha256}.tar.gz"]


def test_a_prefix_without_its_slash_is_the_same_prefix(fetch):
    assert fetch("s3://shared/layers") == b"x = 1\n"


def test_keys_without_a_token_are_those_of_a_user(fetch):
    assert fetch(AWS_SESSION_TOKEN="") == b"x = 1\n"


@pytest.mark.parametrize("path", ["/b/c.tar.gz", "/a%20b/%C3%A4~-_.x"])
@pytest.mark.parametrize("token", ["", TOKEN])
def test_the_signature_is_botocores(bucket, path, token):
    credentials = Credentials(ACCESS_KEY, SECRET_KEY, token)
    headers = signed_headers("127.0.0.1:9", path, "eu-west-1", credentials, now=1.7e9)

    signature = headers["authorization"].partition("Signature=")[2]

    given = {**headers, "host": "127.0.0.1:9"}
    assert signature == bucket.signature_for(path, given, "eu-west-1")
    assert headers["x-amz-date"] == "20231114T221320Z"


def test_a_bucket_of_another_region_is_asked_there(fetch, bucket):
    assert fetch(AWS_REGION="us-east-1") == b"x = 1\n"
    assert len(bucket.requests) == 2


def test_without_a_region_the_bucket_says_which_it_is(fetch):
    assert fetch(AWS_REGION="") == b"x = 1\n"


@pytest.mark.parametrize("fault", [500, 503, "reset", "truncate"])
def test_what_may_pass_is_tried_again(fetch, bucket, fault):
    bucket.misbehaviour = [fault, fault]

    assert fetch() == b"x = 1\n"
    assert len(bucket.requests) == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (500, "the answer is 500 InternalError, 4 times"),
        ("reset", "127.0.0.1:"),
        ("truncate", "its bytes end too early, 4 times"),
    ],
)
def test_what_does_not_pass_is_given_up(fetch, bucket, fault, said):
    bucket.misbehaviour = [fault] * 10

    assert said in refused(fetch)
    assert len(bucket.requests) == 4


def test_what_is_not_allowed_is_said_at_once(fetch, bucket):
    bucket.misbehaviour = [403]

    assert "403 AccessDenied: the role needs s3:GetObject there" in refused(fetch)
    assert len(bucket.requests) == 1


def test_a_layer_that_is_not_there_is_said(fetch, bucket):
    bucket.objects.clear()

    said = refused(fetch)

    assert said.startswith("s3://shared/layers/")
    assert "404 NoSuchKey: it is not there; `mme layers push` uploads it" in said


def test_credentials_that_have_expired_are_said_to_have(fetch):
    assert "the credentials have expired" in refused(fetch, AWS_SESSION_TOKEN="expired")


def test_a_wrong_key_is_not_told(fetch):
    said = refused(fetch, AWS_SECRET_ACCESS_KEY="another")

    assert "403 SignatureDoesNotMatch: the credentials are none of S3's" in said


def test_a_key_that_no_header_can_hold_is_not_told(fetch):
    said = refused(fetch, AWS_SESSION_TOKEN="un\nsayable")

    assert "the credentials have characters that no key has" in said
    assert "sayable" not in said


def test_without_credentials_it_is_said_where_they_were_looked_for(fetch, bucket):
    said = refused(fetch, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")

    assert "no credentials here: neither AWS_ACCESS_KEY_ID nor a role's" in said
    assert bucket.requests == []


def of_container(bucket, **more):
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": ""}
    return {**keys, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{bucket.url}/role", **more}


ROLE = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": TOKEN}


def test_a_container_is_given_its_roles_credentials(fetch, bucket, tmp_path):
    bucket.role, bucket.token = ROLE, "a bearer"
    (tmp_path / "token").write_text("a bearer\n")

    asked = of_container(bucket, AWS_CONTAINER_AUTHORIZATION_TOKEN="a bearer")
    assert fetch(**asked) == b"x = 1\n"
    (tmp_path / "new" / "pkg" / "a.py").unlink()
    asked = of_container(bucket, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(tmp_path / "token"))
    assert fetch(**asked) == b"x = 1\n"


@pytest.mark.parametrize("role", [None, {}, {"AccessKeyId": ACCESS_KEY}])
def test_credentials_that_a_container_is_not_given_are_missed(fetch, bucket, role):
    bucket.role = role

    assert "the container's credentials are not to be had" in refused(fetch, **of_container(bucket))


def test_a_token_of_the_container_is_not_told(fetch, bucket):
    bucket.role, bucket.token = ROLE, "a bearer"
    for token in ("another bearer", "un\nsayable bearer"):
        asked = of_container(bucket, AWS_CONTAINER_AUTHORIZATION_TOKEN=token)
        assert "bearer" not in refused(fetch, **asked)


def test_credentials_of_a_container_come_past_any_proxy(fetch, bucket, monkeypatch):
    bucket.role = ROLE
    asked = of_container(bucket)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{bound.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        said = refused(fetch, **asked)

    # The bucket is asked through it.
    assert "cannot be reached" in said
    assert "credentials" not in said


@pytest.mark.parametrize("url", ["http://example.org/role", "http://10.0.0.1/role", "file:///role"])
def test_credentials_are_not_asked_for_over_an_open_network(fetch, bucket, url):
    asked = of_container(bucket, AWS_CONTAINER_CREDENTIALS_FULL_URI=url)

    assert "neither https nor here" in refused(fetch, **asked)


def test_without_a_network_the_host_is_named_that_does_not_answer(fetch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://somebody:secret@127.0.0.1:{bound.getsockname()[1]}"
        said = refused(fetch, AWS_ENDPOINT_URL_S3=url)

    assert "cannot be reached (Connection refused), 4 times" in said
    assert "secret" not in said


def test_an_address_of_another_kind_is_refused(fetch):
    said = refused(fetch, AWS_ENDPOINT_URL="file:///etc")

    assert "AWS_ENDPOINT_URL is no address of http or https" in said


@pytest.mark.parametrize(
    ("bucket_name", "region", "place"),
    [
        ("b", "eu-west-1", ("https", "b.s3.eu-west-1.amazonaws.com", "/p/x")),
        ("b", "cn-north-1", ("https", "b.s3.cn-north-1.amazonaws.com.cn", "/p/x")),
        ("b.c", "eu-west-1", ("https", "s3.eu-west-1.amazonaws.com", "/b.c/p/x")),
    ],
)
def test_buckets_are_asked_at_awss_addresses(bucket_name, region, place):
    assert remote._location(bucket_name, "p/x", region, {}) == place


def certificate(folder):
    """Write a certificate for 127.0.0.1 that only itself vouches for, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a stand-in of S3")])
    now = dt.datetime.now(dt.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    return folder / "certificate.pem", folder / "key.pem"


def test_over_tls_the_bundle_that_is_named_says_who_is_believed(entry, tmp_path):
    bundle, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, key)
    bucket = SignedObjects(context)
    bucket.put(entry.sha256, tar_of(FILES))
    new, none = tmp_path / "new", tmp_path / "none"
    new.mkdir()
    none.mkdir()
    try:
        environ = bucket.environment(AWS_CA_BUNDLE=str(bundle))
        remote.fetch("s3://shared/layers/", entry, str(new), environ)
        with pytest.raises(LayerError, match=r"cannot be reached \(.*certificate"):
            remote.fetch("s3://shared/layers/", entry, str(none), bucket.environment())
    finally:
        bucket.close()

    assert (new / "pkg" / "a.py").read_bytes() == b"x = 1\n"
    assert len(bucket.requests) == 1
