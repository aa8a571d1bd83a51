"""`mme check` says what layers weigh, and what would not work with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmekit.archive import MeasuredMemory, check, declared_image, describe, pack
from mmekit.archive.contents import Contents, Member
from mmekit.archive.layers import ArchiveLayer, LayerSource
from mmekit.archive.rules import layers as rules
from mmekit.archive.rules import top_level
from mmekit.archive.rules.subject import Subject
from mmekit.errors import CheckError

IMAGE = declared_image("mine:1=djl-inference:0.36.0-cpu-full,catboost==1.2.8")
SHARING = """\
from mmekit_runtime import Handler


class Model(Handler):
    def load_shared(self, folder):
        return (folder / "body.bin").read_bytes()

    def load(self, folder, shared):
        return shared

    def predict(self, model, rows, parameters):
        return rows


handle = Model()
"""
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"


@pytest.fixture(name="sharing")
def a_package_with_a_body(workshop):
    workshop.write("model.py", SHARING)
    workshop.write("serving.properties", "engine=Python\noption.shared=body.bin\n")
    (workshop.artifacts / "body.bin").write_bytes(bytes(1_500_000))
    workshop.pretend_measured()
    return workshop


def finding(findings, rule):
    (found,) = [one for one in findings if one.rule == rule]
    return found


def rules_of(findings):
    return {one.rule for one in findings}


def found_in(workshop):
    return check(workshop.package, artifacts=workshop.artifacts)


# What it weighs.


def test_a_package_says_what_will_be_shared(sharing):
    said = finding(found_in(sharing), "layers")

    assert said.severity == "note"
    assert "1 files, 1.5 MB" in said.message


@pytest.mark.parametrize("thin", [False, True])
def test_an_archive_says_what_its_layers_weigh(sharing, thin):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, thin=thin)

    found = check(sharing.archive)

    assert not [one for one in found if one.is_error]
    said = finding(found, "layers").message
    assert f"layer {packed.layers[0].sha256[:12]} (body, 1.5 MB: body.bin)" in said
    assert ("which it only names" in said) is thin
    assert "no worker slots" not in finding(found, "worker-slots").message
    assert finding(packed.findings, "layers").message == said


def test_an_archive_is_described_with_its_layers(sharing):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive)

    assert describe(sharing.archive).layers == packed.layers
    assert describe(sharing.package, artifacts=sharing.artifacts).layers == ()


def test_a_package_says_that_its_libraries_will_be_a_layer(workshop):
    workshop.write("requirements.txt", "catboost\nnumpy\n")
    workshop.write("serving.properties", "engine=Python\noption.layers=true\n")
    workshop.pretend_measured()

    found = found_in(workshop)

    assert "the libraries of catboost and what they need" in finding(found, "layers").message
    assert "installs-at-load" not in rules_of(found)


# What is shared.


@pytest.mark.parametrize("name", ["bodi.bin", "body", "*.safetensors"])
def test_what_names_no_file_is_an_error(sharing, name):
    sharing.write("serving.properties", f"engine=Python\noption.shared={name}\n")

    assert name in finding(found_in(sharing), "shared-matches-nothing").message
    with pytest.raises(CheckError):
        pack(sharing.package, sharing.artifacts, sharing.archive)


@pytest.mark.parametrize("pattern", ["model.py", "*", "serving.properties", "features.py"])
def test_code_and_settings_are_not_shared(sharing, pattern):
    sharing.write("features.py", "x = 1\n")
    sharing.write("serving.properties", f"engine=Python\noption.shared=body.bin,{pattern}\n")

    assert finding(found_in(sharing), "shared-own-file").severity == "error"


def test_without_its_artefacts_a_package_is_not_told_what_they_lack(sharing):
    assert "shared-matches-nothing" not in rules_of(check(sharing.package))


def test_a_folder_called_layers_has_no_place_beside_layers(sharing):
    (sharing.artifacts / "layers").mkdir()
    (sharing.artifacts / "layers" / "first.bin").write_bytes(b"x")
    sharing.pretend_measured()

    assert "layers/first.bin" in finding(found_in(sharing), "layers-folder-taken").message
    sharing.write("serving.properties", "engine=Python\n")
    assert "layers-folder-taken" not in rules_of(found_in(sharing))


def test_a_sitecustomize_is_refused_beside_layers_too(sharing):
    sharing.write("sitecustomize.py", "x = 1\n")
    sharing.pretend_measured()

    with pytest.raises(CheckError, match=r"sitecustomize\.py already"):
        pack(sharing.package, sharing.artifacts, sharing.archive, worker_slots=False)


def test_worker_slots_are_left_out_for_a_sitecustomize_only_where_that_helps(sharing):
    sharing.write("sitecustomize.py", "x = 1\n")

    beside_layers = finding(found_in(sharing), "site-hook-taken")
    sharing.write("serving.properties", "engine=Python\n")
    without = finding(found_in(sharing), "site-hook-taken")

    assert beside_layers.remedy == "Move its code to the top of model.py."
    assert "or pack with --no-worker-slots" in without.remedy


def test_a_secret_in_a_shared_file_is_found(sharing):
    (sharing.artifacts / "body.bin").unlink()
    (sharing.artifacts / "body.json").write_text(
        '{"api_token": "ghp_x8Kq2mVw5Tz1Rb7Yc4Ld9Nf3Hj6Pg0Sa2B"}'
    )
    sharing.write("serving.properties", "engine=Python\noption.shared=body.json\n")
    sharing.pretend_measured()

    assert finding(found_in(sharing), "secret-in-text").severity == "error"


# load_shared.


def test_a_load_shared_without_shared_files_is_an_error(sharing):
    sharing.write("serving.properties", "engine=Python\n")

    found = finding(found_in(sharing), "nothing-shared")

    assert found.severity == "error"
    assert "option.shared=" in found.remedy


def test_a_handler_that_says_itself_whether_it_shares_can_do_without(sharing):
    own = "    def shares(self):\n        return False\n\n    def load(self"
    sharing.write("model.py", SHARING.replace("    def load(self", own))
    sharing.write("serving.properties", "engine=Python\n")

    assert "nothing-shared" not in rules_of(found_in(sharing))


def test_a_function_that_is_called_load_shared_is_no_method_of_a_handler(workshop):
    workshop.write("bodies.py", "def load_shared(folder):\n    return folder\n")
    workshop.pretend_measured()

    assert "nothing-shared" not in rules_of(found_in(workshop))


def test_shared_files_without_load_shared_are_loaded_by_each_model(workshop):
    (workshop.artifacts / "body.bin").write_bytes(b"x")
    workshop.write("serving.properties", "engine=Python\noption.shared=body.bin\n")
    workshop.pretend_measured()

    found = finding(found_in(workshop), "body-loaded-by-each")

    assert found.severity == "warning"
    assert "load_shared" in found.message


def test_what_was_measured_says_whether_a_body_is_loaded_once(sharing):
    once = MeasuredMemory(120_000_000, 100_000_000, 150_000_000, "smaps_rollup", 20_000, 1_500_000)
    sharing.pretend_measured(memory=once)
    assert "body-loaded-by-each" not in rules_of(found_in(sharing))

    sharing.pretend_measured(unshared="load_shared starts threads")
    assert "starts threads" in finding(found_in(sharing), "body-loaded-by-each").message


def test_what_is_shared_without_a_sample_request_is_compared_by_nobody(sharing):
    assert "unproven-sharing" not in rules_of(found_in(sharing))

    (sharing.package / "sample_request.json").unlink()

    found = finding(found_in(sharing), "unproven-sharing")
    assert found.severity == "warning"
    assert "sample_request.json" in found.remedy
    sharing.write("serving.properties", "engine=Python\n")
    assert "unproven-sharing" not in rules_of(found_in(sharing))


# Whether it fits.


def subject(sources=(), libraries=(), python="3.11", own=()):
    layer = ArchiveLayer("0" * 64, "libraries", 1, 1, "x", python, "linux-x86_64", True, sources)
    members = {one.name: one for one in libraries}
    contents = Contents.of("here", own)
    return Subject(contents, is_archive=True, image=IMAGE, layers=(layer,), libraries=members)


def distribution(name, version="1.0", requires=(), tags=("py3-none-any",)):
    metadata = f"Name: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    info = f"{name}-{version}.dist-info"
    wheel = "".join(f"Tag: {tag}\n" for tag in tags)
    return [
        Member.made_of(f"{info}/METADATA", metadata.encode()),
        Member.made_of(f"{info}/WHEEL", wheel.encode()),
    ]


def files_of(name, *files):
    record = "".join(f"{one},,\n" for one in files)
    info = f"{name}-1.0.dist-info"
    return [
        *distribution(name),
        Member.made_of(f"{info}/RECORD", record.encode()),
        *(Member.made_of(one, b"") for one in files),
    ]


def test_a_layer_that_replaces_what_the_image_has_is_a_warning():
    sources = (LayerSource("numpy", "1.26.4"), LayerSource("catboost", "1.2.8"))

    (found,) = rules.replaced(subject((*sources, LayerSource("pandas", "2.3.3"))))

    assert found.severity == "warning"
    assert "numpy 1.26.4 (the image has 2.4.3)" in found.message
    assert "catboost" not in found.message
    assert "pandas" not in found.message


@pytest.mark.parametrize(
    ("requires", "lacking"),
    [
        ("numpy>=2", None),
        ("numpy>=3", "2.4.3"),
        ("absent", "none"),
        ("absent; python_version < '3.9'", None),
        ("absent; extra == 'more'", None),
        ("other>=1", None),
        ("other>=2", "1.5"),
    ],
)
def test_what_a_layer_requires_has_to_be_in_it_or_in_the_image(requires, lacking):
    libraries = [*distribution("wanted", requires=[requires]), *distribution("other", "1.5")]

    found = [one.message for one in rules.complete(subject(libraries=libraries))]

    assert len(found) == (lacking is not None)
    assert all(f"there is {lacking}" in one for one in found)


def test_a_layer_for_another_python_is_an_error():
    (found,) = rules.wheels_fit(subject(python="3.12"))

    assert found.severity == "error"
    assert "Python 3.12" in found.message


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("cp311-cp311-manylinux_2_17_x86_64", True),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux_2_35_x86_64", True),
        ("cp311-cp311-manylinux_2_39_x86_64", False),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
    ],
)
def test_a_wheel_for_another_python_platform_or_newer_glibc_is_a_warning(tag, fits):
    found = list(rules.wheels_fit(subject(libraries=distribution("compiled", tags=[tag]))))

    assert (found == []) is fits
    assert all(tag in one.message and "2.35" in one.message for one in found)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("fast.cpython-311-x86_64-linux-gnu.so", ELF + b"\x3e\x00", None),
        ("libfast.so.1.2", ELF + b"\x3e\x00", None),
        ("fast.abi3.so", ELF + b"\x3e\x00", None),
        ("fast.cpython-312-x86_64-linux-gnu.so", ELF + b"\x3e\x00", "Python 3.12"),
        ("fast.cpython-311-aarch64-linux-gnu.so", ELF + b"\xb7\x00", "another processor"),
        ("fast.cpython-311-darwin.so", b"\xcf\xfa\xed\xfe" + bytes(16), "no program of Linux"),
        ("fast.so", b"", "no program of Linux"),
        ("fast.cp311-win_amd64.pyd", b"MZ", "Windows"),
        ("libfast.dylib", b"\xcf\xfa\xed\xfe", "macOS"),
        ("lessons.sonnet", b"", None),
    ],
)
def test_a_compiled_file_among_the_artefacts_has_to_fit_the_image(name, data, reason):
    found = list(rules.compiled_files(subject(own=[Member.made_of(f"lib/{name}", data)])))

    assert (found == []) is (reason is None)
    assert all(reason in one.message and one.severity == "warning" for one in found)


# What lies at the top of a layer.


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("dataclasses.py", "dataclasses"),
        ("asyncio/__init__.py", "asyncio"),
        ("_bisect.cpython-311-x86_64-linux-gnu.so", "_bisect"),
        ("enum/__init__.abi3.so", "enum"),
        ("concurrent/extra.py", None),  # a later package goes before a folder without __init__
        ("backports/enum.py", None),
        ("enum.txt", None),
        ("enum.pyi", None),
        ("enum34.py", None),
        ("test/__init__.py", None),
    ],
)
def test_a_module_that_hides_one_of_pythons_is_an_error(file, module):
    libraries = [*files_of("other", "other.py"), *files_of("the-backport", file)]

    found = list(top_level.hides_python(subject(libraries=libraries)))

    assert len(found) == (module is not None)
    for one in found:
        assert (one.rule, one.severity) == ("layer-hides-python", "error")
        assert "the-backport 1.0" in one.message
        assert module in one.message
        assert "leave the-backport out of requirements.txt" in one.remedy.lower()


@pytest.mark.parametrize(("python", "is_hidden"), [("3.12", True), ("3.13", False)])
def test_what_the_images_python_has_no_more_is_not_hidden(monkeypatch, python, is_hidden):
    monkeypatch.setattr("sys.stdlib_module_names", frozenset({"telnetlib"}))
    image = declared_image(f"mine:1=python{python}")
    asked = replace(subject(libraries=files_of("old", "telnetlib.py")), image=image)

    assert bool(list(top_level.hides_python(asked))) is is_hidden


def test_a_pth_file_that_a_layer_does_without_is_a_warning():
    libraries = [*files_of("hooked", "hooked.py", "hooked.pth", "hooked/inner.pth")]

    (found,) = top_level.path_files(subject(libraries=libraries))

    assert (found.rule, found.severity) == ("layer-pth", "warning")
    assert "hooked 1.0" in found.message
    assert "hooked.pth" in found.message
    assert "inner.pth" not in found.message
    assert "image of your own" in found.remedy


@pytest.mark.parametrize("file", ["sitecustomize.py", "usercustomize.py"])
def test_what_runs_when_a_worker_starts_is_a_warning(file):
    (found,) = top_level.startup(subject(libraries=files_of("eager", file, f"eager/{file}")))

    assert (found.rule, found.severity) == ("layer-startup", "warning")
    assert f"eager 1.0 in the layer of libraries has {file}" in found.message


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model.py", "model"),
        ("djl_python/__init__.py", "djl_python"),
        ("mmekit_runtime/handler.py", "mmekit_runtime"),
        ("mmekit_layers/__init__.py", "mmekit_layers"),
    ],
)
def test_a_name_of_the_model_or_its_engine_is_an_error(file, name):
    (found,) = top_level.startup(subject(libraries=files_of("greedy", file, f"greedy/{file}")))

    assert (found.rule, found.severity) == ("layer-startup", "error")
    assert "greedy 1.0" in found.message
    assert name in found.message


def test_a_file_that_no_distribution_claims_is_named_all_the_same():
    (found,) = top_level.path_files(subject(libraries=[Member.made_of("lost.pth", b"")]))

    assert "A wheel in the layer of libraries has lost.pth" in found.message


@pytest.mark.parametrize("record", [b"\xff\x00", b'"', b"x" * 200_000])
def test_a_record_that_cannot_be_read_claims_nothing(record):
    libraries = [
        *distribution("odd"),
        Member.made_of("odd-1.0.dist-info/RECORD", record),
        Member.made_of("odd.pth", b""),
    ]

    assert len(list(top_level.path_files(subject(libraries=libraries)))) == 1


def test_usual_libraries_have_nothing_of_this():
    asked = subject(libraries=files_of("usual", "usual.py", "model_tools/__init__.py", "docs/a.md"))

    for rule in (top_level.hides_python, top_level.path_files, top_level.startup):
        assert list(rule(asked)) == []


def test_a_search_path_of_ones_own_hides_the_layers_and_the_slots(sharing):
    assert "own-python-path" not in rules_of(found_in(sharing))

    with (sharing.package / "serving.properties").open("a") as file:
        file.write("option.env=PYTHONPATH=/opt/mine\n")
    found = finding(found_in(sharing), "own-python-path")

    assert found.severity == "error"
    assert "sitecustomize.py" in found.message
