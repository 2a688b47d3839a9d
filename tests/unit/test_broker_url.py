"""URLs of Redis, for the two libraries that read them otherwise."""

import pytest
import redis
from kombu import Connection

from cbk.rules.text.broker_url import parse_broker_url


@pytest.mark.parametrize(
    ("url", "celery", "client"),
    [
        ("redis://", "redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://h/3", "redis://h:6379/3", "redis://h:6379/3"),
        ("redis://h:6380?db=3", "redis://h:6380/3", "redis://h:6380/3"),
        ("redis+socket:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0", "unix:///run/r.sock?db=0"),
        ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2", "unix:///run/r.sock?db=2"),
        ("redis+socket://:p@/r?virtual_host=1", "redis+socket://:p@/r?virtual_host=1", "unix://:p@/r?db=1"),
    ],
)
def test_one_url_is_spelled_for_celery_and_for_redis(url, celery, client):
    parsed = parse_broker_url(url)
    assert (parsed.celery, parsed.redis) == (celery, client)


@pytest.mark.parametrize("url", ["redis://user:a%40b%2Fc@h:1/2", "redis://user:a@b@h:1/2", "rediss://user:p%25@h:1/2"])
def test_both_libraries_find_the_same_password(url):
    parsed = parse_broker_url(url)
    of_celery = Connection(parsed.celery)
    of_redis = redis.connection.parse_url(parsed.redis)
    assert of_celery.password == of_redis["password"]
    assert of_celery.hostname == of_redis["host"] == "h"


@pytest.mark.parametrize(
    ("given", "tls"),
    [
        ("", {"ssl_cert_reqs": "required"}),
        ("?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": "required"}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
        ("?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
        ("?ssl_ca_certs=/ca.pem", {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"}),
    ],
)
def test_words_of_either_library_say_what_a_certificate_has_to_be(given, tls):
    parsed = parse_broker_url(f"rediss://h:1/0{given}")
    assert parsed.tls == tls
    assert redis.connection.parse_url(parsed.redis)["ssl_cert_reqs"] == tls["ssl_cert_reqs"]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sentinel://h:26379", "sentinel"),
        ("redis://a;redis://b", "several URLs"),
        ("amqp://h", "Redis URL"),
        ("redis://h/x", "number of a database"),
        ("redis://h?fancy=1", "fancy"),
        ("redis://h?ssl_ca_certs=/x", "rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "required, optional or none"),
        ("redis+socket://host/run/r.sock", "path of a socket"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(url, word):
    with pytest.raises(ValueError, match=word):
        parse_broker_url(url)


@pytest.mark.parametrize("mark", ["/", "#", "?", "?=", "/@"])
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_password_that_was_not_encoded_is_named_as_that_and_not_repeated(scheme, mark):
    with pytest.raises(ValueError, match="must be %-encoded") as caught:
        parse_broker_url(f"{scheme}://user:Qzxj{mark}Wvkq@h:6379/0")
    assert "Qzxj" not in str(caught.value)
    assert "Wvkq" not in str(caught.value)


def test_nothing_secret_is_in_its_representation():
    assert "Qzxj" not in repr(parse_broker_url("redis://user:Qzxj@h"))
