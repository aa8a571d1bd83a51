"""What models take of an instance: what they share counts once."""

import dataclasses
from pathlib import Path

from mmekit.archive import Digest, Manifest, Measured, MeasuredMemory
from mmekit.archive.layers import ArchiveLayer
from mmekit.deploy import PackedModel, capacity_of
from mmekit.deploy.layer_files import NamedLayer

MIB = 1 << 20
TYPE = "ml.m5.large"  # 8192 MiB, of which 500 stay free
# 300 MiB alone: 180 of libraries, 100 of a body, 20 of its own.
MEMORY = MeasuredMemory(300 * MIB, 300 * MIB, 300 * MIB, "smaps_rollup", 20 * MIB, 100 * MIB)


def layer(kind, digit, size=100 * MIB):
    return ArchiveLayer(digit * 64, kind, size, 1, f"{kind} {digit}", inline=False)


def model(name, *layers, code="0", size=MIB, memory=MEMORY, preload=("torch",), slots=True):
    """A model that was packed."""
    measured = Measured(
        "3.11.9", {}, (), (), (), preload, {}, memory, fork_failure=None, fingerprint=""
    )
    files = {"model.py": Digest(code * 64, 100), "head.bin": Digest(name, size - 100)}
    manifest = Manifest(name, "1.0.0", None, slots, measured, files, layers=layers)
    named = tuple(NamedLayer(one.entry, one.inline, Path("x")) for one in layers)
    return PackedModel(
        f"{name}.tar.gz", f"{name}.tar.gz", Path("x"), "0" * 64, size, manifest, named
    )


def needed(*models):
    found = capacity_of(TYPE, models)
    return found.needed_mb, found.bodies_mb


def test_a_body_and_libraries_count_once_for_models_of_the_same_code():
    body = layer("body", "a")
    assert needed(model("one", body)) == (300, 100)
    assert needed(*(model(str(number), body) for number in range(10))) == (280 + 10 * 20, 100)


def test_models_of_another_body_code_or_library_layer_share_less():
    body, other = layer("body", "a"), layer("body", "b")
    assert needed(model("1", body), model("2", other)) == (180 + 2 * 120, 200)
    assert needed(model("1", body), model("2", body, code="1")) == (180 + 2 * 120, 200)
    first, second = layer("libraries", "c"), layer("libraries", "d")
    assert needed(model("1", body, first), model("2", body, second)) == (2 * 300, 200)


def test_without_worker_slots_nothing_is_shared():
    body = layer("body", "a")
    assert needed(model("1", body, slots=False), model("2", body, slots=False)) == (600, 0)


def test_a_body_that_each_process_loads_for_itself_is_counted_for_each():
    memory = dataclasses.replace(MEMORY, forked=120 * MIB, shared=None)
    body = layer("body", "a")
    models = [model(str(number), body, memory=memory) for number in range(2)]
    assert needed(*models) == (180 + 2 * 120, 0)


def test_it_is_told_how_many_customers_fit_and_what_they_share():
    models = [model(str(number), layer("body", "a")) for number in range(400)]
    found = capacity_of(TYPE, models)
    assert (found.fits, found.alike) == ((8192 - 500 - 280) // 20, (8192 - 500 - 280) // 20)
    lines = "\n".join(found.lines())
    assert "370 of 400 measured models are in memory at once" in lines
    assert "100 MiB of it are bodies that models share, loaded once" in lines


def test_a_layer_is_on_a_disk_once():
    models = [model(str(number), layer("body", "a", 900 * MIB)) for number in range(200)]
    found = capacity_of(TYPE, models, volume_gb=2)
    assert found.disk_mb == 200 + 900
    assert found.lines()[-1] == "disk: all models take 1100 of 2048 MiB"
    assert "would take 1100 MiB, of 1024" in capacity_of(TYPE, models, volume_gb=1).lines()[-1]
    assert "disk" not in "".join(capacity_of(TYPE, models).lines())
