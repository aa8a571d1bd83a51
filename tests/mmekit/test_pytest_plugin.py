"""The fixture for handlers: any model.py that DJL Serving would run."""

from __future__ import annotations

import os
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

from mmekit.errors import ModelLoadError, PackageError
from mmekit.testing import load_handler, read_sample

pytest_plugins = ["pytester"]

# As in DJL Serving's documentation: djl_python alone, nothing of mmekit.
PLAIN = """
from djl_python import Input, Output

scale = None

def handle(inputs: Input) -> Output:
    global scale
    if inputs.is_empty():
        scale = int(inputs.get_property("scale"))
        return None
    return Output().add_as_json([scale * x for x in inputs.get_as_json()])
"""


@pytest.fixture
def package(tmp_path):
    """Return a function that writes a package folder."""

    def write(model=PLAIN, properties="engine=Python\noption.scale=3\n", **files):
        folder = tmp_path / f"package{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "model.py").write_text(textwrap.dedent(model))
        (folder / "serving.properties").write_text(properties)
        for name, text in files.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        return folder

    return write


def test_a_handler_that_knows_only_djl_python_is_loaded_and_asked(mme_model, package):
    model = mme_model(package())
    answer = model.invoke("[1, 2]")
    assert answer.status == 200
    assert answer.json() == [3, 6]


def test_two_models_keep_their_model_py_and_what_lies_beside_it_apart(mme_model, package):
    text = """
        from djl_python import Output
        import words

        def handle(inputs):
            from words import word  # at the time of the request
            return Output().add(word + words.word)
        """
    first = mme_model(package(text, words="word = 'a'"))
    second = mme_model(package(text, words="word = 'b'"))
    assert first.invoke("").text == "aa"
    assert second.invoke("").text == "bb"
    assert first.invoke("").text == "aa"
    assert "words" not in sys.modules


def test_the_handler_works_in_the_models_folder_with_its_environment(mme_model, package):
    model = mme_model(
        package(
            """
            import os
            from djl_python import Output

            def handle(inputs):
                here = os.getcwd() == inputs.get_property("model_dir")
                return Output().add_as_json([here, os.environ["COLOUR"]])
            """,
            "engine=Python\noption.env=COLOUR=blue\n",
        )
    )
    before = Path.cwd()
    assert model.invoke("").json() == [True, "blue"]
    assert Path.cwd() == before
    assert "COLOUR" not in os.environ


def test_another_entry_point_and_another_function(mme_model, package):
    model = mme_model(
        package(
            "raise AssertionError('not me')",
            "engine=Python\noption.entryPoint=other.py\noption.handler=answer\n",
            other="""
                from djl_python import Output

                def answer(inputs):
                    return Output().add("it is me")
                """,
        )
    )
    assert model.invoke("").text == "it is me"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("raise ValueError('no')", 424),
        ("raise MemoryError('no')", 507),
        ("return None", 204),
        ("return 'a text'", 424),
        ("return Output(code=418, message='teapot')", 418),
    ],
)
def test_what_the_handler_does_becomes_the_status_that_djl_gives_it(
    mme_model, package, line, status
):
    model = mme_model(
        package(
            f"""
            from djl_python import Output

            def handle(inputs):
                if inputs.is_empty():
                    return None
                {line}
            """
        )
    )
    assert model.invoke("x").status == status


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise ValueError('the file is damaged')", r"\(424\): the file is damaged"),
        ("return Output(code=507, message='too large')", r"\(507\): too large"),
    ],
)
def test_a_load_that_fails_says_why(mme_model, package, line, reason):
    folder = package(f"from djl_python import Output\ndef handle(inputs):\n    {line}\n")
    with pytest.raises(ModelLoadError, match=reason):
        mme_model(folder)


def test_content_type_accept_and_attributes_reach_the_handler(mme_model, package):
    model = mme_model(
        package(
            """
            from djl_python import Output

            def handle(inputs):
                names = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes")
                return Output().add_as_json([inputs.get_property(name) for name in names])
            """
        )
    )
    answer = model.invoke(b"1", content_type="text/csv", accept="text/csv", attributes="a=b")
    assert answer.json() == ["text/csv", "text/csv", "a=b"]
    assert model.invoke(b"1").json() == ["application/json", None, None]


def test_a_closed_model_leaves_no_folder(package):
    folder = package()
    before = sorted(folder.iterdir())
    with load_handler(folder) as model:
        scratch = model.folder
        assert scratch.is_dir()
    assert not scratch.exists()
    assert sorted(folder.iterdir()) == before, "nothing was written into the package"


def test_an_archive_is_unpacked_and_asked(mme_model, package, tmp_path):
    folder = package()
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        for file in folder.iterdir():
            stream.add(file, file.name)
    assert mme_model(archive).invoke("[2]").json() == [6]


def test_a_package_and_its_artefacts_are_one_folder_to_the_handler(mme_model, package, tmp_path):
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    (artifacts / "greeting.txt").write_text("hello")
    text = """
        from pathlib import Path
        from djl_python import Output

        def handle(inputs):
            return Output().add(Path(inputs.get_property("model_dir"), "greeting.txt").read_text())
        """
    assert mme_model(package(text), artifacts).invoke("").text == "hello"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PackageError, match="no_such"):
        load_handler(tmp_path / "no_such")


def test_a_package_without_a_sample_says_how_to_add_one(package):
    with pytest.raises(PackageError, match=r"sample_request with one of the suffixes \.json"):
        read_sample(package())


def test_the_plugin_is_there_in_any_project_that_has_mmekit(pytester, package):
    folder = package()
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.fixture(scope="module")
        def model(mme_model):
            return mme_model({str(folder)!r})

        def test_three_times(model):
            assert model.invoke("[1]").json() == [3]
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
