"""The application's side of a database, and what its tests ask again and again."""

import traceback

from pymysql.constants import CLIENT
from sqlalchemy import NullPool, create_engine, make_url, text

INSERT_FILE = (
    'INSERT INTO "ObjectStorageFiles" ("Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl")'
    " VALUES (:name, :path, 's3', :version, 'digest', 'https://o.example/secret-link')"
)
OTHER_COLUMNS = '"Name" TEXT, "Path" TEXT, "Storage" TEXT, "Version" INTEGER, "Hash" TEXT, "SignedDownloadUrl" TEXT'
SECRETS = ("secret-link", "pass word", "pass%20word", "pass+word")


class Application:
    """The application's side of a database: it may do everything."""

    def __init__(self, dialect, url, reader_url):
        self.dialect = dialect
        self.url = url
        self.reader_url = reader_url
        self.reader_name = make_url(reader_url).username
        options = {"poolclass": NullPool} if dialect == "sqlite" else {"pool_pre_ping": True}
        if dialect == "mysql":
            options["connect_args"] = {
                "client_flag": CLIENT.MULTI_STATEMENTS,
                "init_command": "SET sql_mode = 'ANSI_QUOTES'",
                "ssl_disabled": True,
            }
        self.engine = create_engine(url, isolation_level="AUTOCOMMIT", **options)

    def run(self, sql, **parameters):
        with self.engine.connect() as connection:
            result = connection.execute(text(sql), parameters)
            return result.all() if result.returns_rows else []

    def script(self, sql):
        with self.engine.connect() as connection:
            cursor = connection.connection.driver_connection.cursor()
            getattr(cursor, "executescript", cursor.execute)(sql)
            while cursor.nextset() if self.dialect == "mysql" else False:
                pass
            cursor.close()

    def upload(self, name="a.png", path="cars/", version=1):
        self.run(INSERT_FILE, name=name, path=path, version=version)

    def delete(self, file_id):
        self.run('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (:file_id)', file_id=file_id)

    def replace_files_table(self, columns):
        """Make the files table anew with Ids of another type, readable for the kit's user."""
        self.run('DROP TABLE "ObjectStorageFiles"')
        self.run(f'CREATE TABLE "ObjectStorageFiles" ({columns})')
        self.let_read()

    def replace_deletes_table(self, columns):
        """Make the delete log anew, as `replace_files_table`."""
        self.run('DROP TABLE "ObjectStorageDeleteLog"')
        self.run(f'CREATE TABLE "ObjectStorageDeleteLog" ({columns})')
        self.let_read()

    def add_rows(self, *ids):
        """Rows of the files table that have an Id and a name, each Id as SQL."""
        values = ", ".join(f"({row_id}, 'x')" for row_id in ids)
        self.run(f'INSERT INTO "ObjectStorageFiles" ("Id", "Name") VALUES {values}')

    def let_read(self):
        if self.dialect == "postgresql":
            self.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO public")
        if self.dialect == "mysql":
            self.run(f"GRANT SELECT ON * TO {self.reader_name}@'%'")


def ids_of(rows):
    return [row.id for row in rows]


def pages_of(source, limit):
    pages, last_id = [], None
    while page := source.rows_after(last_id, limit):
        pages.append(ids_of(page))
        last_id = page[-1].id
    return pages


def sessions_of_cbk(application):
    query = "SELECT state FROM pg_stat_activity WHERE application_name = 'cbk' AND datname = current_database()"
    return [state for (state,) in application.run(query)]


def assert_tells_no_secret(error):
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error.hint)
    assert not [secret for secret in SECRETS if secret in told]
