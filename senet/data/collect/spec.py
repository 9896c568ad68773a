"""What to collect: the spec file, validated."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from senet.config import Config
from senet.data.collect.address import authority, web_address
from senet.data.pictures import MAX_FILE_BYTES
from senet.errors import InputError, first_problem
from senet.yamlfile import read_mapping

_LONGEST_NAME = 200  # bytes; file systems take 255

Limit = Annotated[int, Field(ge=1, le=10_000)]


class WikimediaSource(Config):
    """Pictures that a search on Wikimedia Commons finds."""

    search: Annotated[str, Field(min_length=1, max_length=300)]
    """words, as one types them into the search there"""
    limit: Limit = 50
    """results to look at"""

    @field_validator("search")
    @classmethod
    def _words(cls, value: str) -> str:
        if not value.isprintable() or not value.strip():
            raise ValueError("must be words on one line")
        return value


class Source(Config):
    """Where pictures of a mix come from: exactly one of these."""

    urls: list[str] | str | None = None
    """addresses of pictures, or a text file with one a line, relative to the spec; there a line may begin with #"""
    wikimedia: WikimediaSource | None = None
    """a search on Wikimedia Commons"""
    dog_ceo: Annotated[str, Field(pattern=r"^[a-z]+(/[a-z]+)?$")] | None = None
    """a breed of dog.ceo, such as `puggle` or `poodle/toy`"""

    @model_validator(mode="after")
    def _sound(self) -> "Source":
        if sum(value is not None for _, value in self) != 1:
            raise ValueError("must be one of `urls`, `wikimedia`, `dog_ceo`")
        for text in self.urls if isinstance(self.urls, list) else ():
            _check_address(text)
        return self


class Spec(Config):
    """A collection, complete."""

    contact: Annotated[str, Field(max_length=200)]
    """e-mail or web address by which the operators of the servers can reach you; goes into every request"""
    mixes: Annotated[dict[str, list[Source]], Field(min_length=1)]
    """sources of each mix, named `A+B` after its labels"""
    limit: Limit = 100
    """pictures of a mix, those counted that were rejected on the contact sheet"""
    min_side: PositiveInt = 250
    """a picture with a shorter side is dropped, pixels"""
    rate: Annotated[float, Field(gt=0, le=100)] = 1.0
    """requests a second to one host"""
    timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    """seconds that one request may take in all"""
    max_megabytes: Annotated[float, Field(gt=0, le=MAX_FILE_BYTES // 10**6)] = 20.0
    """a larger file is dropped; an import reads none that is larger than the most that can be asked for"""
    trusted_hosts: Annotated[list[str], Field(default_factory=list)]
    """`host:port` of servers that may be asked though their address is not public"""
    wikimedia_api: str = "https://commons.wikimedia.org/w/api.php"
    """the API that `wikimedia` searches"""
    dog_ceo_api: str = "https://dog.ceo/api"
    """the API that `dog_ceo` asks"""

    @field_validator("contact")
    @classmethod
    def _reachable(cls, value: str) -> str:
        # It becomes a part of a header: nothing may end that early.
        if not re.fullmatch(r"[!-'*-~]+@[!-'*-~]+|https?://[!-'*-~]+", value):
            raise ValueError("must be an e-mail address, or a web address that begins with http:// or https://")
        return value

    @field_validator("mixes")
    @classmethod
    def _mixes(cls, value: dict[str, list[Source]]) -> dict[str, list[Source]]:
        seen: dict[tuple[str, ...], str] = {}
        for name, sources in value.items():
            labels = tuple(sorted(labels_of(name)))
            if labels in seen:
                raise ValueError(f"`{seen[labels]}` and `{name}` are the same mix")
            seen[labels] = name
            if not sources:
                raise ValueError(f"`{name}` has no sources")
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        for text in value:
            url = web_address(f"http://{text}")
            # A host without its port is no promise about all ports.
            if authority(url) != text or not re.search(r":\d+$", text):
                raise ValueError(f"`{text}` must be host:port, in small letters, such as 127.0.0.1:8000")
        return value

    @field_validator("wikimedia_api", "dog_ceo_api")
    @classmethod
    def _api(cls, value: str) -> str:
        _check_address(value)
        return value


def labels_of(mix: str) -> list[str]:
    """The labels in the name of a mix, `A+B`. Raises ValueError where it cannot be the name of a folder of labels."""
    labels = mix.split("+")
    for label in labels:
        if not label or label != label.strip() or label.startswith(".") or not label.isprintable():
            raise ValueError(f"`{mix}`: the labels of a mix must be plain text separated by `+`, such as pug+beagle")
        if set(label) & set("/\\;"):
            raise ValueError(f"`{mix}`: a label must be without `/`, `\\` and `;`")
    if len(set(labels)) < len(labels):
        raise ValueError(f"`{mix}`: a label stands twice")
    if len(mix.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise ValueError(f"`{mix[:20]}…`: the name of a mix must be at most {_LONGEST_NAME} bytes")
    return labels


def read_spec(path: Path) -> Spec:
    """The spec in a file, the files of addresses that it names read too.

    Raises:
        InputError: anything about it is wrong.
    """
    values = read_mapping(path)
    try:
        spec = Spec.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, str(path), Spec) from None
    mixes = {
        name: [
            source.model_copy(update={"urls": _read_addresses(path.parent / source.urls, path)})
            if isinstance(source.urls, str)
            else source
            for source in sources
        ]
        for name, sources in spec.mixes.items()
    }
    return spec.model_copy(update={"mixes": mixes})


def _read_addresses(path: Path, spec: Path) -> list[str]:
    """The addresses in a text file, one a line; blank lines and comments are left out."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{spec}: `urls`: the file {path} cannot be read: {reason}") from None
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            _check_address(text)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        found.append(text)
    return found


def _check_address(text: str) -> None:
    try:
        web_address(text)
    except ValueError as error:
        raise ValueError(f"`{text}` {error}") from None
