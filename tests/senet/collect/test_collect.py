"""What a call makes of what the servers offer: files, manifest, choices; and what the next call does."""

import hashlib
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from senet.cli import main
from senet.data.store import open_dataset
from tests.senet.collect.conftest import Collection
from tests.senet.collect.server import as_json, content, first, image_info, picture, status, wikimedia

pytestmark = pytest.mark.slow


def mix(*urls: str) -> dict[str, Any]:
    return {"pug+beagle": [{"urls": list(urls)}]}


def name_of(data: bytes, suffix: str = ".jpg", labels: str = "pug+beagle") -> str:
    return f"{labels}/{hashlib.sha256(data).hexdigest()[:16]}{suffix}"


def huge_png() -> bytes:
    """A PNG of a few bytes that would fill two gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_all_sources_end_in_one_manifest(collection: Collection) -> None:
    server = collection.server
    (by_hand,) = collection.serve(1)
    collection.serve(2, 3, 4, 5)
    found = [
        image_info(server, "/2.jpg", author='<a href="//x.org"><b>A &amp; B</b></a>\n<script>'),
        image_info(server, "/3.jpg", licence="CC0"),
        image_info(server, "/4.jpg", author="<![foo[x]]>"),
    ]
    server.answers["/w/api.php"] = wikimedia(server, found, a_request=2)
    server.answers["/api/breed/puggle/images"] = as_json({"message": [server.url("/5.jpg")], "status": "success"})
    (collection.spec.parent / "more.txt").write_text(f"# found by hand\n\n{by_hand}\n")
    sources = [{"urls": "more.txt"}, {"wikimedia": {"search": "puggle dog", "limit": 3}}, {"dog_ceo": "puggle"}]
    out = collection.run({"pug+beagle": sources})

    assert "pug+beagle: 5 kept (5 new), 0 rejected, 0 dropped, 0 failed" in out
    records = {record["url"].rpartition("/")[2]: record for record in collection.records()}
    assert list(records) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert records["2.jpg"] == {
        "file": name_of(picture(2)),
        "labels": ["pug", "beagle"],
        "url": server.url("/2.jpg"),
        "page": "https://commons.wikimedia.org/wiki/File:2.jpg",
        "licence": "CC BY-SA 4.0",
        "author": "A & B",
        "sha256": hashlib.sha256(picture(2)).hexdigest(),
        "size": [60, 48],
        "phash": records["2.jpg"]["phash"],
        "state": "kept",
        "reason": "",
        "through": "wikimedia: puggle dog",
    }
    assert [records[name]["author"] for name in ("3.jpg", "4.jpg", "5.jpg")] == ["Somebody", None, None]
    assert records["5.jpg"]["through"] == "dog_ceo: puggle"
    assert collection.files() == sorted(name_of(picture(seed)) for seed in (1, 2, 3, 4, 5))
    assert (collection.out / "mixes" / name_of(picture(1))).read_bytes() == picture(1)
    queries = [target for _, target, _ in server.requests if target.startswith("/w/api.php")]
    assert len(queries) == 2
    assert "gsrnamespace=6" in queries[0]
    assert "gsroffset=2" in queries[1]


def test_an_import_takes_what_was_collected(collection: Collection, home: Path, tmp_path: Path) -> None:
    collection.run(
        {"pug+beagle": [{"urls": collection.serve(*range(4))}], "pug": [{"urls": collection.serve(8, 9, 10)}]}
    )
    for label in ("pug", "beagle", "borzoi"):
        folder = tmp_path / "base" / label
        folder.mkdir(parents=True)
        for seed in range(4):
            (folder / f"{seed}.jpg").write_bytes(picture(100 + seed + 10 * len(label)))
    stream = str(collection.out / "mixes")
    assert main(["data", "import", "dogs", "--base", str(tmp_path / "base"), "--stream", stream, "--size", "32"]) == 0
    assert len(open_dataset(home / "datasets" / "dogs").streaming.images) == 7


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>It works!</html>", "no picture"),
        (b"", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n", "no picture"),
        (picture(1)[:-200], "broken: image file is truncated"),
        (huge_png(), "broken: Image size (900000000 pixels) exceeds limit"),
        (picture(1, (39, 200)), "too small: 39 × 200"),
    ],
    ids=["html", "empty", "postscript", "truncated", "bomb", "small"],
)
def test_what_is_no_good_picture_is_dropped(collection: Collection, data: bytes, reason: str) -> None:
    collection.server.answers["/x.jpg"] = content(data)
    mixes = mix(*collection.serve(7), collection.server.url("/x.jpg"))
    for _ in range(2):
        out = collection.run(mixes)
        state, found = collection.states()["/x.jpg"]
        assert (state, found[: len(reason)]) == ("dropped", reason)
        assert f"dropped: 1 {reason.partition(':')[0]}; the manifest says which" in out
    assert collection.server.asked["/x.jpg"] == 1
    assert collection.files() == [name_of(picture(7))]


def test_pictures_are_named_after_their_content(collection: Collection) -> None:
    png, grey = picture(1, form="PNG"), io.BytesIO()
    Image.open(io.BytesIO(picture(2))).convert("L").save(grey, "WEBP")
    collection.server.answers |= {"/a.jpg": content(png), "/b": content(grey.getvalue())}
    collection.run(mix(collection.server.url("/a.jpg"), collection.server.url("/b")))
    assert collection.files() == sorted([name_of(png, ".png"), name_of(grey.getvalue(), ".webp")])


def test_duplicates_are_dropped_wherever_they_are(collection: Collection) -> None:
    original = picture(1, (400, 320))
    smaller, poorer = io.BytesIO(), io.BytesIO()
    with Image.open(io.BytesIO(original)) as image:
        image.resize((200, 160)).save(smaller, "PNG")
        image.save(poorer, "JPEG", quality=40)
    answers = {"/1": original, "/same": original, "/smaller": smaller.getvalue(), "/poorer": poorer.getvalue()}
    collection.server.answers |= {path: content(data) for path, data in answers.items()}
    collection.run(mix(collection.server.url("/1")))
    collection.run({"a+b": [{"urls": [collection.server.url(path) for path in answers]}]})
    name = name_of(original)
    found = [(record["labels"], record["state"], record["reason"]) for record in collection.records()]
    assert found == [
        (["pug", "beagle"], "kept", ""),
        (["a", "b"], "dropped", f"duplicate: the same file as {name}"),
        (["a", "b"], "dropped", f"duplicate: the same file as {name}"),
        (["a", "b"], "dropped", f"near-duplicate: of {name}"),
        (["a", "b"], "dropped", f"near-duplicate: of {name}"),
    ]
    assert collection.files() == [name]


def test_the_limit_counts_pictures_and_not_attempts(collection: Collection) -> None:
    urls = [collection.server.url("/none"), *collection.serve(*range(8))]
    collection.run(mix(*urls), limit=3)
    assert len(collection.files()) == 3
    assert collection.server.asked.total() <= 5
    before = collection.server.asked.total()
    assert "3 kept (0 new)" in collection.run(mix(*urls), limit=3)
    assert collection.server.asked.total() == before
    assert "5 kept (2 new)" in collection.run(mix(*urls), limit=5)


def test_a_second_call_fetches_what_is_missing(collection: Collection) -> None:
    urls = collection.serve(1, 2, 3)
    collection.run(mix(*urls))
    manifest = (collection.out / "manifest.jsonl").read_bytes()
    (collection.out / "mixes" / name_of(picture(2))).unlink()
    assert "3 kept (1 new)" in collection.run(mix(*urls))
    assert collection.server.asked == {"/1.jpg": 1, "/2.jpg": 2, "/3.jpg": 1}
    assert (collection.out / "manifest.jsonl").read_bytes() == manifest
    assert "4 kept (1 new)" in collection.run(mix(*urls, *collection.serve(4)))


def test_one_that_was_too_small_is_wanted_when_the_rule_changes(collection: Collection) -> None:
    urls = collection.serve(1, 2)
    collection.run(mix(*urls), min_side=49, code=1)
    assert {state for state, _ in collection.states().values()} == {"dropped"}
    assert "2 kept (2 new)" in collection.run(mix(*urls), min_side=48)


def test_a_torn_manifest_and_half_written_files_are_mended(collection: Collection) -> None:
    urls = collection.serve(1, 2, 3)
    collection.run(mix(*urls))
    manifest = collection.out / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-40])
    litter = collection.out / "mixes" / "pug+beagle" / ".0123456789abcdef.jpg-x8f3"
    litter.write_bytes(b"half")
    collection.run(mix(*urls))
    assert manifest.read_bytes() == whole
    assert not litter.exists()
    assert collection.server.asked == {"/1.jpg": 1, "/2.jpg": 1, "/3.jpg": 2}


def test_choices_are_applied_and_stay(collection: Collection, tmp_path: Path) -> None:
    urls = collection.serve(1, 2, 3)
    collection.run(mix(*urls))
    one, two, three = (name_of(picture(seed)) for seed in (1, 2, 3))
    choices = tmp_path / "choices.json"
    choices.write_text(json.dumps({one: False, two: True, three: False}))
    assert "1 kept (0 new), 2 rejected" in collection.run(mix(*urls), "--choices", str(choices))
    assert (collection.files(), collection.files("rejected")) == ([two], sorted([one, three]))

    # Later calls leave the rejected alone, the same picture from elsewhere too.
    collection.server.answers["/again"] = content(picture(1))
    mixes = mix(*urls, collection.server.url("/again"))
    assert "1 kept (0 new), 2 rejected, 1 dropped" in collection.run(mixes)
    assert collection.states()["/again"] == ("dropped", f"duplicate: the same file as {one}")
    assert collection.server.asked["/1.jpg"] == 1

    # What is saved into the collection is found there; somebody may change their mind.
    (collection.out / "choices.json").write_text(json.dumps({one: True, two: False}))
    assert "1 kept (0 new), 2 rejected" in collection.run(mixes)
    assert (collection.files(), collection.files("rejected")) == ([one], sorted([two, three]))
    choices.write_text(json.dumps({one: False, two: False, three: False}))
    assert "0 kept (0 new), 3 rejected" in collection.run(mixes, "--choices", str(choices))
    assert not list((collection.out / "mixes").iterdir()), "an empty folder would be a mix without pictures"
    assert "0 kept (0 new), 3 rejected" in collection.run(mixes)


def test_choices_of_a_picture_that_is_gone_wait_until_it_is_back(collection: Collection, tmp_path: Path) -> None:
    urls = collection.serve(1, 2, 3)
    collection.run(mix(*urls))
    one, two, three = (name_of(picture(seed)) for seed in (1, 2, 3))
    choices = tmp_path / "choices.json"
    choices.write_text(json.dumps({one: True, two: False}))
    collection.run(mix(*urls), "--choices", str(choices))

    # One is deleted and not to be had at present, of the other the manifest's line was deleted.
    (collection.out / "mixes" / one).unlink()
    manifest = collection.out / "manifest.jsonl"
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if two not in line))
    collection.server.answers |= {"/1.jpg": status(403), "/2.jpg": status(403)}
    assert "1 kept (0 new), 0 rejected, 0 dropped, 2 failed" in collection.run(mix(*urls))
    assert f"{choices}: `{two}` is no picture of this" in collection.run(mix(*urls), "--choices", str(choices), code=2)
    collection.serve(1, 2)
    # What is only deleted is got again though no source lists it any more.
    assert "2 kept (2 new), 1 rejected" in collection.run(mix(*urls[1:]))
    assert (collection.files(), collection.files("rejected")) == (sorted([one, three]), [two])


def test_an_interrupted_move_is_finished(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = collection.serve(1, 2)
    collection.run(mix(*urls))
    choices = {name_of(picture(seed)): False for seed in (1, 2)}
    (collection.out / "choices.json").write_text(json.dumps(choices))
    with monkeypatch.context() as patch:
        patch.setattr("senet.data.collect.folder.Folder.tidy", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert "interrupted" in collection.call(code=1)
    assert len(collection.files()) == 2
    (collection.out / "choices.json").unlink()
    collection.call()
    assert (collection.files(), collection.files("rejected")) == ([], sorted(choices))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON; save it anew"),
        ("[]", "must be {"),
        ('{"pug+beagle/x.jpg": 1}', "must be {"),
        ('{"../../x": true}', "`../../x` is no picture of this collection"),
        ("[" * 100_000, "not JSON; save it anew"),
    ],
)
def test_wrong_choices_change_nothing(collection: Collection, text: str, message: str, tmp_path: Path) -> None:
    collection.run(mix(*collection.serve(1)))
    choices = tmp_path / "choices.json"
    choices.write_text(text)
    assert f"senet: {choices}: {message}" in collection.call("--choices", str(choices), code=2)
    assert "none.json: cannot be read: No such file" in collection.call("--choices", "none.json", code=2)
    assert collection.files() == [name_of(picture(1))]
    assert not (collection.out / "choices.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: "nonsense", "Invalid JSON"),
        (lambda line: line.replace("kept", "eaten"), "`state`: Input should be"),
        (lambda line: line.replace("pug+beagle/", "../pug+beagle/"), "`file` must be named after"),
        (lambda line: line.replace('"pug"', '"pug/.."'), "a label must be without `/`"),
        (lambda line: line.replace('"size":[60,48]', '"size":null'), "needs `file`, `sha256`, `size` and `phash`"),
    ],
)
def test_a_damaged_manifest_is_one_line(collection: Collection, change: Any, message: str) -> None:
    collection.run(mix(*collection.serve(1, 2)))
    manifest = collection.out / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], change(lines[1])]) + "\n")
    before = manifest.read_bytes()
    error = collection.call(code=2)
    assert f"{manifest}:2: " in error
    assert message in error
    assert manifest.read_bytes() == before


def test_an_api_that_fails_stops_nothing_else(collection: Collection) -> None:
    server = collection.server
    server.answers["/w/api.php"] = first(status(500), as_json({"error": {"code": "x", "info": "no such\nthing"}}), 4)
    server.answers["/api/breed/pug/images"] = as_json({"status": "success", "message": {"a": 1}})
    server.answers["/api/breed/beagle/images"] = content(b"<html>")
    sources = [
        {"wikimedia": {"search": "x"}},
        {"wikimedia": {"search": "y"}},
        {"dog_ceo": "pug"},
        {"dog_ceo": "beagle"},
    ]
    out = collection.run({"pug+beagle": [*sources, {"urls": collection.serve(1)}]})
    api = server.url("/w/api.php")
    assert "1 kept (1 new), 0 rejected, 0 dropped, 0 failed" in out
    assert "failed: 4; the same command asks for them again" in out
    assert "  pug+beagle, wikimedia: x: HTTP 500, 4 times" in out
    assert f"  pug+beagle, wikimedia: y: {api}: no such thing" in out
    assert "/api does not answer as this API does (message: Input should be a valid array" in out
    assert "/api does not answer as this API does (the answer: Invalid JSON" in out


def test_a_search_that_never_ends_is_ended(collection: Collection) -> None:
    server = collection.server
    server.answers["/w/api.php"] = as_json({"continue": {"gsroffset": 1, "continue": "-||"}, "query": {"pages": []}})
    collection.run({"a+b": [{"wikimedia": {"search": "x", "limit": 200}}]}, code=1)
    assert server.asked["/w/api.php"] == 8


def test_two_calls_at_once(collection: Collection) -> None:
    import fcntl

    collection.out.mkdir(parents=True)
    with (collection.out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"{collection.out}: another call is collecting there" in collection.run(
            mix(*collection.serve(1)), code=2
        )
    collection.run(mix(*collection.serve(1)))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_another_folder(collection: Collection, tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        collection.run(mix(*collection.serve(1)), "--output", str(tmp_path / "other"))
    finally:
        os.umask(before)
    assert (tmp_path / "other" / "mixes" / name_of(picture(1))).exists()
    assert not collection.out.exists()
    written = ("manifest.jsonl", "contact-sheet.html", f"mixes/{name_of(picture(1))}")
    assert {(tmp_path / "other" / name).stat().st_mode & 0o777 for name in written} == {mode}
    file = tmp_path / "file"
    file.write_text("")
    assert f"{file}: cannot be written" in collection.call("--output", str(file), code=2)
