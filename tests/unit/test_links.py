from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk.errors import LinkForbidden
from cbk.rules.backup.links import (
    LONGEST_LINK,
    AllowedHosts,
    LinkTarget,
    address_is_public,
    check_link,
    follow_redirect,
    link_digest,
    link_expires_at,
    normalized_host,
    request_target,
)

ANYWHERE = AllowedHosts()
SECRET = "/secret-path/file?X-Amz-Signature=secret-query"


def refusal(link, allowed=ANYWHERE):
    with pytest.raises(LinkForbidden) as caught:
        check_link(link, allowed)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.__context__ is None
    return caught.value.message


def test_check_link_of_a_public_https_host_says_where_it_leads():
    assert check_link(f"https://S3.Example.com{SECRET}", ANYWHERE) == LinkTarget(
        "https", "s3.example.com", 443, must_be_public=True
    )


def test_check_link_keeps_a_port_of_its_own():
    assert check_link(f"https://s3.example.com:9443{SECRET}", ANYWHERE).port == 9443


@pytest.mark.parametrize("scheme", ["ftp", "file", "s3", "gopher", "javascript", "unix", ""])
def test_check_link_refuses_another_scheme(scheme):
    assert refusal(f"{scheme}://files.example.com{SECRET}") == "the link is neither https nor http"


def test_check_link_refuses_plain_http_to_a_public_host():
    assert refusal(f"http://files.example.com{SECRET}") == "files.example.com is linked over plain http"


@pytest.mark.parametrize("user", ["secret@", "user:secret@", "@", "files.example.org%2F@"])
def test_check_link_refuses_a_user_name(user):
    assert "user name" in refusal(f"https://{user}files.example.com{SECRET}")


@pytest.mark.parametrize(
    "link", ["", "https:///secret", "https://", "https:secret", "//files.example.com/secret", "https://?secret"]
)
def test_check_link_refuses_a_link_without_scheme_or_host(link):
    refusal(link)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "abc", "80x", "99999999999"])
def test_check_link_refuses_a_bad_port(port):
    assert refusal(f"https://files.example.com:{port}{SECRET}") == "the link has no valid port"


def test_check_link_takes_an_empty_port_for_the_usual_one():
    assert check_link("https://files.example.com:/a", ANYWHERE).port == 443


@pytest.mark.parametrize("text", [" ", "\t", "\n", "\r\n", "\x00", "\x7f", "\u00a0", "\u2028", "\u202e", "\ud800", "\\"])
@pytest.mark.parametrize(
    "place", ["https://files.{}example.com/a", "https://files.example.com/a{}b", "https://files.example.com/a{}"]
)
def test_check_link_refuses_white_space_and_what_cannot_be_printed(text, place):
    assert "white space" in refusal(place.format(text))


def test_check_link_refuses_a_link_that_is_too_long():
    start = "https://files.example.com/"
    check_link(start + "a" * (LONGEST_LINK - len(start)), ANYWHERE)
    assert "longer than" in refusal(start + "a" * (LONGEST_LINK - len(start) + 1))


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0x7f.0.0.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.256",
        "1.2.3",
        "1.2.3.4.5",
        "0x",
    ],
)
def test_check_link_refuses_spellings_of_an_address_that_only_some_resolvers_know(host):
    assert refusal(f"https://{host}{SECRET}") == "the link has no valid host"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "10.0.0.1",
        "192.168.1.10",
        "169.254.169.254",
        "[::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
    ],
)
def test_check_link_refuses_an_address_that_is_not_public(host):
    assert "is not a public address" in refusal(f"https://{host}{SECRET}")


def test_check_link_refuses_fullwidth_digits_that_become_a_private_address():
    assert refusal(f"https://\uff11\uff12\uff17.0.0.1{SECRET}") == "127.0.0.1 is not a public address"


def test_check_link_refuses_an_ideographic_full_stop_that_makes_a_private_name():
    assert refusal(f"https://nas\u3002local{SECRET}") == "nas.local is not a public name"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "nas.local",
        "nas.lan",
        "nas.home.arpa",
        "db.internal",
        "metadata.google.internal",
        "redis",
    ],
)
def test_check_link_refuses_a_name_of_the_own_network(host):
    assert "is not a public name" in refusal(f"https://{host}{SECRET}")


@pytest.mark.parametrize(
    "host",
    [
        "a..example.com",
        ".example.com",
        "example.com..",
        "-a.example.com",
        "a-.example.com",
        "a" * 64 + ".com",
        "a%2fb.com",
        "exa$mple.com",
    ],
)
def test_check_link_refuses_what_is_no_host_name(host):
    assert refusal(f"https://{host}{SECRET}") == "the link has no valid host"


@pytest.mark.parametrize("host", ["[::1", "::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[v1.x]", "[127.0.0.1]", "[]"])
def test_check_link_refuses_broken_brackets(host):
    refusal(f"https://{host}{SECRET}")


def test_check_link_writes_an_international_name_in_ascii():
    assert check_link("https://Bücher.example.com/a", ANYWHERE).host == "xn--bcher-kva.example.com"


def test_check_link_drops_the_closing_dot():
    assert check_link("https://files.example.com./a", ANYWHERE).host == "files.example.com"


def test_check_link_takes_underscores_as_some_buckets_have_them():
    assert check_link("https://my_bucket.s3.amazonaws.com/a", ANYWHERE).host == "my_bucket.s3.amazonaws.com"


def test_check_link_takes_a_public_address():
    assert check_link("https://[2606:4700:4700::1111]/a", ANYWHERE).host == "2606:4700:4700::1111"


@given(st.text(max_size=60))
def test_check_link_gives_a_clean_answer_to_any_text(text):
    for link in (text, "https://" + text, f"https://files.example.com/{text}"):
        try:
            target = check_link(link, ANYWHERE)
        except LinkForbidden:
            continue
        assert target.scheme == "https"
        assert normalized_host(target.host) == target.host
        assert target.must_be_public


# CBK_ALLOWED_HOSTS


def allowed(text, link):
    try:
        return check_link(link, AllowedHosts.parse(text))
    except LinkForbidden:
        return None


def test_allowed_host_may_be_private_and_plain_http():
    assert allowed("nas.lan:9000", "http://nas.lan:9000/a") == LinkTarget("http", "nas.lan", 9000, must_be_public=False)


def test_allowed_hosts_shut_out_every_other_host():
    message = refusal(f"https://files.example.com{SECRET}", AllowedHosts.parse("nas.lan"))
    assert message == "files.example.com is not an allowed host"


@pytest.mark.parametrize(
    ("text", "link", "fetched"),
    [
        ("nas.lan", "http://nas.lan/a", True),
        ("nas.lan", "https://nas.lan/a", True),
        ("nas.lan", "https://nas.lan:443/a", True),
        ("nas.lan", "http://nas.lan:443/a", False),
        ("nas.lan", "http://nas.lan:6379/a", False),
        ("nas.lan:9000", "http://nas.lan:9000/a", True),
        ("nas.lan:9000", "http://nas.lan/a", False),
        ("nas.lan:80", "https://nas.lan/a", False),
        ("NAS.lan.", "https://nas.LAN/a", True),
        ("*.example.com", "https://a.example.com/a", True),
        ("*.example.com", "https://a.b.example.com/a", True),
        ("*.example.com", "https://example.com/a", False),
        ("*.example.com", "https://badexample.com/a", False),
        ("*.example.com", "https://a.example.com.evil.org/a", False),
        ("*.example.com", "https://a.example.com:9000/a", False),
        ("*.example.com:9000", "https://a.example.com:9000/a", True),
        ("bücher.example", "https://xn--bcher-kva.example/a", True),
        ("192.168.1.5:9000", "http://192.168.1.5:9000/a", True),
        ("::1", "https://[::1]/a", True),
        ("[::1]:9000", "http://[0:0:0:0:0:0:0:1]:9000/a", True),
        ("[::1]:9000", "http://[::1]/a", False),
        ("a.lan, b.lan ,", "https://b.lan/a", True),
        ("127.0.0.1", "https://2130706433/a", False),
    ],
)
def test_allowed_hosts_name_host_and_port(text, link, fetched):
    assert (allowed(text, link) is not None) == fetched


@pytest.mark.parametrize(
    ("text", "link", "private"),
    [
        ("*.amazonaws.com", "https://internal-nas-1.eu-west-1.elb.amazonaws.com/a", False),
        ("*.amazonaws.com", "http://internal-nas-1.eu-west-1.elb.amazonaws.com/a", False),
        ("*.amazonaws.com, files.amazonaws.com", "https://files.amazonaws.com/a", True),
        ("*.amazonaws.com:9000", "https://files.amazonaws.com:9000/a", False),
        ("*.minio.lan", "http://cars.minio.lan/a", True),
        ("*.lan", "http://minio.lan/a", True),
        ("*.notlan", "http://minio.notlan/a", False),
    ],
)
def test_star_in_an_allowed_host_does_not_vouch_for_names_that_others_give(text, link, private):
    assert allowed(text, link).must_be_public is not private


@pytest.mark.parametrize("text", ["", "  ", " , "])
def test_no_allowed_hosts_restrict_nothing(text):
    assert not AllowedHosts.parse(text)
    assert allowed(text, "https://files.example.com/a")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("https://nas.lan", "without scheme"),
        ("nas.lan/path", "without scheme and path"),
        ("10.0.0.0/8", "without scheme and path"),
        ("user@nas.lan", "without user name"),
        ("nas.lan:0", "port from 1 to 65535"),
        ("nas.lan:70000", "port from 1 to 65535"),
        ("nas.lan:", "port from 1 to 65535"),
        ("nas.lan:http", "port from 1 to 65535"),
        ("*", "* at the start"),
        ("a.*.lan", "* at the start"),
        ("*.*.lan", "* at the start"),
        ("*.", "expected host"),
        ("*.10.0.0.1", "expected host"),
        ("127.1", "expected host"),
        ("nas lan", "expected host"),
        ("[::1", "expected host"),
        ("[::1]x", "expected host"),
        (":9000", "expected host"),
    ],
)
def test_parse_says_what_is_wrong_with_an_entry(entry, expected):
    with pytest.raises(ValueError) as caught:
        AllowedHosts.parse(f"good.lan, {entry}")
    assert repr(entry) in str(caught.value)
    assert expected in str(caught.value)


def test_parse_names_every_bad_entry_at_once():
    with pytest.raises(ValueError) as caught:
        AllowedHosts.parse("nas.lan:0, good.lan, user@nas.lan")
    assert str(caught.value) == "'nas.lan:0': expected a port from 1 to 65535; 'user@nas.lan': expected a host without user name"


@given(st.text(max_size=40))
def test_parse_gives_hosts_or_a_value_error_for_any_text(text):
    try:
        hosts = AllowedHosts.parse(text)
    except ValueError:
        return
    assert len(hosts.entries) <= text.count(",") + 1


# Addresses


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1", "::ffff:1.1.1.1", "2002:0101:0101::1", "64:ff9b::1.1.1.1"]
)
def test_address_is_public_for_the_internet(address):
    assert address_is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3", "192.0.2.1",
        "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.0.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "168.63.129.16",
        "::ffff:168.63.129.16", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "3fff::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::1.1.1.1",
        "2002:7f00:0001::1", "2002:c0a8:0101::1", "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1.1.1.1",
        "", "localhost", "127.1", "2130706433", "1.1.1.1 ",
    ],
)  # fmt: skip
def test_address_is_public_for_nothing_else(address):
    assert not address_is_public(address)


# What a link tells about itself

SIGNED_AT = "20260101T120000Z"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "expires_at"),
    [
        (f"X-Amz-Date={SIGNED_AT}&X-Amz-Expires=3600&X-Amz-Signature=x", NOON + timedelta(hours=1)),
        (f"x-amz-expires=60&x-amz-date={SIGNED_AT}", NOON + timedelta(minutes=1)),
        (f"X-Goog-Date={SIGNED_AT}&X-Goog-Expires=604800", NOON + timedelta(days=7)),
        (f"x-oss-date={SIGNED_AT}&x-oss-expires=10", NOON + timedelta(seconds=10)),
        ("AWSAccessKeyId=A&Signature=x&Expires=1767268800", NOON),
        ("Expires=1767268800&Signature=x&Key-Pair-Id=K", NOON),
        ("sv=2024-01-01&se=2026-01-01T12%3A00%3A00Z&sig=x", NOON),
        ("se=2026-01-01T12:00Z&sig=x", NOON),
        ("se=2026-01-02&sig=x", NOON + timedelta(hours=12)),
        ("se=2026-01-01T14:00:00%2B02:00&sig=x", NOON),
        ("skoid=a&sktid=b&skt=2026-01-01&ske=2026-01-01T12:00:00Z&sks=b&skv=2024-01-01&se=2026-01-09T12:00:00Z&sp=r&sig=x", NOON),
        ("ske=2026-01-09T12:00:00Z&se=2026-01-01T12:00:00Z&sig=x", NOON),
        # As R2, B2 and MinIO have them, with a session's token and fields in any order.
        (
            (
                f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K%2F20260101%2Fauto%2Fs3%2Faws4_request&X-Amz-Date={SIGNED_AT}"
                "&X-Amz-Expires=3600&X-Amz-Signature=x&X-Amz-SignedHeaders=host&x-amz-checksum-mode=ENABLED&x-id=GetObject"
            ),
            NOON + timedelta(hours=1),
        ),
        (
            (
                f"response-content-type=a&X-Amz-Credential=K%2F20260101%2Fus-west-004%2Fs3%2Faws4_request&X-Amz-Date={SIGNED_AT}"
                "&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature=x"
            ),
            NOON + timedelta(days=7),
        ),
        (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=1&X-Amz-Date={SIGNED_AT}&X-Amz-Security-Token=T&X-Amz-Signature=x",
            NOON + timedelta(seconds=1),
        ),
        ("GoogleAccessId=a%40b.iam.gserviceaccount.com&Expires=1767268800&Signature=x", NOON),
        ("OSSAccessKeyId=A&Expires=1767268800&Signature=x", NOON),
        ("se=2026-01-01T12:00:00.1234567Z&sig=x", NOON + timedelta(microseconds=123456)),
    ],
)
def test_link_expires_at_reads_what_the_services_write(query, expires_at):
    assert link_expires_at(f"https://files.example.com/a?{query}") == expires_at


@pytest.mark.parametrize(
    "query",
    [
        "", "Expires=1767268800", "se=2026-01-01", "X-Amz-Expires=3600", f"X-Amz-Date={SIGNED_AT}",
        f"X-Amz-Date={SIGNED_AT}&X-Amz-Expires=soon", f"X-Amz-Date={SIGNED_AT}&X-Amz-Expires=-1",
        f"X-Amz-Date={SIGNED_AT}&X-Amz-Expires=1e9", f"X-Amz-Date={SIGNED_AT}&X-Amz-Expires=999999999999",
        "X-Amz-Date=&X-Amz-Expires=1", "X-Amz-Date=yesterday&X-Amz-Expires=1", "X-Amz-Date=20261301T000000Z&X-Amz-Expires=1",
        "Expires=999999999999&Signature=x", "Expires=99999999999999999999&Signature=x", "Expires=\u0663&Signature=x",
        "se=2026-01-01&ske=never&sig=x", "se=never&sig=x", "se=&sig=x", "se=9999-99-99&sig=x",
    ],
)  # fmt: skip
def test_link_expires_at_does_not_guess(query):
    assert link_expires_at(f"https://files.example.com/a?{query}") is None


@given(st.text(max_size=50), st.text(max_size=30))
def test_link_expires_at_survives_any_text(one, other):
    link_expires_at(one)
    for query in (f"X-Amz-Date={one}&X-Amz-Expires={other}", f"Expires={one}&Signature={other}", f"se={one}&sig={other}"):
        moment = link_expires_at(f"https://files.example.com/a?{query}")
        assert moment is None or moment.tzinfo is UTC


def test_link_expires_at_gives_none_for_what_is_no_link():
    assert link_expires_at("https://[broken?Expires=1&Signature=x") is None


def test_link_digest_changes_with_the_signature():
    one, other = (
        link_digest("https://files.example.com/a?X-Amz-Signature=1"),
        link_digest("https://files.example.com/a?X-Amz-Signature=2"),
    )
    assert one != other
    assert len(one) == 16
    assert one == link_digest("https://files.example.com/a?X-Amz-Signature=1")


def test_link_digest_takes_text_that_is_no_unicode():
    assert link_digest("https://files.example.com/\ud800") != link_digest("https://files.example.com/\ud801")


# What is asked for


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("https://a.example/b%2fc%2F?X=%2f#part?d", b"/b%2fc%2F?X=%2f"),
        ("https://a.example//b/../c/./d", b"//b/../c/./d"),
        ("https://a.example", b"/"),
        ("https://a.example?b=/c", b"/?b=/c"),
        ("https://a.example#b", b"/"),
        ("https://a.example/?", b"/?"),
        ("https://[2606:4700::1]:8443/b", b"/b"),
        ("https://a.example/gr\u00fcn?n=\u540d", b"/gr%C3%BCn?n=%E5%90%8D"),
        ("https://a.example/https://b.example/c", b"/https://b.example/c"),
    ],
)
def test_request_target_is_the_link_as_it_is_written(link, target):
    assert request_target(link) == target


BASE = "https://a.example/b/c/d.bin?e=f"


@pytest.mark.parametrize(
    ("location", "link"),
    [
        ("https://b.example/x%2fy?z#part", "https://b.example/x%2fy?z"),
        ("//b.example/x", "https://b.example/x"),
        ("/x//y?z", "https://a.example/x//y?z"),
        ("x", "https://a.example/b/c/x"),
        ("../x", "https://a.example/b/x"),
        ("../../../../x", "https://a.example/x"),
        ("./x/./y/../z", "https://a.example/b/c/x/z"),
        ("..", "https://a.example/b/"),
        (".", "https://a.example/b/c/"),
        ("?x", "https://a.example/b/c/d.bin?x"),
        ("#x", "https://a.example/b/c/d.bin"),
        ("/x y", "https://a.example/x%20y"),
        ("/gr\u00fcn", "https://a.example/gr%C3%BCn"),
        ("/gr\udcfcn", "https://a.example/gr%FCn"),
        ("https://gr\u00fcn.example/x", "https://gr\u00fcn.example/x"),
        ("http://b.example", "http://b.example"),
        ("/a:b", "https://a.example/a:b"),
        ("", None),
    ],
)
def test_redirect_leads_where_curl_goes(location, link):
    assert follow_redirect(BASE, location) == link
