"""Permanent links: what is signed, what is answered, as WSGI and as ASGI."""

import asyncio
import io

import pytest

from cbk_app.errors import AppUsageError, ObjectGone, StoreError
from cbk_app.links import LinkApp, Links, new_secret
from cbk_app.stores.folder import FolderStore

SECRET, OTHER = "s" * 40, "t" * 40
URL = "https://app.example.com/cbk-links"
KEY = "cars/id-1/ä b//../%2F?#.png"


class Signing:
    """A store whose links name what was asked for."""

    def __init__(self):
        self.signed = []
        self.error = None

    def sign(self, key, seconds):
        if self.error:
            raise self.error
        self.signed.append((key, seconds))
        return "https://storage.example.com/object?signature=fresh"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def links():
    return Links(URL, secrets=[SECRET])


@pytest.fixture
def store():
    return Signing()


@pytest.fixture
def app(links, store):
    return LinkApp(links, {"s3": store})


def path_of(link):
    return link.removeprefix(URL)


def wsgi(app, path, method="GET"):
    """The status, the headers and the body that a WSGI server would send."""
    told = []
    body = app({"REQUEST_METHOD": method, "PATH_INFO": path}, lambda status, headers: told.append((status, dict(headers))))
    return int(told[0][0].split()[0]), told[0][1], b"".join(body)


def asgi(app, path, method="GET", root_path=""):
    """The same of an ASGI server."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": root_path + path, "root_path": root_path}
    asyncio.run(app.asgi(scope, None, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message["body"] for message in sent[1:])


def test_a_link_names_its_object_whatever_its_key_is(links):
    assert links.read(path_of(links.link("s3", KEY))) == ("s3", KEY)


def test_a_link_holds_nothing_that_a_proxy_would_change(links):
    mac, payload = path_of(links.link("s3", KEY)).strip("/").split("/")
    assert set(mac) <= set("0123456789abcdef")
    assert payload.replace("-", "").replace("_", "").isalnum()


def test_a_link_stays_the_same(links):
    assert links.link("s3", KEY) == Links(f"{URL}/", secrets=[SECRET, OTHER]).link("s3", KEY)


def test_a_link_that_was_changed_anywhere_is_refused(links):
    path = path_of(links.link("s3", KEY))
    changed = [path[:at] + ("0" if path[at] != "0" else "1") + path[at + 1 :] for at in range(1, len(path))]
    assert [each for each in changed if links.read(each) is not None] == []


@pytest.mark.parametrize("path", ["", "/", "/a", "/a/b/c", "/é/ü", f"/{'0' * 64}/", f"/{'0' * 64}/czMK", "/\0/\n"])
def test_what_was_never_a_link_is_refused(links, path):
    assert links.read(path) is None


def test_the_mac_of_one_object_opens_no_other(links):
    mine, other = path_of(links.link("s3", "a")), path_of(links.link("s3", "b"))
    assert links.read(f"/{mine.split('/')[1]}/{other.split('/')[2]}") is None


def test_links_of_an_older_secret_work_until_it_is_taken_away():
    old = path_of(Links(URL, secrets=[SECRET]).link("s3", "a"))
    assert Links(URL, secrets=[OTHER, SECRET]).read(old) == ("s3", "a")
    assert Links(URL, secrets=[OTHER]).read(old) is None


@pytest.mark.parametrize("secrets", [[], [""], ["short"], [SECRET, "short"]])
def test_a_secret_that_is_none_is_refused(secrets):
    with pytest.raises(AppUsageError, match="at least 32 characters"):
        Links(URL, secrets=secrets)


def test_a_new_secret_is_long_enough_and_another_each_time():
    assert new_secret() != new_secret()
    Links(URL, secrets=[new_secret()])


@pytest.mark.parametrize("server", [wsgi, asgi])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_link_leads_to_one_that_was_signed_just_now(app, links, store, server, method):
    status, headers, body = server(app, path_of(links.link("s3", KEY)), method)
    named = {name.lower(): value for name, value in headers.items()}
    assert (status, body) == (302, b"")
    assert named["location"] == "https://storage.example.com/object?signature=fresh"
    assert named["cache-control"] == "no-store"
    assert store.signed == [(KEY, 60)]


def test_asgi_knows_where_it_is_mounted(app, links):
    assert asgi(app, path_of(links.link("s3", KEY)), root_path="/cbk-links")[0] == 302


@pytest.mark.parametrize("server", [wsgi, asgi])
def test_a_folder_gives_out_the_bytes(links, tmp_path, server):
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars/a.png").write_bytes(b"x" * 200_000)
    app = LinkApp(links, {"s3": FolderStore(tmp_path)})
    status, headers, body = server(app, path_of(links.link("s3", "cars/a.png")))
    named = {name.lower(): value for name, value in headers.items()}
    assert (status, named["content-length"], len(body)) == (200, "200000", 200_000)


@pytest.mark.parametrize("key", ["../secret", "cars/../../secret", "/etc/passwd", "nothing", "", "cars", "a\0b", "link"])
def test_a_folder_gives_out_nothing_from_elsewhere(links, tmp_path, key):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "root/cars").mkdir(parents=True)
    (tmp_path / "root/link").symlink_to(tmp_path / "secret")
    app = LinkApp(links, {"s3": FolderStore(tmp_path / "root")})
    assert wsgi(app, path_of(links.link("s3", key)))[0] == 404


def test_a_link_that_we_did_not_sign_is_refused_without_asking_the_storage(app, store):
    assert wsgi(app, f"/{'0' * 64}/czMKYQ")[0] == 403
    assert store.signed == []


def test_a_link_to_a_storage_that_we_do_not_have_says_so(links):
    assert wsgi(LinkApp(links, {}), path_of(links.link("s3", "a")))[0] == 404


@pytest.mark.parametrize(("error", "status"), [(ObjectGone("gone"), 404), (StoreError("away"), 503)])
def test_a_storage_in_trouble_is_told_apart(app, links, store, error, status):
    store.error = error
    assert wsgi(app, path_of(links.link("s3", "a")))[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(app, links, method):
    status, headers, _ = wsgi(app, path_of(links.link("s3", "a")), method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_too_many_requests_are_told_when_to_come_again(links, store):
    clock = Clock()
    app = LinkApp(links, {"s3": store}, rate_per_second=2, clock=clock)
    path = path_of(links.link("s3", "a"))
    answers = [wsgi(app, path)[:2] for _ in range(3)]
    assert [status for status, _ in answers] == [302, 302, 429]
    assert int(answers[-1][1]["Retry-After"]) >= 1
    clock.now += 0.5
    assert wsgi(app, path)[0] == 302


def test_who_guesses_takes_nothing_from_who_has_a_link(links, store):
    app = LinkApp(links, {"s3": store}, rate_per_second=1, clock=Clock())
    assert {wsgi(app, f"/{'0' * 64}/czMKYQ")[0] for _ in range(50)} == {403}
    assert wsgi(app, path_of(links.link("s3", "a")))[0] == 302


def test_asgi_answers_the_server_that_starts_and_stops(app):
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(app.asgi({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_file_that_was_given_out_is_closed(links, tmp_path):
    opened = []

    class Opening:
        def open(self, key):
            opened.append(io.BytesIO(b"abc"))
            return opened[-1], 3

    app = LinkApp(links, {"s3": Opening()})
    path = path_of(links.link("s3", "a"))
    assert wsgi(app, path)[2] == b"abc"
    assert wsgi(app, path, "HEAD")[2] == b""
    assert asgi(app, path, "HEAD")[2] == b""
    assert [each.closed for each in opened] == [True, True, True]
