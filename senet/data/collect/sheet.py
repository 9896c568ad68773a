"""The contact sheet: all pictures of a collection in one HTML file, to be looked through by a person."""

import base64
import html
import io
import string
from collections.abc import Iterator
from importlib import resources
from itertools import groupby

import numpy as np
from PIL import Image

from senet.data.collect.folder import Folder
from senet.data.collect.manifest import Record, State
from senet.data.collect.sources import is_web_address
from senet.data.pictures import decode_pictures
from senet.files import write_atomically

_SIDE = 220  # pixels of a thumbnail
_THUMBNAILS_AT_ONCE = 64


def write_sheet(folder: Folder, name: str, spec: str) -> None:
    """Write the contact sheet of a collection; kept pictures are ticked. It needs no other file and no network.

    Args:
        folder: the collection.
        name: its name, for the title.
        spec: the spec's file, for the command that applies the choices.
    """
    records = sorted((record for record in folder.manifest if record.got), key=lambda record: str(record.file))
    figures = zip(records, _thumbnails(folder, records), strict=True)
    mixes = [
        f"<section>\n<h2>{html.escape(mix)}</h2>\n<div class='pictures'>\n"
        + "\n".join(_figure(record, thumbnail) for record, thumbnail in group)
        + "\n</div>\n</section>"
        for mix, group in groupby(figures, key=lambda figure: figure[0].mix)
    ]
    template = string.Template(resources.files(__package__).joinpath("contact-sheet.html").read_text("utf-8"))
    page = template.substitute(name=html.escape(name), spec=html.escape(spec), mixes="\n".join(mixes))
    write_atomically(folder.sheet, page.encode("utf-8", "backslashreplace"))


def _thumbnails(folder: Folder, records: list[Record]) -> Iterator[str]:
    """The centre of each picture, as an import sees it, as the address of an embedded JPEG; "" where there is none."""
    for start in range(0, len(records), _THUMBNAILS_AT_ONCE):
        paths = [folder.place(record) for record in records[start : start + _THUMBNAILS_AT_ONCE]]
        pixels = np.empty((len(paths), _SIDE, _SIDE, 3), np.uint8)
        for image, problem in zip(pixels, decode_pictures(paths, pixels, "pad"), strict=True):
            if problem:
                yield ""
                continue
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=80)
            yield f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _figure(record: Record, thumbnail: str) -> str:
    """One picture with its box. Everything that came from outside is escaped."""
    checked = " checked" if record.state is State.KEPT else ""
    name = html.escape(str(record.file))
    source = f" src='{thumbnail}'" if thumbnail else ""
    links = [f"<a href='{html.escape(url)}' rel='noreferrer'>{word}</a>" for url, word in _links(record)]
    width, height = record.size or (0, 0)
    caption = [record.author, record.licence or "licence not stated", f"{width} × {height}"]
    words = [html.escape(text) for text in caption if text] + links
    return (
        f"<figure><label><input type='checkbox' autocomplete='off' value='{name}'{checked}>"
        f"<img{source} alt='{name}'></label>"
        f"<figcaption>{' · '.join(words)}</figcaption></figure>"
    )


def _links(record: Record) -> Iterator[tuple[str, str]]:
    if is_web_address(record.url):
        yield record.url, "file"
    if record.page is not None and is_web_address(record.page):
        yield record.page, "source"
