"""The documented views over tables that applications have already: each by the schema of its own project."""

import base64
import hashlib
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk.jobs.admin.init import initialise
from cbk.jobs.backup.backup import back_up_together
from cbk.model import Proof
from cbk_app.links import Links, new_secret
from tests.in_process_site import InProcessSite
from tests.origin import Origin

PAGE = (Path(__file__).parents[3] / "docs" / "application.md").read_text()
BATCH = 32

# As Rails 8's CreateActiveStorageTables makes them.
RAILS = """
CREATE TABLE active_storage_blobs (
    id bigserial PRIMARY KEY, key character varying NOT NULL, filename character varying NOT NULL, content_type character varying,
    metadata text, service_name character varying NOT NULL, byte_size bigint NOT NULL, checksum character varying,
    created_at timestamp(6) without time zone NOT NULL
);
CREATE UNIQUE INDEX index_active_storage_blobs_on_key ON active_storage_blobs (key);
CREATE TABLE active_storage_attachments (
    id bigserial PRIMARY KEY, name character varying NOT NULL, record_type character varying NOT NULL, record_id bigint NOT NULL,
    blob_id bigint NOT NULL REFERENCES active_storage_blobs (id), created_at timestamp(6) without time zone NOT NULL
);
CREATE INDEX index_active_storage_attachments_on_blob_id ON active_storage_attachments (blob_id);
CREATE UNIQUE INDEX index_active_storage_attachments_uniqueness
    ON active_storage_attachments (record_type, record_id, name, blob_id);
CREATE TABLE active_storage_variant_records (
    id bigserial PRIMARY KEY, blob_id bigint NOT NULL REFERENCES active_storage_blobs (id),
    variation_digest character varying NOT NULL
);
"""
# As the media library's create_media_table makes it, by Laravel's grammar for PostgreSQL.
LARAVEL = """
CREATE TABLE media (
    id bigserial PRIMARY KEY, model_type varchar(255) NOT NULL, model_id bigint NOT NULL, uuid uuid UNIQUE,
    collection_name varchar(255) NOT NULL, name varchar(255) NOT NULL, file_name varchar(255) NOT NULL, mime_type varchar(255),
    disk varchar(255) NOT NULL, conversions_disk varchar(255), size bigint NOT NULL, manipulations json NOT NULL,
    custom_properties json NOT NULL, generated_conversions json NOT NULL, responsive_images json NOT NULL,
    order_column integer, created_at timestamp(0) without time zone, updated_at timestamp(0) without time zone
);
"""
# As Supabase documents its storage schema.
SUPABASE = """
CREATE SCHEMA storage;
CREATE SCHEMA extensions;
CREATE EXTENSION pgcrypto SCHEMA extensions;
CREATE TABLE storage.buckets (id text PRIMARY KEY, name text NOT NULL UNIQUE, created_at timestamptz DEFAULT now());
CREATE TABLE storage.objects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), bucket_id text REFERENCES storage.buckets (id), name text, owner uuid,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), last_accessed_at timestamptz DEFAULT now(),
    metadata jsonb, path_tokens text[] GENERATED ALWAYS AS (string_to_array(name, '/')) STORED, version text, owner_id text,
    user_metadata jsonb
);
CREATE UNIQUE INDEX bucketid_objname ON storage.objects (bucket_id, name);
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION storage.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER update_objects_updated_at BEFORE UPDATE ON storage.objects
    FOR EACH ROW EXECUTE FUNCTION storage.update_updated_at_column();
"""

# The same two as Rails and Laravel make them in MySQL.
MYSQL_RAILS = """
CREATE TABLE active_storage_blobs (
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, `key` varchar(255) NOT NULL, filename varchar(255) NOT NULL,
    content_type varchar(255), metadata text, service_name varchar(255) NOT NULL, byte_size bigint NOT NULL,
    checksum varchar(255), created_at datetime(6) NOT NULL, UNIQUE INDEX index_active_storage_blobs_on_key (`key`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE active_storage_attachments (
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(255) NOT NULL, record_type varchar(255) NOT NULL,
    record_id bigint NOT NULL, blob_id bigint NOT NULL, created_at datetime(6) NOT NULL,
    INDEX index_active_storage_attachments_on_blob_id (blob_id),
    UNIQUE INDEX index_active_storage_attachments_uniqueness (record_type, record_id, name, blob_id),
    CONSTRAINT fk_rails_c3b3935057 FOREIGN KEY (blob_id) REFERENCES active_storage_blobs (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
"""
MYSQL_LARAVEL = """
CREATE TABLE media (
    id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, model_type varchar(255) NOT NULL, model_id bigint unsigned NOT NULL,
    uuid char(36) UNIQUE, collection_name varchar(255) NOT NULL, name varchar(255) NOT NULL, file_name varchar(255) NOT NULL,
    mime_type varchar(255), disk varchar(255) NOT NULL, conversions_disk varchar(255), size bigint unsigned NOT NULL,
    manipulations json NOT NULL, custom_properties json NOT NULL, generated_conversions json NOT NULL,
    responsive_images json NOT NULL, order_column int unsigned, created_at timestamp NULL, updated_at timestamp NULL
) DEFAULT CHARACTER SET utf8mb4 COLLATE 'utf8mb4_unicode_ci';
"""


def documented(name):
    """The SQL of the page under this name."""
    (found,) = re.findall(rf"^```sql {name}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return found


class ViewSite(InProcessSite):
    """A site whose source are views of somebody else's tables, read as the restricted user."""

    def prepare(self):
        list(initialise(self.context))

    def serve(self, storage, key, content):
        """What the application answers under the object's permanent link, which is a secret of its own to know."""
        link = self.links.link(storage, key)
        self.origin.put(link.partition(self.origin.address)[2], content)

    def work(self):
        """Poll, and do what was sent, in batches as workers do; gives what failed."""
        failures = []
        while self.poll() and (sent := self.publisher.take()):
            for start in range(0, len(sent), BATCH):
                done = back_up_together(self.context, sent[start : start + BATCH])
                failures += done.failures
        return failures


class Postgres:
    """A database of the application's on PostgreSQL, and a user who may read what it is granted."""

    prefix = ""

    def __init__(self, request):
        self.server = request.getfixturevalue("postgres").start()
        self.name, self.reader = f"app_{uuid.uuid4().hex}", f"reader_{uuid.uuid4().hex[:12]}"
        self.server.create_database(self.name)
        self.server.execute(f'CREATE ROLE "{self.reader}" LOGIN')
        self.reader_url = self.server.url(self.name, user=self.reader)

    def set_up(self, sql):
        """Run statements of the administrator's."""
        self.server.execute(sql.replace("cbk_reader", f'"{self.reader}"'), self.name)

    def run(self, sql, *parameters):
        return self.server.execute(sql, self.name, parameters or None)

    def remove(self):
        self.server.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')
        self.server.execute(f'DROP ROLE "{self.reader}"')


class MariaDb:
    """The same on MariaDB."""

    prefix = "mysql-"

    def __init__(self, request):
        self.server = request.getfixturevalue("mariadb").start()
        self.name, self.reader = f"app_{uuid.uuid4().hex}", f"reader_{uuid.uuid4().hex[:12]}"
        self.server.create_database(self.name)
        self.server.execute(f"CREATE USER '{self.reader}'@'%'")
        # An application's server keeps its own time.
        zone = {"init_command": "SET time_zone = '+05:00'"}
        self.engine = sa.create_engine(self._url(), connect_args=zone)
        self.reader_url = self._url(user=self.reader, password="")

    def _url(self, **account):
        return self.server.url(self.name, **account).replace("mysql:", "mysql+pymysql:")

    def set_up(self, sql):
        self.server.execute(sql.replace("cbk_reader", self.reader), self.name)

    def run(self, sql, *parameters):
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql.replace('"', "`"), parameters)

    def remove(self):
        self.engine.dispose()
        self.server.execute(f"DROP DATABASE {self.name}; DROP USER '{self.reader}'@'%'")


@pytest.fixture
def view_site(request, tmp_path):
    """The site over the schema and the views that a test asks for; `run` is the application at its database."""
    kind, schema, view = request.param
    database = kind(request)
    with Origin() as origin:
        secret = new_secret()
        url = f"http://{origin.address}/cbk-links"
        setup = documented(f"{kind.prefix}view-links").replace("https://app.example.com/cbk-links", url)
        setup = setup.replace("the secret", secret)
        for sql in (schema, setup, documented(kind.prefix + view), documented(f"{kind.prefix}view-grants")):
            database.set_up(sql)
        site = ViewSite(tmp_path, origin, source_url=database.reader_url, buckets={})
        site.links = Links(url, secrets=[secret])
        site.run, site.reader_url = database.run, database.reader_url
        yield site
        site.close()
    database.remove()


def over(*cases):
    """The test runs on each of these: a database, a schema in it, and the views over that."""
    return pytest.mark.parametrize("view_site", cases, indirect=True, ids=lambda case: case[0].__name__)


rails = over((Postgres, RAILS, "view-rails"), (MariaDb, MYSQL_RAILS, "view-rails"))
laravel = over((Postgres, LARAVEL, "view-laravel"), (MariaDb, MYSQL_LARAVEL, "view-laravel"))
supabase = over((Postgres, SUPABASE, "view-supabase"))


def attach_blobs(site, contents, checksum=lambda content: base64.b64encode(hashlib.md5(content).digest()).decode()):
    """Blobs with these contents as Rails writes them, each attached to a record."""
    values = []
    for number, content in enumerate(contents, start=1):
        site.serve("amazon", key_of(number), content)
        values += [key_of(number), len(content), checksum(content)]
    row = "(%s, 'photo.jpg', 'image/jpeg', 'amazon', %s, %s, '2026-11-01 12:00:00')"
    site.run(
        'INSERT INTO active_storage_blobs ("key", filename, content_type, service_name, byte_size, checksum, created_at)'
        f" VALUES {', '.join([row] * len(contents))}",
        *values,
    )
    site.run(
        "INSERT INTO active_storage_attachments (name, record_type, record_id, blob_id, created_at)"
        " SELECT 'photo', 'Car', id, id, created_at FROM active_storage_blobs"
    )


def key_of(number):
    """A key as Rails makes them: 28 characters."""
    return f"key{number:025}"


@rails
def test_a_thousand_blobs_of_active_storage_are_backed_up_and_proved_by_their_md5(view_site):
    attach_blobs(view_site, [b"photo %d" % number for number in range(1000)])
    assert view_site.work() == []
    counts = view_site.context.catalog.report.counts()
    assert (counts.protected, counts.files, counts.by_proof[Proof.MD5]) == (1000, 1000, 1000)


@rails
def test_byte_that_is_flipped_at_the_origin_of_a_blob_is_a_mismatch(view_site):
    attach_blobs(view_site, [b"photo 1", b"photo 2"])
    view_site.serve("amazon", key_of(2), b"phot0 2")
    assert len(view_site.work()) == 1
    assert sorted(view_site.states().values()) == ["mismatch", "stored"]


@rails
def test_blob_that_is_purged_is_deleted_after_its_grace(view_site):
    attach_blobs(view_site, [b"photo 1", b"photo 2"])
    view_site.work()
    view_site.run("DELETE FROM active_storage_attachments WHERE blob_id = 1")
    view_site.run("DELETE FROM active_storage_blobs WHERE id = 1")
    view_site.poll()
    assert [version.deleted for _, version in sorted(view_site.versions().items())] == [True, False]


@rails
def test_blob_counts_once_it_is_attached(view_site):
    attach_blobs(view_site, [b"photo 1"])
    view_site.run("DELETE FROM active_storage_attachments")
    view_site.poll()
    assert view_site.versions() == {}


@rails
def test_restricted_user_reads_the_two_names_and_nothing_else(view_site):
    engine = sa.create_engine(view_site.reader_url)
    forbidden = ["SELECT * FROM active_storage_blobs", "SELECT * FROM cbk_link_secret"]
    if engine.dialect.name == "postgresql":
        forbidden[1:] = ["SELECT * FROM cbk.link_secret", "SELECT cbk.link('a', 'b')"]
    for statement in forbidden:
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="denied"):
            connection.exec_driver_sql(statement)
    engine.dispose()


@rails
def test_blob_without_a_checksum_is_here_as_first_seen(view_site):
    """Rails computes none for a blob that it composed of others."""
    attach_blobs(view_site, [b"photo 1"], checksum=lambda _: None)
    assert view_site.work() == []
    assert view_site.context.catalog.report.counts().by_proof[Proof.FIRST_SEEN] == 1


@rails
def test_variant_of_a_photo_is_backed_up_and_goes_with_it(view_site):
    attach_blobs(view_site, [b"photo 1", b"small photo 1"])
    view_site.run("UPDATE active_storage_attachments SET name = 'image', record_type = 'ActiveStorage::VariantRecord' WHERE id = 2")
    assert view_site.work() == []
    assert len(view_site.copies()) == 2
    view_site.run("DELETE FROM active_storage_attachments")
    view_site.run("DELETE FROM active_storage_blobs")
    view_site.poll()
    assert [version.deleted for version in view_site.versions().values()] == [True, True]


@rails
def test_time_at_which_a_blob_was_deleted_is_told_in_utc(view_site):
    attach_blobs(view_site, [b"photo 1"])
    view_site.run("DELETE FROM active_storage_attachments")
    view_site.run("DELETE FROM active_storage_blobs")
    [(deleted_at,)] = read_as_kit(view_site, 'SELECT "DeletedAt" FROM "ObjectStorageDeleteLog"')
    deleted_at = deleted_at if deleted_at.tzinfo else deleted_at.replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - deleted_at) < timedelta(hours=1)


def read_as_kit(site, sql):
    """What the restricted user reads, in the zone in which the kit asks."""
    engine = sa.create_engine(site.reader_url)
    is_mysql = engine.dialect.name == "mysql"
    with engine.connect() as connection:
        if is_mysql:
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        rows = connection.exec_driver_sql(sql.replace('"', "`") if is_mysql else sql).all()
    engine.dispose()
    return rows


def add_media(site, names):
    """Media with these file names as the library writes them."""
    for number, name in enumerate(names, start=1):
        site.serve("s3", f"{number}/{name}", name.encode())
        site.run(
            "INSERT INTO media (model_type, model_id, uuid, collection_name, name, file_name, mime_type, disk, size, manipulations,"
            " custom_properties, generated_conversions, responsive_images, created_at, updated_at)"
            " VALUES ('App.Car', 1, %s, 'images', 'x', %s, 'image/png', 's3', 3, '{}', '{}', '{}', '{}', now(), now())",
            str(uuid.uuid4()),
            name,
        )


@laravel
def test_media_of_laravel_are_backed_up_as_first_seen_and_deleted(view_site):
    add_media(view_site, ["Größe 1.png", "b.png"])
    assert view_site.work() == []
    assert view_site.copies() == {"s3/1/Größe 1/v1.gzip", "s3/2/b/v1.gzip"}
    assert view_site.context.catalog.report.counts().proved == 0
    view_site.run("DELETE FROM media WHERE id = 1")
    view_site.poll()
    assert [version.deleted for _, version in sorted(view_site.versions().items())] == [True, False]


@laravel
def test_long_name_in_any_script_has_a_link_as_the_application_makes_it(view_site):
    name = "名前🚗" * 20 + ".png"
    add_media(view_site, [name])
    [(link,)] = read_as_kit(view_site, 'SELECT "SignedDownloadUrl" FROM "ObjectStorageFiles"')
    assert link == view_site.links.link("s3", f"1/{name}")


@supabase
def test_objects_of_supabase_are_backed_up_and_what_is_uploaded_over_one_is_another_version(view_site):
    view_site.run("INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars')")
    view_site.serve("avatars", "u1/a.png", b"first")
    view_site.run(
        "INSERT INTO storage.objects (bucket_id, name, metadata) VALUES ('avatars', 'u1/a.png', %s::jsonb)",
        '{"mimetype": "image/png"}',
    )
    assert view_site.work() == []
    view_site.serve("avatars", "u1/a.png", b"second")
    view_site.run("UPDATE storage.objects SET version = %s", str(uuid.uuid4()))
    assert view_site.work() == []
    newest = [version for version in view_site.versions().values() if version.newest]
    assert [(version.sha256, version.content_type) for version in newest] == [(hashlib.sha256(b"second").hexdigest(), "image/png")]
    assert len(view_site.copies()) == 2
    view_site.run("DELETE FROM storage.objects")
    view_site.poll()
    assert [version.deleted for version in view_site.versions().values() if version.newest] == [True]
