"""A fresh Django project, as `django-admin startproject` makes it, with what the documentation says to add."""

import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import urllib3
from sqlalchemy import create_engine, text

from cbk.jobs.admin.init import initialise
from cbk.model import Proof, VersionState
from cbk_app.contract import INVENTORY_KEY
from local_servers import free_port, wait_until
from tests.in_process_site import InProcessSite
from tests.origin import Origin


class Project:
    """A project in a folder; `run` runs manage.py, `python` runs code with its settings."""

    def __init__(self, folder, port, database):
        self.folder = folder
        self.port = port
        self.database = database
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "AWS_", "CBKAPP_"))
        }
        self.command(sys.executable, "-m", "django", "startproject", "shop", ".")
        self.settings = folder / "shop/settings.py"

    def command(self, *arguments, check=True):
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def add(self, more_settings, more_urls=""):
        with self.settings.open("a") as file:
            file.write(textwrap.dedent(more_settings))
        with (self.folder / "shop/urls.py").open("a") as file:
            file.write(textwrap.dedent(more_urls))

    def manage(self, *arguments, check=True):
        return self.command(sys.executable, "-W", "error", "manage.py", *arguments, check=check)

    def python(self, code):
        """What the code prints, which runs with Django set up."""
        prelude = (
            "from django.core.files.base import ContentFile\n"
            "from django.core.files.storage import default_storage as storage\n"
            "from django.db import transaction\n"
        )
        return self.manage("shell", "--verbosity", "0", "--no-imports", "--command", prelude + textwrap.dedent(code)).stdout.strip()

    def rows(self, table="ObjectStorageFiles"):
        engine = create_engine(self.database)
        with engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(text(f'SELECT * FROM "{table}" ORDER BY "Id"')).mappings()]
        engine.dispose()
        return rows

    def versions(self):
        return {row["Path"] + row["Name"]: (row["Version"], row["Hash"]) for row in self.rows()}


PAGE = (Path(__file__).parents[3] / "docs/application.md").read_text()
CODE = dict(re.findall(r"^```python (django-[a-z]+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))


def settings_of(port, options=""):
    """What the documentation says to add, for this address and with these options more."""
    added = CODE["django-settings"].replace("https://app.example.com", f"http://127.0.0.1:{port}")
    added = added.replace('"OPTIONS": {', f'"OPTIONS": {{{options}')
    return added + 'MEDIA_ROOT = BASE_DIR / "media"\nALLOWED_HOSTS = ["127.0.0.1"]\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project on SQLite whose files are in a folder: what a newcomer has."""
    folder = tmp_path_factory.mktemp("project")
    project = Project(folder, free_port(), f"sqlite:///{folder}/db.sqlite3")
    project.add(settings_of(project.port), CODE["django-urls"] + PAGES)
    project.manage("migrate")
    return project


@pytest.fixture(scope="module")
def served(project):
    """The project's own server; gives the status, the headers and the body of an address."""
    log = (project.folder / "server.log").open("wb")
    running = subprocess.Popen(
        [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{project.port}"],
        cwd=project.folder,
        env=project.environment,
        stdout=log,
        stderr=log,
    )

    def is_up():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", project.port)) == 0

    def get(address):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(address, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, b""

    try:
        wait_until(is_up, 60, "Django to answer")
        yield get
    finally:
        running.kill()
        running.wait()
        log.close()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_the_project_has_nothing_to_complain_of(project):
    project.manage("makemigrations", "--check", "--dry-run")


@pytest.fixture(scope="module")
def said(project):
    """What a project sees that saves and deletes, as JSON."""
    return json.loads(
        project.python(
            """
            import json
            from cbk_app.django.models import ObjectStorageFile
            said = {"name": storage.save("cars/a.png", ContentFile(b"first"))}
            try:
                with transaction.atomic():
                    storage.save("undone.txt", ContentFile(b"x"))
                    raise KeyError
            except KeyError:
                pass
            storage.save("gone.txt", ContentFile(b"x"))
            storage.delete("gone.txt")
            said["gone"] = storage.exists("gone.txt")
            said["twice"] = [storage.save("twice.txt", ContentFile(b"%d" % n)) for n in range(2)]
            storage.save("dir/x.txt", ContentFile(b"abc"))
            said["rest"] = [storage.size("dir/x.txt"), storage.listdir("dir"), storage.url("dir/x.txt"), storage.base_url]
            said["read"] = storage.open("dir/x.txt").read().decode()
            said["path"] = storage.path("dir/x.txt").endswith("media/dir/x.txt") and storage.location.endswith("media")
            said["year"] = storage.get_modified_time("dir/x.txt").year
            said["model"] = str(ObjectStorageFile.objects.get(name="x.txt"))
            print(json.dumps(said))
            """
        )
    )


def test_a_save_becomes_a_row_and_its_link_gives_out_the_file(project, said, served):
    (row,) = [row for row in project.rows() if row["Name"] == "a.png"]
    assert said["name"] == "cars/a.png"
    assert (row["Storage"], row["Path"], row["Version"], row["Hash"]) == ("media", "cars/", 1, sha256(b"first"))
    assert served(row["SignedDownloadUrl"]) == (200, b"first")


def test_a_link_that_was_made_up_is_refused(project, served):
    assert served(f"http://127.0.0.1:{project.port}/cbk-links/{'0' * 64}/bWVkaWEKY2Fycy9hLnBuZw")[0] == 403


def test_a_save_falls_with_its_transaction(project, said):
    assert "undone.txt" not in project.versions()


def test_a_delete_is_logged_and_done(project, said):
    (row,) = [row for row in project.rows() if row["Name"] == "gone.txt"]
    assert said["gone"] is False
    assert row["Id"] in {logged["FileId"] for logged in project.rows("ObjectStorageDeleteLog")}


def test_a_name_that_is_taken_is_another_file(project, said):
    assert len(set(said["twice"])) == 2
    assert set(said["twice"]) <= set(project.versions())


def test_everything_else_is_as_the_backend_has_it(said):
    assert (said["rest"], said["read"], said["path"]) == ([3, [[], ["x.txt"]], "/dir/x.txt", "/"], "abc", True)
    assert said["year"] > 2000


def test_the_rows_are_models(said):
    assert said["model"] == "media/dir/x.txt v1"


def test_files_from_before_are_imported_and_then_an_inventory_names_all(project, said):
    (project.folder / "media/old").mkdir(parents=True, exist_ok=True)
    (project.folder / "media/old/b.bin").write_bytes(b"before")
    code = """
        from django.core.management import call_command
        call_command("cbk_import", dry_run=True)
        call_command("cbk_import")
        call_command("cbk_import")
        call_command("cbk_inventory")
        """
    dry, done, again, named = (json.loads(line) for line in project.python(code).splitlines())

    assert dry["row"] >= 1
    assert (done["recorded"], done["failed"], again["recorded"]) == (dry["row"], 0, 0)
    assert project.versions()["old/b.bin"] == (1, sha256(b"before"))
    assert named["objects"] == len([path for path in (project.folder / "media").rglob("*") if path.is_file()]) - 1
    assert INVENTORY_KEY in project.versions()


def test_links_of_an_old_secret_key_work_while_it_is_a_fallback(project, said):
    (row,) = [row for row in project.rows() if row["Name"] == "a.png"]
    path = urllib.parse.urlsplit(row["SignedDownloadUrl"]).path
    old = re.search(r"^SECRET_KEY = (.*)$", project.settings.read_text(), re.MULTILINE)[1]
    code = f"""
        from django.conf import settings
        from django.test import Client, override_settings
        from cbk_app.django import views
        for fallbacks in ([{old}], []):
            with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=fallbacks):
                from django.core.files.storage import storages
                views._app.cache_clear()
                storages._storages.clear()
                print(Client().get("{path}", HTTP_HOST="127.0.0.1").status_code)
        """
    assert project.python(code).split() == ["200", "403"]


# A page with a form, as anybody writes it, and one that removes what came.
PAGES = """
from django.core.files.storage import default_storage
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

@csrf_exempt
def upload(request):
    return HttpResponse(default_storage.save("cars/" + request.FILES["photo"].name, request.FILES["photo"]))

@csrf_exempt
def remove(request):
    default_storage.delete(request.POST["name"])
    return HttpResponse()

urlpatterns += [path("upload", upload), path("remove", remove)]
"""


class DjangoSite(InProcessSite):
    """A kit whose source is the project's own database, which `migrate` made."""

    def prepare(self):
        list(initialise(self.context))


@pytest.fixture
def project_site(tmp_path, project, served):
    """A kit on the project that is being served."""
    with Origin() as origin:
        address = f"127.0.0.1:{project.port}"
        site = DjangoSite(tmp_path, origin, source_url=project.database, buckets={}, allowed_hosts=address)
        yield site
        site.close()


def post(project, path, **fields):
    """What the project answers to a form as a browser sends it; a field that is a pair is a file's name and content."""
    http = urllib3.PoolManager()
    answer = http.request("POST", f"http://127.0.0.1:{project.port}/{path}", fields=fields)
    assert answer.status == 200, answer.data
    return answer.data.decode()


def test_a_file_that_a_browser_uploads_is_stored_in_two_polls_and_pruned_after_its_delete_and_grace(project, project_site):
    site, content = project_site, bytes(range(256)) * 20_000  # more than Django keeps in memory
    name = post(project, "upload", photo=("Größe 1.jpg", content, "image/jpeg"))
    for _ in range(2):
        site.work()
    version = site.versions()[name, 1]
    assert (version.state, version.sha256, version.proof, version.content_type) == (
        VersionState.STORED,
        sha256(content),
        Proof.SHA256,
        "image/jpeg",
    )
    copy = site.root / f"media/{name.removesuffix('.jpg')}/v1.gzip"
    assert gzip.decompress(copy.read_bytes()) == content

    post(project, "remove", name=name)
    site.let_go()
    assert (site.versions()[name, 1].deleted, copy.exists()) == (True, True)
    site.pass_grace()
    site.let_go()
    assert (site.states()[name, 1], copy.exists()) == (VersionState.PRUNED, False)


def test_tables_that_are_there_already_stay_as_they_are(tmp_path):
    from cbk_app.schema import FILES  # noqa: PLC0415

    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    FILES.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("""INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (5)"""))
    engine.dispose()
    project = Project(tmp_path, free_port(), f"sqlite:///{tmp_path}/db.sqlite3")
    project.add(settings_of(1))
    project.manage("migrate")
    assert [row["FileId"] for row in project.rows("ObjectStorageDeleteLog")] == [5]


def test_a_project_on_postgresql_with_its_files_on_s3(tmp_path, postgres, pg_database, s3, bucket):
    """django-storages under it: the key is below the backend's own location, an overwritten object is the next version."""
    project = Project(tmp_path, free_port(), postgres.url(pg_database))
    options = {
        "bucket_name": bucket,
        "endpoint_url": s3.endpoint,
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
        "region_name": s3.region,
        "location": "uploads",
        "signature_version": "s3v4",
        "file_overwrite": True,
    }
    database = {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": str(postgres.port), "NAME": pg_database}
    database["USER"] = "postgres"
    more = f'"backend": "storages.backends.s3.S3Storage", "options": {options!r}, '
    project.add(settings_of(1, more), CODE["django-urls"])
    project.add(f"DATABASES = {{'default': {database!r}}}\n")
    project.manage("migrate")
    s3.client().put_object(Bucket=bucket, Key="before.txt", Body=b"before")

    location = project.python(
        """
        with transaction.atomic():
            storage.save("a.txt", ContentFile(b"1"))
            storage.save("a.txt", ContentFile(b"22"))
        from urllib.parse import urlsplit
        from django.test import Client
        from cbk_app.django.models import ObjectStorageFile
        link = ObjectStorageFile.objects.get(version=2).link
        print(Client().get(urlsplit(link).path, HTTP_HOST="127.0.0.1")["Location"])
        """
    )
    project.python(
        """
        from django.core.management import call_command
        call_command("cbk_import")
        storage.delete("a.txt")
        """
    )

    assert "X-Amz-Expires=60" in location
    assert urllib.parse.urlsplit(location).path == f"/{bucket}/uploads/a.txt"
    assert project.versions() == {"uploads/a.txt": (2, sha256(b"22")), "before.txt": (1, sha256(b"before"))}
    assert [row["FileId"] for row in project.rows("ObjectStorageDeleteLog")] == [2]
