"""The documented views over tables that applications have already: each by the schema of its own project, on PostgreSQL."""

import base64
import hashlib
import re
import uuid
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


@pytest.fixture
def view_site(request, postgres, tmp_path, monkeypatch):
    """The site over the schema and the views that a test asks for; `run` is the application at its database."""
    schema, view = request.param
    server, name, reader = postgres.start(), f"app_{uuid.uuid4().hex}", f"reader_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    server.execute(f'CREATE ROLE "{reader}" LOGIN')
    with Origin() as origin:
        secret = new_secret()
        url = f"http://{origin.address}/cbk-links"
        setup = documented("view-links").replace("https://app.example.com/cbk-links", url).replace("the secret", secret)
        grants = documented("view-grants").replace("cbk_reader", f'"{reader}"')
        for sql in (schema, setup, documented(view), grants):
            server.execute(sql, name)
        site = ViewSite(tmp_path, origin, source_url=server.url(name, user=reader), buckets={})
        site.links = Links(url, secrets=[secret])
        site.run = lambda sql, *parameters: server.execute(sql, name, parameters or None)
        site.reader_url = server.url(name, user=reader)
        yield site
        site.close()
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    server.execute(f'DROP ROLE "{reader}"')


rails = pytest.mark.parametrize("view_site", [(RAILS, "view-rails")], indirect=True)
laravel = pytest.mark.parametrize("view_site", [(LARAVEL, "view-laravel")], indirect=True)
supabase = pytest.mark.parametrize("view_site", [(SUPABASE, "view-supabase")], indirect=True)


def attach_blobs(site, contents):
    """Blobs with these contents as Rails writes them, each attached to a record."""
    for number, content in enumerate(contents, start=1):
        site.serve("amazon", f"key{number:025}", content)
    site.run(
        "INSERT INTO active_storage_blobs (key, filename, content_type, service_name, byte_size, checksum, created_at)"
        " SELECT key, 'photo.jpg', 'image/jpeg', 'amazon', size, checksum, now()"
        " FROM unnest(%s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY AS blob (key, size, checksum, number) ORDER BY number",
        [f"key{number:025}" for number in range(1, len(contents) + 1)],
        [len(content) for content in contents],
        [base64.b64encode(hashlib.md5(content).digest()).decode() for content in contents],
    )
    site.run(
        "INSERT INTO active_storage_attachments (name, record_type, record_id, blob_id, created_at)"
        " SELECT 'photo', 'Car', id, id, now() FROM active_storage_blobs"
    )


@rails
def test_a_thousand_blobs_of_active_storage_are_backed_up_and_proved_by_their_md5(view_site):
    attach_blobs(view_site, [b"photo %d" % number for number in range(1000)])
    assert view_site.work() == []
    counts = view_site.context.catalog.report.counts()
    assert (counts.protected, counts.files, counts.by_proof[Proof.MD5]) == (1000, 1000, 1000)


@rails
def test_byte_that_is_flipped_at_the_origin_of_a_blob_is_a_mismatch(view_site):
    attach_blobs(view_site, [b"photo 1", b"photo 2"])
    view_site.serve("amazon", f"key{2:025}", b"phot0 2")
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
    forbidden = ("SELECT secret FROM cbk.link_secret", "SELECT cbk.link('a', 'b')", "SELECT * FROM active_storage_blobs")
    for statement in forbidden:
        with engine.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql(statement)
    engine.dispose()


@laravel
def test_media_of_laravel_are_backed_up_as_first_seen_and_deleted(view_site):
    empty = "'{}', '{}', '{}', '{}'"
    for number, name in enumerate(["Größe 1.png", "b.png"], start=1):
        view_site.serve("s3", f"{number}/{name}", name.encode())
        view_site.run(
            "INSERT INTO media (model_type, model_id, uuid, collection_name, name, file_name, mime_type, disk, size, manipulations,"
            " custom_properties, generated_conversions, responsive_images, created_at, updated_at)"
            f" VALUES ('App\\Car', 1, gen_random_uuid(), 'images', 'x', %s, 'image/png', 's3', 3, {empty}, now(), now())",
            name,
        )
    assert view_site.work() == []
    assert view_site.copies() == {"s3/1/Größe 1/v1.gzip", "s3/2/b/v1.gzip"}
    assert view_site.context.catalog.report.counts().proved == 0
    view_site.run("DELETE FROM media WHERE id = 1")
    view_site.poll()
    assert [version.deleted for _, version in sorted(view_site.versions().items())] == [True, False]


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
