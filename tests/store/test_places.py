from pathlib import Path

import pytest

from autocompress.errors import SettingError
from autocompress.store.places import find_cache, fix_place, is_remote, settle_place

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ("runs/first", "runs/first"),
        ("file:///runs/first/", "/runs/first"),
        ("s3://bucket/runs/first/", "s3://bucket/runs/first"),
        ("S3://Bucket/Runs", "s3://Bucket/Runs"),
        ("gs://bucket", "gs://bucket"),
        ("sftp://ada@host:22/runs", "sftp://ada@host:22/runs"),
        ("abfs://box@account.host/runs", "abfs://box@account.host/runs"),
        ("memory://first", "memory://first"),
    ],
)
def test_a_place_has_one_form(given: str, settled: str) -> None:
    assert settle_place(given) == settled
    assert settle_place(settled) == settled
    assert is_remote(settled) == ("://" in settled)


@pytest.mark.parametrize(
    "place",
    [
        f"s3://key:{SECRET}@bucket/x",
        f"s3://key:{SECRET}/with/slashes@bucket/x",
        f"sftp://ada:{SECRET}@host/x",
        f"https://host/x?sig={SECRET}",
        f"abfs://box/x?{SECRET}",
        f"s3://bucket/x#{SECRET}",
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(place: str) -> None:
    with pytest.raises(SettingError, match="credentials come from the environment") as caught:
        settle_place(place)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("place", ["s3:/bucket/x", "s3://", "s3:///", "simplecache::s3://b/x"])
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(SettingError, match="run_dir: want"):
        settle_place(place)


def test_a_fixed_place_does_not_depend_on_where_a_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert fix_place("runs/x") == str(tmp_path / "runs" / "x")
    assert fix_place("s3://b/x/") == "s3://b/x"


def test_each_url_has_a_cache_of_its_own() -> None:
    urls = ["s3://a/x", "s3://b/x", "gs://a/x", "s3://a/x/y", "s3://a/x-y", "s3://a/X"]

    caches = [find_cache(url, {"AUTOCOMPRESS_CACHE": "/c"}) for url in urls]

    assert len(set(caches)) == len(urls)
    assert {cache.parent for cache in caches} == {Path("/c")}
    assert caches == [find_cache(url, {"AUTOCOMPRESS_CACHE": "/c"}) for url in urls]


def test_caches_lie_where_the_environment_says() -> None:
    both = {"AUTOCOMPRESS_CACHE": "/c", "XDG_CACHE_HOME": "/x"}

    assert find_cache("s3://a/x", both).parent == Path("/c")
    assert find_cache("s3://a/x", {"XDG_CACHE_HOME": "/x"}).parent == Path("/x/autocompress")
    assert find_cache("s3://a/x", {}).is_relative_to(Path.home())
