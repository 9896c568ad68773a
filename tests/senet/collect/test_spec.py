"""What a spec may say, and the line that tells what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest

from senet.data.collect.spec import read_spec
from senet.errors import InputError
from tests.senet.collect.conftest import Collection

GOOD = """
contact: me@example.org
mixes:
  pug+beagle:
    - dog_ceo: puggle
    - wikimedia: {search: puggle, limit: 20}
    - urls: [http://example.org/a.jpg]
    - urls: more.txt
"""


def test_a_spec_in_full(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(GOOD)
    (tmp_path / "more.txt").write_bytes(
        b"\xef\xbb\xbf# two\r\nhttp://example.org/b.jpg\r\n\r\n  https://[2620:0::1]/c \r\n"
    )
    spec = read_spec(tmp_path / "spec.yaml")
    assert (spec.limit, spec.min_side, spec.rate) == (100, 250, 1.0)
    assert [source.urls for source in spec.mixes["pug+beagle"]][2:] == [
        ["http://example.org/a.jpg"],
        ["http://example.org/b.jpg", "https://[2620:0::1]/c"],
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("contact: me@example.org", "", "`contact` is missing"),
        ("me@example.org", "me", "`contact`: must be an e-mail address, or a web address"),
        ("me@example.org", '"me@example.org\\r\\nX: y"', "`contact`: must be an e-mail address, or a web address"),
        ("contact:", "rates: 1\ncontact:", "unknown key `rates`"),
        ("contact:", "rate: 0\ncontact:", "`rate`: should be greater than 0, but got 0"),
        ("contact:", "max_megabytes: 51\ncontact:", "`max_megabytes`: should be less than or equal to 50, but got 51"),
        ("contact:", "limit: 1.5\ncontact:", "`limit`: should be a valid integer, but got 1.5"),
        ("contact:", "trusted_hosts: [localhost]\ncontact:", "`localhost` must be host:port"),
        ("contact:", "trusted_hosts: ['a:1/x']\ncontact:", "`a:1/x` must be host:port"),
        ("contact:", "dog_ceo_api: dog.ceo\ncontact:", "`dog_ceo_api`: `dog.ceo` must be a web address"),
        ("pug+beagle", "pug+", "`pug+`: the labels of a mix must be plain text separated by `+`"),
        ("pug+beagle", "pug+pug", "`pug+pug`: a label stands twice"),
        ("pug+beagle", "../pug", "`../pug`: the labels of a mix must be plain text"),
        ("pug+beagle", "pug+a/b", "`pug+a/b`: a label must be without `/`"),
        ("pug+beagle", "p" * 300, "the name of a mix must be at most 200 bytes"),
        ("pug+beagle:", "beagle+pug: [{dog_ceo: a}]\n  pug+beagle:", "`beagle+pug` and `pug+beagle` are the same mix"),
        ("pug+beagle:", "a+b: []\n  pug+beagle:", "`a+b` has no sources"),
        ("dog_ceo: puggle", "{}", "`mixes.pug+beagle.0`: must be one of `urls`, `wikimedia`, `dog_ceo`"),
        ("dog_ceo: puggle", "dog_ceo: ../x", "`mixes.pug+beagle.0.dog_ceo`: String should match pattern"),
        ("limit: 20", "limit: 0", "`mixes.pug+beagle.1.wikimedia.limit`: should be greater than or equal to 1"),
        ("search: puggle", 'search: "a\\nb"', "`mixes.pug+beagle.1.wikimedia.search`: must be words on one line"),
        ("http://example.org/a.jpg", "file:///etc/passwd", "`file:///etc/passwd` must be a web address"),
        ("http://example.org/a.jpg", "http://me:pw@example.org/", "must be a web address without a user name"),
        ("http://example.org/a.jpg", "'http://[::1/'", "`http://[::1/` is no web address"),
        ("http://example.org/a.jpg", "http://a:99999/", "`http://a:99999/` is no web address"),
        ("http://example.org/a.jpg", "7", "`mixes.pug+beagle.2.urls"),
        ("more.txt", "none.txt", "none.txt cannot be read: No such file or directory"),
        ("more.txt", "wrong.txt", "wrong.txt:2: `nonsense` must be a web address"),
        ("more.txt", "latin.txt", "latin.txt cannot be read: it is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_wrong_spec_is_one_line(collection: Collection, old: str, new: str, message: str) -> None:
    assert old in GOOD
    folder = collection.spec.parent
    (folder / "more.txt").write_text("")
    (folder / "wrong.txt").write_text("http://example.org/\nnonsense\n")
    (folder / "latin.txt").write_bytes(b"http://example.org/\xe9\n")
    collection.spec.write_text(GOOD.replace(old, new))
    assert message in collection.call(code=2)
    assert not collection.out.exists()


@pytest.mark.parametrize("value", [[], "text", {"contact": "me@example.org", "mixes": {}}])
def test_what_is_no_spec(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(str(value))
    with pytest.raises(InputError):
        read_spec(path)
