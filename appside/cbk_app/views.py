"""The two tables as views over what an application keeps already, in PostgreSQL: it need not be touched, nor know of the kit.

Everything stands in a schema of its own, `cbk`, that nobody but the kit's user may use: `public` may be open to the world, as it
is with Supabase. The secret of the permanent links is in a table that the kit's user cannot read; the view reads it for him.
A trigger logs the deletes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_HMAC_BLOCK_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Where an application keeps its files: SQL for each column, of the table `about`, whose rows for `:storage` are `those`."""

    about: str
    id_type: str
    path: str
    name: str
    version: str
    hash: str
    content_type: str
    created_at: str
    those: str


APPLICATIONS = {
    # Rails: https://github.com/rails/rails/blob/main/activestorage/db/migrate/20170806125915_create_active_storage_tables.rb
    "active-storage": Application(
        about="active_storage_blobs",
        id_type="bigint",
        path="''",
        name="file.key",
        version="1",
        hash="file.checksum",
        content_type="file.content_type",
        created_at="file.created_at AT TIME ZONE 'UTC'",
        those="file.service_name = :storage",
    ),
    # Laravel: https://github.com/spatie/laravel-medialibrary/blob/main/database/migrations/create_media_table.php.stub
    "laravel-media": Application(
        about="media",
        id_type="bigint",
        path="file.id || '/'",
        name="file.file_name",
        version="1",
        hash="NULL::text",
        content_type="file.mime_type",
        created_at="file.created_at AT TIME ZONE 'UTC'",
        those="file.disk = :storage",
    ),
    # Supabase: https://github.com/supabase/storage/tree/master/migrations/tenant
    "supabase": Application(
        about="storage.objects",
        id_type="uuid",
        path="regexp_replace(file.name, '[^/]*$', '')",
        name="regexp_replace(file.name, '^.*/', '')",
        # Content that is uploaded anew keeps its row; the date says that it is another one.
        version="(extract(epoch FROM file.updated_at) * 1000)::bigint",
        hash="NULL::text",
        content_type="file.metadata->>'mimetype'",
        created_at="file.created_at",
        those="file.bucket_id = :storage",
    ),
}


def sql(application: str, *, storage: str, links_url: str, secret: str, user: str = "cbk_reader") -> str:
    """The SQL that makes the views, to be run once by who owns the application's tables.

    `storage` is Rails' service, Laravel's disk or Supabase's bucket; it becomes the rows' Storage.
    """
    about = APPLICATIONS[application]
    inner, outer = _pads(secret)
    url = _text(links_url.rstrip("/") + "/")
    storage = _text(storage)
    those = about.those.replace(":storage", storage)
    deleted = those.replace("file.", "OLD.")
    reader = '"' + user.replace('"', '""') + '"'
    return f"""\
CREATE SCHEMA cbk;
REVOKE ALL ON SCHEMA cbk FROM PUBLIC;

-- What the secret of the permanent links begins and ends with (HMAC, RFC 2104). The kit's user may not read it.
CREATE TABLE cbk.link_secret (inner_pad bytea NOT NULL, outer_pad bytea NOT NULL);
INSERT INTO cbk.link_secret VALUES ('\\x{inner.hex()}', '\\x{outer.hex()}');

CREATE VIEW cbk."ObjectStorageFiles" AS
SELECT row."Id", row."Name", row."Path", row."Storage", row."Version", row."Hash",
    {url} || encode(sha256(secret.outer_pad || sha256(secret.inner_pad
            || convert_to('cbk-link-1' || chr(10), 'UTF8') || row.named)), 'hex')
        || '/' || rtrim(translate(encode(row.named, 'base64'), '+/' || chr(10), '-_'), '=') AS "SignedDownloadUrl",
    row."ContentType", row."CreatedAt"
FROM (
    SELECT file.id AS "Id", {about.name} AS "Name", {about.path} AS "Path", {storage}::text AS "Storage",
        {about.version} AS "Version", {about.hash} AS "Hash", {about.content_type} AS "ContentType",
        {about.created_at} AS "CreatedAt",
        convert_to({storage} || chr(10) || ({about.path}) || ({about.name}), 'UTF8') AS named
    FROM {about.about} AS file
    WHERE {those}
) AS row CROSS JOIN cbk.link_secret AS secret;

CREATE TABLE cbk."ObjectStorageDeleteLog" (
    "Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "FileId" {about.id_type} NOT NULL,
    "DeletedAt" timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX ON cbk."ObjectStorageDeleteLog" ("FileId");

CREATE FUNCTION cbk.log_delete() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF {deleted} THEN
        INSERT INTO cbk."ObjectStorageDeleteLog" ("FileId") VALUES (OLD.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER cbk_log_delete AFTER DELETE ON {about.about} FOR EACH ROW EXECUTE FUNCTION cbk.log_delete();

CREATE ROLE {reader} LOGIN;
-- the user's password: ALTER ROLE {reader} PASSWORD '...';
GRANT USAGE ON SCHEMA cbk TO {reader};
GRANT SELECT ON cbk."ObjectStorageFiles", cbk."ObjectStorageDeleteLog" TO {reader};
ALTER ROLE {reader} SET search_path = cbk;
ALTER ROLE {reader} SET default_transaction_read_only = on;
"""


def _pads(secret: str) -> tuple[bytes, bytes]:
    key = secret.encode()
    if len(key) > _HMAC_BLOCK_BYTES:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_HMAC_BLOCK_BYTES, b"\0")
    return bytes(byte ^ 0x36 for byte in key), bytes(byte ^ 0x5C for byte in key)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
