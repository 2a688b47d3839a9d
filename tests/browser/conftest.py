"""A site worth looking at, and a browser without JavaScript."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver

from cbk.edges.archive.archive import DiskUsage
from cbk.rules.status.samples import Sample
from tests.in_process_site import InProcessSite
from tests.origin import Origin, status
from tests.page_server import PAIR

PICTURES = os.environ.get("CBK_TEST_PICTURES")
WIDTH, HEIGHT = 1100, 1000
COLOURS = 48
# The second version of a thumbnail.
SECOND = bytes(range(256)) * 10


@pytest.fixture(scope="module")
def origin():
    with Origin() as origin:
        yield origin


@pytest.fixture
def site(tmp_path, origin, monkeypatch):
    for name in [name for name in os.environ if name.startswith("CBK_") and name != "CBK_TEST_PICTURES"]:
        monkeypatch.delenv(name)
    site = InProcessSite(tmp_path, origin, buckets={"s3": "car-erp", "azure": "documents"}, brake_files=3, brake_share=0)
    yield site
    site.close()


@pytest.fixture
def story(site, monkeypatch):
    """A month of growth, three deletes too many, a link that died, and a worker at its work."""
    now = site.context.catalog.database.now()
    monkeypatch.setattr(site.context.archive, "usage", lambda: DiskUsage(free=int(0.95e12), total=int(2e12), read_only=False))
    for hours in range(30 * 24, -1, -3):
        day = 30 - hours / 24
        files = int(1 + day * 5 / 6)
        site.context.catalog.samples.note(
            Sample(
                at=now - timedelta(hours=hours),
                files=files,
                protected=files,
                lag=timedelta(minutes=(hours * 7919) % 23 + (180 if 190 < hours < 215 else 0)),
                copies=files,
                size=int(day * 7700),
                stored_size=int(day * 8000),
                free=int(1.2e12 - day * 8.4e9),
                total=int(2e12),
            )
        )
    for number in range(1, 8):
        for name in ("front.jpg", "back.jpg", "thumbnail.png"):
            site.upload(f"cars/id-{number}/{name}", os.urandom(2000 * number))
    site.upload("cars/id-1/thumbnail.png", SECOND, version=2, served_at="/second")
    site.upload("cars/id-1/ünï & <b>.txt", b"any name")
    contracts = [site.upload(f"contracts/{year}.pdf", os.urandom(9000), storage="azure") for year in range(2020, 2027)]
    site.upload("contracts/drafts/2027.pdf", b"x", status(403), storage="azure")
    site.work()
    for row in contracts[:4]:
        site.delete(row)
    site.poll()
    return site


@pytest.fixture
def browser(tmp_path):
    """Chromium with no JavaScript of any page's; what it downloads goes to `downloads`."""
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{HEIGHT}",
    ):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    (tmp_path / "downloads").mkdir()
    options.add_experimental_option(
        "prefs",
        {
            "download.default_directory": str(tmp_path / "downloads"),
            "download.prompt_for_download": False,
            "profile.managed_default_content_settings.javascript": 2,
        },
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    complaints = [entry for entry in driver.get_log("browser") if "favicon" not in entry["message"]]
    driver.quit()
    assert complaints == []


@pytest.fixture
def visit(browser):
    """A function that goes to a page with the password, and waits until it is there."""

    def visit(address, path="/", pair=PAIR):
        browser.get(address.replace("http://", f"http://{pair[0]}:{pair[1]}@") + path)
        return browser

    return visit


@pytest.fixture
def picture(browser, tmp_path):
    """A function that keeps what the browser shows, whole, in few colours, where that was asked for."""

    def take(name):
        height = browser.execute_script("return Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)")
        browser.set_window_size(WIDTH, height + 150)
        path = tmp_path / f"{name}.png"
        browser.save_screenshot(str(path))
        browser.set_window_size(WIDTH, HEIGHT)
        if PICTURES:
            with Image.open(path) as image:
                few = image.convert("RGB").crop((0, 0, image.width, height)).quantize(COLOURS, dither=Image.Dither.NONE)
                few.save(Path(PICTURES) / f"{name}.png", optimize=True)

    return take
