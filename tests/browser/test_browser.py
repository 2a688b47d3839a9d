"""The page as Chromium shows it, without JavaScript.

A test fails also where the browser complains of anything, such as a breach of the page's own policy.
"""

import subprocess
from pathlib import Path

import pytest
import requests
from selenium.webdriver.common.by import By

from local_servers import wait_until
from tests.browser.conftest import SECOND
from tests.origin import status
from tests.page_server import PAIR, served

pytestmark = pytest.mark.browser

RULES = Path(__file__).parents[2] / "docs/monitoring/alerts.yml"
HOSTILE = "cars/<script>alert(1)</script>\"'&ünï 日本\u202egnp.exe"
WORKERS = {"celery@pi": 3, "celery@pi-two": 0}


def texts(browser, selector):
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def follow(browser, text):
    browser.find_element(By.LINK_TEXT, text).click()


def test_red_page_tells_the_whole_story(story, visit, picture):
    with served(story.context, lambda: WORKERS) as address:
        browser = visit(address)
        assert texts(browser, "h1") == ["Not everything is protected"]
        assert any("held back by brake 1" in text for text in texts(browser, ".problems strong"))
        assert len(texts(browser, "polyline")) == 4
        picture("page-red")


def test_page_turns_green_by_itself(site, visit, picture, monkeypatch):
    monkeypatch.setattr("cbk.page.app.REFRESH_SECONDS", 1)
    monkeypatch.setattr("cbk.page.snapshot.FRESH_SECONDS", 0.1)
    with served(site.context, lambda: WORKERS) as address:
        browser = visit(address)
        assert browser.title.startswith("NOT protected")
        site.upload("a.txt", b"x")
        site.work()
        wait_until(lambda: browser.title.startswith("Protected"), 30, lambda: "the page to turn green")
        picture("page-green")


def test_files_are_found_and_downloaded_whole(story, visit, picture, tmp_path):
    with served(story.context) as address:
        browser = visit(address)
        follow(browser, "Files")
        follow(browser, "car-erp")
        follow(browser, "cars/")
        follow(browser, "id-1/")
        picture("page-folder")
        follow(browser, "thumbnail.png")
        assert [text.split()[:2] for text in texts(browser, "h2")] == [["v2", "stored"], ["v1", "superseded"]]
        picture("page-file")
        browser.find_element(By.CSS_SELECTOR, "a.button").click()
        saved = tmp_path / "downloads" / "thumbnail.png"
        wait_until(saved.exists, 30, lambda: f"the download: {list(saved.parent.iterdir())}")
        assert saved.read_bytes() == SECOND


def test_hostile_name_is_shown_and_saved_as_a_name(site, visit, tmp_path):
    site.upload(HOSTILE, b"content", served_at="/hostile")
    site.work()
    with served(site.context) as address:
        browser = visit(address, "/browse?bucket=car-erp")
        assert texts(browser, "td a") == ["cars/"]
        follow(browser, "cars/")
        follow(browser, "<script>alert(1)</")
        browser.find_element(By.LINK_TEXT, "script>\"'&ünï 日本\\u202egnp.exe")
        follow(browser, "download")
        folder = tmp_path / "downloads"
        wait_until(lambda: [p for p in folder.iterdir() if not p.name.endswith(".crdownload")], 30, lambda: "the download")
        [saved] = folder.iterdir()
        assert saved.read_bytes() == b"content"
        assert not {"<", ">", '"', "/", "\u202e"} & set(saved.name)


@pytest.mark.parametrize("path", ["/", "/browse", "/browse?bucket=car-erp", "/file/1", "/nothing"])
def test_page_fits_a_telephone(site, visit, browser, path):
    site.upload("x" * 3000 + "/" + "y" * 900, b"x", status(403), served_at="/long")
    site.work()
    browser.set_window_size(500, 900)
    with served(site.context, lambda: WORKERS) as address:
        visit(address, path)
        wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= seen
    browser.get_log("browser")  # a page that there is not is a complaint of the browser's


def test_nobody_gets_in_with_a_wrong_password(site, visit, browser):
    with served(site.context) as address:
        visit(address, pair=("admin", "wrong"))
        assert "protected" not in browser.page_source
    browser.get_log("browser")


# ---- Prometheus ------------------------------------------------------------------------------------------------------------


def test_prometheus_finds_nothing_to_mend_in_the_metrics(story):
    with served(story.context, lambda: WORKERS) as address:
        metrics = requests.get(f"{address}/metrics", auth=PAIR, timeout=20).content
    judged = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")


def test_prometheus_finds_nothing_to_mend_in_the_rules():
    judged = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
