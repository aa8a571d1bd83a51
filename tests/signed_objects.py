"""A stand-in of S3 on loopback that holds objects and believes only botocore's own signatures."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

ACCESS_KEY, SECRET_KEY, TOKEN = "AKIDTHATISPUBLIC", "a/secret+key", "a-token-of-a-role"


class SignedObjects:
    """The server.

    Parameters
    ----------
    context
        Of TLS; without one it speaks plain HTTP.

    Attributes
    ----------
    objects
        By ``/bucket/key``.
    requests
        The paths that it was asked for.
    region
        In which signatures have to be.
    misbehaviour
        What happens to the next requests, one each: a status, ``reset``, ``truncate`` or a call.
    role
        What the container's credentials are, at ``/role``; None answers 500.
    token
        That ``/role`` wants to be shown.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.region = "eu-central-1"
        self.misbehaviour: list[int | str | Callable[[], object]] = []
        self.role: dict[str, str] | None = None
        self.token = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
        self._server.daemon_threads = True
        self._scheme = "http"
        if context is not None:
            self._scheme = "https"
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.stand_in = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a worker is given to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_REGION": self.region,
            "MMEKIT_LAYERS": "s3://shared/layers/",
            **more,
        }

    def put(self, sha256: str, data: bytes) -> None:
        self.objects[f"/shared/layers/{sha256}.tar.gz"] = data

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def signature_for(self, path: str, headers: Mapping[str, str], region: str) -> str:
        """Return what botocore would have signed such a request with."""
        signed = headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
        request = AWSRequest(
            "GET",
            f"http://{headers['host']}{path}",
            headers={name: headers[name] for name in signed if name != "host"},
        )
        request.context["timestamp"] = headers["x-amz-date"]
        token = headers.get("x-amz-security-token")
        signer = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY, token), "s3", region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        return signer.signature(text, request)


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        stand_in: SignedObjects = self.server.stand_in
        if self.path == "/role":
            self._role(stand_in)
            return
        stand_in.requests.append(self.path)
        fault = stand_in.misbehaviour.pop(0) if stand_in.misbehaviour else None
        if callable(fault):
            fault = fault()
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
        elif isinstance(fault, int):
            self._error(fault, "InternalError" if fault >= 500 else "AccessDenied")
        elif f"/{stand_in.region}/s3/" not in self.headers["authorization"]:
            self._error(301, "PermanentRedirect", {"x-amz-bucket-region": stand_in.region})
        elif not self._is_signed(stand_in):
            self._error(403, "SignatureDoesNotMatch")
        elif self.headers["x-amz-security-token"] == "expired":
            self._error(400, "ExpiredToken")
        elif self.path not in stand_in.objects:
            self._error(404, "NoSuchKey")
        else:
            data = stand_in.objects[self.path]
            self._send(200, data, {}, len(data) // 2 if fault == "truncate" else None)

    def _is_signed(self, stand_in: SignedObjects) -> bool:
        headers = {name.lower(): value for name, value in self.headers.items()}
        wanted = stand_in.signature_for(self.path, headers, stand_in.region)
        needed = {"host", "x-amz-content-sha256", "x-amz-date"}
        signed = headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
        return headers["authorization"].endswith(f"Signature={wanted}") and needed <= set(signed)

    def _role(self, stand_in: SignedObjects) -> None:
        if stand_in.token and self.headers["authorization"] != stand_in.token:
            self._error(401, "Unauthorized")
        elif stand_in.role is None:
            self._error(400, "NoRole")
        else:
            self._send(200, json.dumps(stand_in.role).encode(), {})

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        # S3 repeats what was signed, and with which key.
        said = f"<Error><Code>{code}</Code><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId></Error>"
        self._send(status, said.encode(), headers or {})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


def tar_of(files: Mapping[str, bytes], mode: int = 0o644) -> bytes:
    """Return a layer's tar.gz."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 1)
