"""What a source offers: addresses of pictures, with what is known of their licence and author."""

import math
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from yarl import URL

from senet.data.collect.address import web_address
from senet.data.collect.fetch import Fetcher, FetchError
from senet.data.collect.spec import Source, Spec, WikimediaSource

_RESULTS_A_REQUEST = 50
_WIDTH = 1280  # pixels; a size that Wikimedia keeps ready, and far more than a network sees
_LONGEST_MARKED_UP, _LONGEST_TEXT = 4000, 300


@dataclass(frozen=True)
class Candidate:
    """A picture that a source offers."""

    url: str
    """where the file lies"""
    through: str
    """what it was found through"""
    page: str | None = None
    """web page about the picture"""
    licence: str | None = None
    """name of the licence, where the source says it"""
    author: str | None = None
    """plain text"""


async def list_candidates(source: Source, spec: Spec, fetcher: Fetcher) -> list[Candidate]:
    """The pictures that a source offers, in its order.

    Raises:
        FetchError: an API did not answer, or not as such an API does.
    """
    if source.wikimedia is not None:
        return await _search_wikimedia(source.wikimedia, spec.wikimedia_api, fetcher)
    if source.dog_ceo is not None:
        return await _list_breed(source.dog_ceo, spec.dog_ceo_api, fetcher)
    return [Candidate(url, "urls") for url in source.urls or []]


def describe(source: Source) -> str:
    """A source in a few words."""
    if source.wikimedia is not None:
        return f"wikimedia: {source.wikimedia.search}"
    return f"dog_ceo: {source.dog_ceo}" if source.dog_ceo is not None else "urls"


class _Answer(BaseModel):
    """A part of an API's answer; what is not named here is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


_Kind = TypeVar("_Kind", bound=_Answer)


class _Text(_Answer):
    value: Any


class _ImageInfo(_Answer):
    url: str
    thumburl: str | None = None
    descriptionurl: str | None = None
    extmetadata: dict[str, _Text] = Field(default_factory=dict)

    @field_validator("extmetadata", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        # What is empty comes as a list there.
        return {} if value == [] else value


class _Page(_Answer):
    pageid: int
    index: int = 0
    imageinfo: list[_ImageInfo] = Field(default_factory=list)


class _Pages(_Answer):
    pages: list[_Page] = Field(default_factory=list)


class _Error(_Answer):
    info: str


class _SearchAnswer(_Answer):
    """https://www.mediawiki.org/wiki/API:Imageinfo, formatversion 2."""

    query: _Pages = _Pages()
    more: dict[str, str | int] | None = Field(default=None, alias="continue")
    error: _Error | None = None


class _BreedAnswer(_Answer):
    """https://dog.ceo/dog-api/documentation/breed."""

    message: list[str]


async def _search_wikimedia(source: WikimediaSource, api: str, fetcher: Fetcher) -> list[Candidate]:
    question: dict[str, str | int] = {
        "action": "query",
        "format": "json",
        "formatversion": 2,
        "generator": "search",
        "gsrsearch": f"{source.search} filetype:bitmap",
        "gsrnamespace": 6,
        "gsrlimit": min(source.limit, _RESULTS_A_REQUEST),
        "prop": "imageinfo",
        "iiprop": "url|extmetadata",
        "iiurlwidth": _WIDTH,
        "iiextmetadatafilter": "LicenseShortName|Artist",
    }
    found: dict[int, tuple[int, Candidate]] = {}
    more: dict[str, str | int] = {}
    # An answer may hold a part of what it should; twice as many as needed end a server that goes on for ever.
    for _ in range(2 * math.ceil(source.limit / _RESULTS_A_REQUEST)):
        answer = _parse(_SearchAnswer, await fetcher.get(str(URL(api).update_query(question | more))), api)
        if answer.error is not None:
            raise FetchError(f"{api}: {_plain(answer.error.info)}")
        for page in answer.query.pages:
            if page.imageinfo:
                found.setdefault(page.pageid, (page.index, _wikimedia_candidate(page.imageinfo[0], source)))
        if answer.more is None or len(found) >= source.limit:
            break
        more = answer.more
    ranked = sorted(found.values(), key=lambda item: item[0])
    return [candidate for _, candidate in ranked[: source.limit]]


def _wikimedia_candidate(info: _ImageInfo, source: WikimediaSource) -> Candidate:
    def text(key: str) -> str | None:
        return _plain(str(info.extmetadata[key].value)) or None if key in info.extmetadata else None

    page = info.descriptionurl
    return Candidate(
        url=info.thumburl or info.url,
        through=f"wikimedia: {source.search}",
        page=page if page is not None and is_web_address(page) else None,
        licence=text("LicenseShortName"),
        author=text("Artist"),
    )


async def _list_breed(breed: str, api: str, fetcher: Fetcher) -> list[Candidate]:
    answer = _parse(_BreedAnswer, await fetcher.get(f"{api.rstrip('/')}/breed/{breed}/images"), api)
    return [Candidate(url, f"dog_ceo: {breed}") for url in answer.message]


def _parse(kind: type[_Kind], content: bytes, api: str) -> _Kind:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FetchError(
            f"{api} does not answer as this API does ({where or 'the answer'}: {problem['msg']})"
        ) from None


def is_web_address(text: str) -> bool:
    try:
        web_address(text)
    except ValueError:
        return False
    return True


class _Words(HTMLParser):
    """Collects the text between tags."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _plain(marked_up: str) -> str:
    """The text of a piece of HTML on one line, cut where it grows long."""
    parser = _Words()
    # What looks like a declaration and is none is an AssertionError in some versions of Python.
    with suppress(AssertionError):
        parser.feed(marked_up[:_LONGEST_MARKED_UP])
        parser.close()
    line = " ".join("".join(parser.words).split())
    return "".join(c for c in line if c.isprintable())[:_LONGEST_TEXT]
