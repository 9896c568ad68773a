"""The contact sheet: escaped, self-contained, and in a real browser ticked, saved and applied."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.senet.collect.conftest import Collection
from tests.senet.collect.server import image_info, picture, wikimedia
from tests.senet.collect.test_collect import name_of

EVIL = "&lt;/figcaption&gt;&lt;img src=x onerror=document.title='owned'&gt; ' \" $name"


def collect_evil(collection: Collection) -> None:
    """A collection whose mixes, authors, pages and addresses would break out of the page if they could."""
    collection.serve(1, 2, 3)
    server = collection.server
    found = [
        image_info(server, "/1.jpg?a='><script>document.title='owned'</script>", author=EVIL, licence="<b>CC0</b>"),
        image_info(server, "/2.jpg") | {"descriptionurl": "javascript:document.title='owned'"},
    ]
    server.answers["/w/api.php"] = wikimedia(server, found, a_request=50)
    collection.run(
        {
            "<i>pug<i>+beagle": [{"wikimedia": {"search": "x"}}],
            "pug+beagle": [{"urls": [server.url("/3.jpg")]}],
        }
    )


def test_what_comes_from_outside_is_escaped(collection: Collection) -> None:
    collect_evil(collection)
    page = (collection.out / "contact-sheet.html").read_text("utf-8")
    assert page.count("<script>") == 1
    assert page.count("<figure>") == page.count("<img ") == page.count("type='checkbox'") == 3
    assert "javascript:" not in page
    assert "<i>" not in page
    assert "<b>CC0" not in page
    assert "&lt;img src=x onerror=document.title=&#x27;owned&#x27;&gt; &#x27; &quot; $name" in page
    # Thumbnails lie in the page; the links to where the pictures come from are the only addresses in it.
    assert page.count("src='data:image/jpeg;base64,") == 3
    assert set(re.findall(r"""(?:src|href)=['"](\w+):""", page)) == {"data", "http", "https"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_somebody_looks_through_the_sheet(collection: Collection, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    collect_evil(collection)
    browser.get((collection.out / "contact-sheet.html").as_uri())
    assert browser.title == "dogs: contact sheet", "something from outside was run"
    assert [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")] == ["<i>pug<i>+beagle", "pug+beagle"]
    images = browser.find_elements(By.TAG_NAME, "img")
    assert [image.get_property("naturalWidth") for image in images] == [220, 220, 220]
    assert "3 of 3 kept" in browser.find_element(By.ID, "count").text

    unwanted = name_of(picture(3))
    boxes = {box.get_attribute("value"): box for box in browser.find_elements(By.CSS_SELECTOR, "input[type=checkbox]")}
    assert all(box.is_selected() for box in boxes.values())
    browser.find_element(By.CSS_SELECTOR, f"img[alt='{unwanted}']").click()
    assert "2 of 3 kept" in browser.find_element(By.ID, "count").text
    browser.find_element(By.ID, "save").click()

    saved = tmp_path / "downloads" / "choices.json"
    deadline = time.monotonic() + 20
    while not saved.exists():
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.1)
    assert json.loads(saved.read_text()) == {name: name != unwanted for name in boxes}

    collection.call("--choices", str(saved))
    assert collection.files("rejected") == [unwanted]
    browser.get((collection.out / "contact-sheet.html").as_uri())
    boxes = browser.find_elements(By.CSS_SELECTOR, "input[type=checkbox]")
    assert {box.get_attribute("value"): box.is_selected() for box in boxes} == json.loads(saved.read_text())
