"""What a refused request has changed is put back, and nobody who reads meanwhile sees it."""

import pytest
from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID

from mmekit_local.aws.moto.aws import Aws
from mmekit_local.aws.state.log import StateLog
from mmekit_local.aws.state.recorder import StateRecorder
from mmekit_local.sagemaker.api import ApiRequest

HEADERS = [
    (b"host", b"localhost"),
    (
        b"authorization",
        b"AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/s3/aws4_request, Signature=0",
    ),
]


def request(method, path, *headers, body=b""):
    return ApiRequest(
        method=method, path=path, query=b"", headers=[*HEADERS, *headers], body=(body,)
    )


@pytest.fixture
def aws(tmp_path):
    log = StateLog(tmp_path)
    aws = Aws(StateRecorder(log))
    yield aws
    aws._answer(request("DELETE", b"/undone/key"))
    aws._answer(request("DELETE", b"/undone"))
    aws.close()
    log.close()


class Watched(dict):
    """Buckets that somebody may look at between any two changes."""

    def changed(self):
        assert "undone" in self

    def clear(self):
        super().clear()
        self.changed()

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        self.changed()

    def __delitem__(self, name):
        super().__delitem__(name)
        self.changed()


def test_who_reads_while_others_are_refused_finds_everything(aws, monkeypatch):
    assert aws._answer(request("PUT", b"/undone")).status == 200
    assert aws._answer(request("PUT", b"/undone/key", body=b"here")).status == 200
    (backend,) = get_backend("s3")[DEFAULT_ACCOUNT_ID].values()
    monkeypatch.setattr(backend, "buckets", Watched(backend.buckets))

    taken = request("PUT", b"/undone/key", (b"if-none-match", b"*"))

    assert aws._answer(taken).status == 412
    assert aws._answer(request("GET", b"/undone/key")).body == b"here"
