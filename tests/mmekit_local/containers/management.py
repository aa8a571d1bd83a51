"""Multi Model Server as whoever manages it asks it."""

import http.client
from urllib.parse import urlencode


def ask(server, method, path, body=b"", content_type="application/octet-stream"):
    """Return status and text of an answer."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
    connection.request(method, path, body, {"Content-Type": content_type})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def load(server, name, folder):
    """Have a model loaded, with a worker that is there when it answers."""
    asked = urlencode({"model_name": name, "url": str(folder)})
    return ask(server, "POST", f"/models?{asked}&initial_workers=1&synchronous=true")
