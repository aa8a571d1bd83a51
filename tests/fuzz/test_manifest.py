"""Whatever manifest.json holds: a manifest, or a `ManifestError`."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from mmekit.archive.manifest import Digest, Manifest, read_manifest
from mmekit.archive.measured import Measured, MeasuredMemory
from mmekit.archive.package import MANIFEST_FILE
from mmekit.errors import ManifestError

thoroughly = settings.get_profile("fuzz")

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from([1, "format", "files", "measured", "Infinity"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


MANIFEST = Manifest(
    name="ridge",
    mmekit="1",
    image=None,
    worker_slots=False,
    measured=Measured(
        python="3.11.7",
        libraries={"numpy": "2"},
        required=("numpy",),
        imports=("numpy",),
        modules=(),
        preload=("numpy",),
        threads={"numpy": 1},
        memory=MeasuredMemory(1, 2, 3, "kernel", None),
        fork_failure=None,
        fingerprint="0",
    ),
    files={"model.py": Digest("0", 1)},
)


@st.composite
def changed_manifests(draw):
    """A manifest of which some values are others."""
    content = json.loads(MANIFEST.to_json())
    for _ in range(draw(st.integers(1, 3))):
        where = content
        while True:
            key = draw(st.sampled_from(sorted(where)))
            if not (isinstance(where[key], dict) and where[key] and draw(st.booleans())):
                break
            where = where[key]
        where[key] = draw(values)
    return json.dumps(content).encode()


deep = st.sampled_from([b"[", b'{"format":', b"1"])
texts = st.one_of(
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    changed_manifests(),
    st.builds(lambda text, times: text * times, deep, st.integers(0, 100_000)),
)


@thoroughly
@given(texts)
def test_a_manifest_is_read_or_refused(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_bytes(text)
    with contextlib.suppress(ManifestError):
        found = read_manifest(tmp_path)
        assert Manifest.from_json(found.to_json(), where="here") == found
