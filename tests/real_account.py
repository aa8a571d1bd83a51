"""A stand-in for the account that nothing of a rehearsal may reach."""

import contextlib
import socketserver
import threading


class RealAccount(socketserver.ThreadingTCPServer):
    """Listens on loopback, writes down what comes, and answers nothing of use.

    As a proxy it hears of every connection that a program would make to elsewhere.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), None)
        self.heard = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request, client_address):
        request.settimeout(5)
        self.heard.append(request.recv(65536))
        request.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextlib.contextmanager
def real_account():
    """Let an account be there for as long as the block runs."""
    with RealAccount() as account:
        threading.Thread(target=account.serve_forever, daemon=True).start()
        try:
            yield account
        finally:
            account.shutdown()
