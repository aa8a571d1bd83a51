"""`mme layers`: what archives have in common, listed and uploaded by hand."""

import json
import os
import re

import pytest

from tests.mmekit.deploy import thin_archives

BODY = thin_archives.layer(says="setfit/model.safetensors and 11 more", body=b"weights" * 999)
RUNTIME = thin_archives.layer("runtime", "mmekit 1.0.0", runtime=b"mmekit_runtime")
LARGE = thin_archives.layer(says="large.bin", large=bytes(33 << 20))
PLACE = "s3://pushed/of-all/layers/"


def short(layer):
    return layer.entry.sha256[:12]


@pytest.fixture
def shelf(desk):
    """Two thin archives with one body, and one that brings it along."""
    for name in ("a", "b"):
        thin_archives.put(desk, f"{name}.tar.gz", BODY, RUNTIME, name=name)
    desk.put("inline.tar.gz", thin_archives.archive(BODY, inline=True))
    return desk


@pytest.fixture
def bucket(service):
    """An empty bucket."""
    s3 = service.client("s3")
    s3.create_bucket(Bucket="pushed")
    yield
    for one in s3.list_objects_v2(Bucket="pushed").get("Contents", []):
        s3.delete_object(Bucket="pushed", Key=one["Key"])
    s3.delete_bucket(Bucket="pushed")


def objects(service):
    return service.names("pushed/")["objects"]


def test_the_layers_of_thin_archives_are_uploaded_once(shelf, service, bucket):
    said = shelf.mme("layers", "push", "a.tar.gz", "b.tar.gz", "inline.tar.gz", "--to", PLACE)
    pushed = re.escape(f"layer {short(BODY)} (body: {BODY.entry.says})")
    assert re.search(rf"{pushed}: \d+\.\d KiB uploaded", said)
    assert said.endswith(f"Containers find them with MMEKIT_LAYERS={PLACE}\n")
    names = sorted((BODY.name, RUNTIME.name))
    assert objects(service) == [f"pushed/of-all/layers/{name}" for name in names]
    again = shelf.mme("layers", "push", "b.tar.gz", "--to", PLACE.rstrip("/"))
    assert again.count("there already") == len(names)


def test_what_was_uploaded_is_told_to_programs(shelf, service, bucket):
    told = json.loads(shelf.mme("layers", "push", "a.tar.gz", "--to", PLACE, "--json"))
    [body] = [one for one in told if one["kind"] == "body"]
    assert body == {
        "sha256": BODY.entry.sha256,
        "kind": "body",
        "says": BODY.entry.says,
        "url": f"{PLACE}{BODY.name}",
        "size": len(BODY.packed()),
        "is_new": True,
    }


def test_a_large_layer_goes_in_parts_and_says_how_far_it_is(desk, service, bucket):
    thin_archives.put(desk, "large.tar.gz", LARGE)
    done = desk.run("layers", "push", "large.tar.gz", "--to", PLACE, "--json")
    assert done.exit_code == 0
    [told] = json.loads(done.stdout)
    assert f"layer {short(LARGE)}: 50 % of 33.0 MiB" in done.stderr
    key = told["url"].removeprefix("s3://pushed/")
    etag = service.client("s3").head_object(Bucket="pushed", Key=key)["ETag"]
    assert "-" in etag  # S3's, of an upload in parts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inline.tar.gz", "--to", PLACE), "None of the archives names a layer"),
        (("a.tar.gz", "--to", "pushed/layers"), "A place of layers is a bucket and a prefix."),
        (("a.tar.gz", "--to", "s3://pushed"), "A place of layers is a bucket and a prefix."),
        (("a.tar.gz", "--to", "s3://pushed/a/../b/"), "A place of layers is a bucket and"),
        (("a.tar.gz", "--to", "s3://nobodys-bucket/x/"), "The bucket does not exist."),
    ],
)
def test_what_cannot_be_pushed_is_told_with_a_remedy(shelf, bucket, service, arguments, said):
    told = shelf.refused("layers", "push", *arguments)
    assert said in told
    assert "where: " in told
    assert "remedy: " in told
    assert objects(service) == []


def test_nothing_is_pushed_when_a_layer_is_missing(shelf, service, bucket):
    (shelf.folder / "layers" / RUNTIME.name).unlink()
    told = shelf.refused("layers", "push", "a.tar.gz", "--to", PLACE)
    assert f"The layer {short(RUNTIME)} (runtime, 0.0 MB: mmekit 1.0.0) is missing" in told
    assert "--thin --output a.tar.gz" in told
    assert objects(service) == []


def test_without_the_local_service_it_is_told_how_to_start_one(shelf):
    told = shelf.refused(
        "layers", "push", "a.tar.gz", "--to", PLACE, MME_LOCAL_URL="http://127.0.0.1:9"
    )
    assert "Start the local service with `mme up`" in told


def test_a_push_to_aws_needs_no_role(shelf, service, bucket):
    variables = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "somebodys",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "MME_TARGET": "aws",
        "AWS_ENDPOINT_URL": service.url,
    }
    shelf.mme("layers", "push", "a.tar.gz", "--to", PLACE, **variables)
    assert len(objects(service)) == len((BODY, RUNTIME))


def test_layers_are_listed_once_and_fit_80_columns(shelf):
    (shelf.folder / "layers" / RUNTIME.name).unlink()
    shelf.pack("plain.tar.gz")
    names = ("a.tar.gz", "b.tar.gz", "inline.tar.gz", "plain.tar.gz")
    text = shelf.mme("layers", "list", *names, COLUMNS="80")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 80
    assert f"{short(BODY)} body 0.0 beside 2 setfit/model.safetensors and 11 more" in lines
    assert f"{short(BODY)} body 0.0 inline 1 setfit/model.safetensors and 11 more" in lines
    assert f"{short(RUNTIME)} runtime 0.0 missing 2 mmekit 1.0.0" in lines
    assert lines[-1] == "without layers: plain.tar.gz"


def test_layers_are_listed_for_programs(shelf):
    found = json.loads(shelf.mme("layers", "list", "a.tar.gz", "inline.tar.gz", "--json"))
    assert [one["archive"] for one in found] == ["a.tar.gz", "inline.tar.gz"]
    [inline] = found[1]["layers"]
    assert inline == {**vars(BODY.entry), "where": "inline", "file": None}
    thin = {one["kind"]: one for one in found[0]["layers"]}
    assert thin["body"] == {
        **vars(BODY.entry),
        "where": "beside",
        "file": f"layers/{BODY.name}",
    }


def test_an_archive_that_is_damaged_or_absent_is_told(shelf):
    shelf.put("cut.tar.gz", thin_archives.archive(BODY)[:-30])
    assert "The archive is damaged" in shelf.refused("layers", "list", "cut.tar.gz")
    absent = shelf.run("layers", "list", "absent.tar.gz")
    assert absent.exit_code == 2
    assert "absent.tar.gz" in absent.stderr
