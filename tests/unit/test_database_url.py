"""URLs of databases as frameworks and hosters write them."""

import pytest
from sqlalchemy import make_url

from cbk.rules.text.database_url import DatabaseTls, Tls, parse_database_url, tls_arguments

SYSTEM = "/etc/ssl/certs/ca-certificates.crt"


def arguments(url, default=Tls.VERIFY, ca=None):
    return tls_arguments(parse_database_url(url), DatabaseTls(default=default, ca=ca), system_ca=SYSTEM)


@pytest.mark.parametrize(
    ("url", "understood"),
    [
        ("postgres://app:pw@db/shop", "postgresql+psycopg://app:pw@db/shop"),
        ("postgresql://app@db:5433/shop", "postgresql+psycopg://app@db:5433/shop"),
        ("postgresql+psycopg2://app@db/shop", "postgresql+psycopg://app@db/shop"),
        ("postgresql+asyncpg://app@db/shop?ssl=require", "postgresql+psycopg://app@db/shop"),
        ("postgres://app@db/shop?pgbouncer=true&connection_limit=1", "postgresql+psycopg://app@db/shop"),
        ("postgres://app@db/shop?schema=sales", "postgresql+psycopg://app@db/shop?options=-c%20search_path%3Dsales"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql+psycopg:///shop?host=%2Frun%2Fpostgresql"),
        ("postgresql://app@%2FRun%2Fpostgresql/shop", "postgresql+psycopg://app@/shop?host=%2FRun%2Fpostgresql"),
        ("postgresql://app:p%40ss%2Fw@db/shop", "postgresql+psycopg://app:p%40ss%2Fw@db/shop"),
        ("postgresql://app@[2001:db8::1]:5432/shop", "postgresql+psycopg://app@[2001:db8::1]:5432/shop"),
        ("mysql2://app:pw@db/shop?encoding=utf8mb4", "mysql+pymysql://app:pw@db/shop"),
        ("mysql+mysqlconnector://app@db/shop?charset=utf8mb4", "mysql+pymysql://app@db/shop"),
        ("mariadb://app@localhost/shop?unix_socket=/run/mysqld/mysqld.sock", None),
        ("sqlite3:////srv/app.db", "sqlite+pysqlite:////srv/app.db"),
    ],
)
def test_url_of_another_tool_is_understood(url, understood):
    parsed = parse_database_url(url)
    make_url(parsed.url)
    if understood is not None:
        assert parsed.url == understood


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("jdbc:postgresql://db/shop", "JDBC"),
        ("Server=db;Password=pw", "keywords"),
        ("host=db dbname=shop", "keywords"),
        ("mssql://db/shop", "mssql"),
        ("mongodb+srv://db/shop", "mongodb"),
        ("postgresql://db/shop?fancy=1", "fancy"),
        ("mysql://db/shop?fancy=1", "fancy"),
        ("sqlite:////srv/app.db?fancy=1", "fancy"),
        ("sqlite://", "path of a SQLite file"),
        ("postgresql://app@db/shop?sslmode=fancy", "verify-full"),
    ],
)
def test_url_that_is_not_understood_is_refused_by_name(url, word):
    with pytest.raises(ValueError, match=word):
        parse_database_url(url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mysql", "mariadb"])
@pytest.mark.parametrize("mark", ["/", "#", "?", "/x@y", "#:", "?="])
def test_password_that_was_not_encoded_is_named_as_that_and_not_repeated(scheme, mark):
    secret = f"Qzxj{mark}Wvkq"
    with pytest.raises(ValueError, match="must be %-encoded") as caught:
        parse_database_url(f"{scheme}://app:{secret}@db.example.com/shop")
    assert not {"Qzxj", "Wvkq"} & set(str(caught.value).replace("@", " ").split())
    assert "Qzxj" not in str(caught.value)
    assert "Wvkq" not in str(caught.value)


@pytest.mark.parametrize("mark", ["@", ":", "%", "@@", "%zz"])
def test_password_that_needs_no_encoding_to_be_understood_is_taken_as_it_is(mark):
    assert make_url(parse_database_url(f"postgresql://app:a{mark}b@db/shop").url).password == f"a{mark}b"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://app@localhost/shop", True),
        ("postgresql://app@127.0.0.9/shop", True),
        ("postgresql://app@[::1]/shop", True),
        ("postgresql:///shop", True),
        ("postgresql://app@%2Frun%2Fpostgresql/shop", True),
        ("mysql://app@db/shop?unix_socket=/run/mysqld.sock", True),
        ("postgresql://app@db/shop", False),
        ("postgresql://app@192.168.1.7/shop", False),
        ("postgresql://app@127.0.0.1.example.com/shop", False),
    ],
)
def test_loopback_and_sockets_are_this_machine(url, local):
    assert parse_database_url(url).is_local is local


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://app@db/shop", {"sslmode": "verify-full", "sslrootcert": SYSTEM}),
        ("postgresql://app@db/shop?ssl=true", {"sslmode": "verify-full", "sslrootcert": SYSTEM}),
        ("postgresql://app@db/shop?sslmode=require", {"sslmode": "require"}),
        ("postgresql://app@db/shop?sslmode=no-verify", {"sslmode": "require"}),
        ("postgresql://app@db/shop?sslmode=disable", {"sslmode": "disable"}),
        ("postgresql://app@db/shop?sslrootcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("postgresql://app@db/shop?sslaccept=accept_invalid_certs", {"sslmode": "require"}),
        ("postgresql://app@localhost/shop", {}),
        ("postgresql://app@localhost/shop?sslmode=verify-full", {"sslmode": "verify-full", "sslrootcert": SYSTEM}),
        ("mysql://app@db/shop", {"ssl_ca": SYSTEM, "ssl_verify_cert": True, "ssl_verify_identity": True}),
        ("mysql://app@db/shop?ssl-mode=REQUIRED", {"ssl_ca": SYSTEM, "ssl_verify_cert": False, "ssl_verify_identity": False}),
        ("mysql://app@db/shop?ssl-mode=DISABLED", {"ssl_disabled": True}),
        ("mysql://app@localhost/shop", {}),
    ],
)
def test_line_to_another_machine_is_encrypted_and_verified_unless_the_url_says_otherwise(url, expected):
    assert arguments(url) == expected


def test_setting_names_another_authority_and_another_default():
    assert arguments("postgresql://app@db/shop", ca="/own.pem")["sslrootcert"] == "/own.pem"
    assert arguments("postgresql://app@db/shop", default=Tls.OFF) == {"sslmode": "disable"}
    assert arguments("postgresql://app@db/shop", default=Tls.ENCRYPT) == {"sslmode": "require"}
    assert arguments("postgresql://app@db/shop?sslmode=verify-full", default=Tls.OFF)["sslmode"] == "verify-full"
