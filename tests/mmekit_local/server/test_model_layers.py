"""Models that have layers in common, in the server itself: provided, held, and let go of."""

import fcntl
import json
import os
import sys

import psutil
import pytest

from mmekit_local.server import environment_spec
from mmekit_local.server.load_plan import plan_load
from mmekit_runtime.layers.holding import platform
from tests.layered_archives import Layer, listing, put_into_store, runtime_layer
from tests.server_process import ServerProcess, open_files, wait_until

SHARING = b"""
import os
from mmekit_runtime import TextHandler
import mmekit_runtime

class Sharing(TextHandler):
    def load_shared(self, folder):
        return {"body": (folder / "body.txt").read_text(), "pid": os.getpid()}

    def load(self, folder, shared):
        return {**shared, "own": (folder / "own.txt").read_text()}

    def predict(self, model, rows, parameters):
        here = {"runtime": mmekit_runtime.__file__, "parent": os.getppid()}
        return [str({**model, **here}) for _ in rows]

handle = Sharing()
"""
USING = b"""
from mmekit_runtime import TextHandler
import shared_library

class Using(TextHandler):
    def load(self, folder):
        return shared_library.__file__

    def predict(self, model, rows, parameters):
        return [model for _ in rows]

handle = Using()
"""
BODY = Layer({"body.txt": b"of all", "weights.bin": bytes(3_000_000)})
LIBRARIES = Layer({"shared_library.py": b"SIZE = 1\n"}, "libraries", "shared-library 1.0")
RUNTIME, HOOK = runtime_layer()


@pytest.fixture(scope="module", params=["slots", "plain engine"])
def server(request):
    off = {} if request.param == "slots" else {"MMEKIT_WORKER_SLOTS": "off"}
    running = ServerProcess("--memory", str(2 << 30), environment=off)
    running.has_slots = not off
    yield running
    running.close()


@pytest.fixture
def models(tmp_path):
    """Make model folders as they lie beside a store, on a platform that unpacked them."""

    class Models:
        store = tmp_path / "models" / ".mmekit-layers"

        def make(self, name, *layers, code=SHARING, inline=False, **files):
            folder = tmp_path / "models" / name / "model"
            own = {"model.py": code, "own.txt": name.encode(), "serving.properties": b""}
            own["serving.properties"] = b"engine=Python\nminWorkers=1\nmaxWorkers=4\n"
            contents = {**own, **HOOK, **(listing(*layers) if layers else {}), **files}
            for layer in layers if inline else ():
                contents.update(layer.members())
            for path, content in contents.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            return folder

        def put(self, *layers):
            for layer in layers:
                put_into_store(layer, self.store)

        def is_held(self, layer):
            with (self.store / f"{layer.sha256}.lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
            return False

    return Models()


def told(server, name):
    answer = server.value(name, json.dumps(["x"]))
    return json.loads(answer)["predictions"][0]


def test_a_thin_model_has_its_runtime_and_its_body_from_the_store(server, models):
    models.put(RUNTIME, BODY)
    names = [server.loaded(models.make(name, RUNTIME, BODY), name) for name in ("one", "two")]
    seen = [eval(told(server, name)) for name in names]  # noqa: S307  of our own model
    assert [one["own"] for one in seen] == names
    assert {one["body"] for one in seen} == {"of all"}
    assert {one["runtime"].startswith(str(models.store / RUNTIME.sha256)) for one in seen} == {True}
    # One fork server for both, which runs the layer's runtime.
    assert len(server.fork_servers()) == (1 if server.has_slots else 0)
    for name in names:
        assert models.is_held(BODY)
        assert server.unload(name).status_code == 200
    assert not models.is_held(BODY)
    assert not models.is_held(RUNTIME)


def test_however_many_models_hold_a_layer_the_server_has_one_descriptor_of_it(server, models):
    models.put(RUNTIME, BODY)
    lock = str(models.store / f"{BODY.sha256}.lock")
    names = [server.loaded(models.make(name, RUNTIME, BODY), name) for name in "abc"]
    assert open_files(psutil.Process(server.pid))[lock] == 1
    for name in names:
        assert models.is_held(BODY)
        server.unload(name)
    assert open_files(psutil.Process(server.pid))[lock] == 0


def test_a_library_of_a_layer_is_imported(server, models):
    models.put(RUNTIME, LIBRARIES)
    name = server.loaded(models.make("using", RUNTIME, LIBRARIES, code=USING), "using")
    assert told(server, name) == str(models.store / LIBRARIES.sha256 / "shared_library.py")
    server.unload(name)


def test_inline_layers_are_adopted_where_nobody_has_done_it(server, models):
    folder = models.make("inline", BODY, inline=True, **runtime_files())
    name = server.loaded(folder, "inline")
    assert eval(told(server, name))["body"] == "of all"  # noqa: S307
    assert (models.store / BODY.sha256 / "body.txt").read_bytes() == b"of all"
    server.unload(name)


def runtime_files():
    return RUNTIME.files


def test_a_layer_that_is_not_to_be_had_fails_the_load_and_says_what_to_do(server, models):
    models.put(RUNTIME)
    answer = server.load("lacking", models.make("lacking", RUNTIME, BODY))
    assert answer.status_code == 500
    message = answer.json()["message"]
    assert f"layer {BODY.sha256[:12]} (body, 3.0 MB: a table) is missing here" in message
    assert "MMEKIT_LAYERS is not set" in message
    assert not models.is_held(RUNTIME)
    models.put(BODY)
    server.loaded(models.store.parent / "lacking" / "model", "lacking")
    server.unload("lacking")


def test_a_model_that_fails_to_load_lets_go_of_its_layers(server, models):
    models.put(RUNTIME, BODY)
    folder = models.make("broken", RUNTIME, BODY, code=b"import nonsense")
    assert server.load("broken", folder).status_code >= 400
    assert not models.is_held(BODY)


def test_a_libraries_layer_for_another_python_is_refused(server, models):
    other = Layer({"a.py": b""}, "libraries", "a 1.0", python="3.99", platform="linux-x86_64")
    models.put(RUNTIME, other)
    answer = server.load("old", models.make("old", RUNTIME, other, code=USING))
    assert answer.status_code == 500
    assert "is for Python 3.99, and this is 3" in answer.json()["message"]


def test_a_foreign_models_layers_json_is_its_own(server, models):
    folder = models.make("keras", **{"layers.json": b'["dense"]'})
    (folder / "sitecustomize.py").unlink()
    code = b"def handle(inputs):\n    return None\n"
    (folder / "model.py").write_bytes(code)
    server.loaded(folder, "keras")
    server.unload("keras")


def test_layers_are_held_until_the_server_ends_however_it_does(models):
    models.put(RUNTIME, BODY)
    server = ServerProcess("--exit-with-stdin")
    server.loaded(models.make("held", RUNTIME, BODY), "held")
    processes = server.children()
    assert models.is_held(BODY)
    os.kill(server.pid, 9)
    server.close()
    psutil.wait_procs(processes, timeout=60)
    wait_until(lambda: not models.is_held(BODY))


def other_python():
    """Return the version of another Python of this machine that mmekit runs on."""
    running = "{}.{}".format(*sys.version_info)
    for version in ("3.12", "3.11", "3.10"):
        if version != running and environment_spec._find_python(version) is not None:
            return version
    return pytest.skip("this machine has one Python")


def test_compiled_libraries_run_on_the_python_that_they_are_for(models):
    version = other_python()
    theirs = Layer({"a.py": b""}, "libraries", "a 1.0", version, platform())
    ours = Layer({"a.py": b""}, "libraries", "a 1.0", "{}.{}".format(*sys.version_info), platform())
    folder = models.make("compiled", RUNTIME, theirs, code=USING)

    spec = environment_spec.environment_for(folder, None, [theirs.entry])

    assert spec.version == version
    assert spec.wanted.lines == ()
    assert any(line.startswith("scikit-learn==") for line in spec.base)
    assert environment_spec.environment_for(folder, None, [ours.entry]) is None
    assert environment_spec.environment_for(folder, None, [BODY.entry]) is None


@pytest.mark.thorough
def test_a_model_with_libraries_for_another_python_is_served_by_that(models, tmp_path):
    layer = Layer({"shared_library.py": b""}, "libraries", "a 1.0", other_python(), platform())
    models.put(RUNTIME, layer)
    code = USING.replace(
        b"shared_library.__file__", b"'%d.%d' % __import__('sys').version_info[:2]"
    )
    server = ServerProcess(environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    try:
        folder = models.make("compiled", RUNTIME, layer, code=code)
        content = {"model_name": "compiled", "url": folder.as_uri()}
        answer = server.client.post("/models", json=content, timeout=280)
        assert answer.status_code == 200, answer.text + server.log
        assert told(server, "compiled") == layer.python
    finally:
        server.close()


@pytest.mark.parametrize("inline", [False, True])
def test_what_others_share_is_not_what_a_model_takes(models, inline):
    folder = models.make("one", BODY, inline=inline, **RUNTIME.files)
    assert (folder / "layers").exists() == inline
    plan = plan_load(str(folder), most_workers=4, installs=False)
    assert plan.layers == (BODY.entry,)
    own = RUNTIME.size + sum(map(len, HOOK.values()))
    assert own < plan.required < 1.2 * (own + 20_000) < BODY.size
