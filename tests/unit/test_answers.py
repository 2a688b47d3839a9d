from datetime import UTC, datetime, timedelta

import pytest

from cbk.errors import LinkDenied, LinkExpired, NotTheObject, ObjectMissing, OriginUnavailable, TransferBroken
from cbk.rules.backup.http_responses import (
    FRESH_LINK,
    Entity,
    Headers,
    check_resumed,
    classify_refusal,
    parse_headers,
    parse_status,
    read_entity,
    retry_after_seconds,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
EARLIER = NOON - timedelta(hours=1)


def refuse(status, excerpt="", expires_at=None, **headers):
    fields = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    error = classify_refusal(status, excerpt, fields, origin="files.example.com", link_expires_at=expires_at, now=NOON)
    assert "secret" not in f"{error.message} {error.hint}"
    return error


def s3(code, message):
    return f"<Error><Code>{code}</Code><Message>{message}</Message><Resource>/b/secret</Resource><Key>expired.png</Key></Error>"


def azure(code, detail):
    message = "Server failed to authenticate the request.\nRequestId:secret"
    tag = "AuthenticationErrorDetail"
    return f"<Error><Code>{code}</Code><Message>{message}</Message><{tag}>{detail}</{tag}></Error>"


GOOGLE = (
    "<Error><Code>ExpiredToken</Code><Message>Invalid argument.</Message><Details>The provided token has expired."
    " Request signature expired at: 2026-01-01T00:00:00+00:00</Details></Error>"
)


@pytest.mark.parametrize(
    ("status", "excerpt"),
    [
        (403, s3("AccessDenied", "Request has expired")),
        (400, s3("ExpiredToken", "The provided token has expired.")),
        (403, s3("ExpiredToken", "The security token included in the request is expired")),
        (403, s3("ExpiredPresignRequest", "Request has expired")),
        (
            403,
            azure("AuthenticationFailed", "Signature not valid in the specified time frame: Start [x] - Expiry [y] - Current [z]"),
        ),
        (400, GOOGLE),
        (401, '{"code": "expired_auth_token", "message": "Authorization token has expired", "status": 401}'),
        (403, s3("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")),
        (400, s3("InvalidToken", "The provided token is malformed or otherwise not valid.")),
        (400, s3("TokenRefreshRequired", "The provided token must be refreshed.")),
        (403, s3("InvalidTokenId", "The security token included in the request is invalid")),
        (403, s3("ExpiredRequest", "Presigned URL or request signature has expired.")),
        (403, s3("InvalidSecurityToken", "The security token you provided is invalid.")),
        (403, s3("SecurityTokenExpired", "The security token you provided has expired.")),
    ],
)
def test_refusal_of_a_link_whose_time_is_over_asks_for_a_fresh_one(status, excerpt):
    error = refuse(status, excerpt)
    assert isinstance(error, LinkExpired)
    assert error.hint == "the application has to write a fresh link into its row"


def test_refusal_after_the_time_that_the_link_shows_is_expiry_whatever_the_page_says():
    assert refuse(403, "<html>Forbidden</html>", EARLIER).message == "the link expired at 2026-01-01 11:00 UTC"


@pytest.mark.parametrize(
    ("excerpt", "message"),
    [
        (
            s3("ExpiredToken", "The provided token has expired."),
            "the key or the session that signed the link is over (ExpiredToken), before the time that the link shows",
        ),
        (
            s3("InvalidToken", "The provided token is malformed or otherwise not valid."),
            "the key or the session that signed the link is over (InvalidToken), before the time that the link shows",
        ),
        (s3("AccessDenied", "Request has expired"), "the link expired, before the time that the link shows"),
        (GOOGLE, "the link expired, before the time that the link shows"),
        (azure("AuthenticationFailed", "Signature not valid in the specified time frame: x"), "the link expired, before the time"),
        (s3("AccessDenied", "Access Denied"), "files.example.com refuses the link (403 AccessDenied)"),
        (s3("SignatureDoesNotMatch", "secret"), "files.example.com refuses the link (403 SignatureDoesNotMatch)"),
    ],
)
def test_link_that_died_its_signers_session_and_a_denial_are_told_apart(excerpt, message):
    assert refuse(403, excerpt, LATER).message.startswith(message)


@pytest.mark.parametrize(
    ("status", "excerpt", "headers", "where"),
    [
        (
            301,
            "<Error><Code>PermanentRedirect</Code><Endpoint>car-erp.s3.eu-west-1.amazonaws.com</Endpoint></Error>",
            {"x-amz-bucket-region": "eu-west-1"},
            "in region eu-west-1, at car-erp.s3.eu-west-1.amazonaws.com",
        ),
        (301, "", {"x-amz-bucket-region": "eu-west-1"}, "in region eu-west-1"),
        (
            307,
            "<Error><Code>TemporaryRedirect</Code><Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint></Error>",
            {},
            "at b.s3-eu-west-1.amazonaws.com",
        ),
        (
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong region</Message><Region>eu-central-1</Region></Error>",
            {},
            "in region eu-central-1",
        ),
    ],
)
def test_bucket_that_is_elsewhere_is_told_with_its_place(status, excerpt, headers, where):
    error = refuse(status, excerpt, **headers)
    assert isinstance(error, LinkDenied)
    assert error.message == f"files.example.com answers {status}: the bucket is {where}"
    assert FRESH_LINK in error.hint


@pytest.mark.parametrize("region", ["secret?sig=1", "eu west", "EU/../x", "a" * 50])
def test_what_is_no_region_is_not_repeated(region):
    assert "secret" not in str(refuse(301, f"<Region>{region}</Region>", **{"x-amz-bucket-region": region}))


@pytest.mark.parametrize(
    ("status", "excerpt"),
    [
        (403, s3("AccessDenied", "Cannot download file, download bandwidth or transaction (Class B) cap exceeded. See the page")),
        (403, '{"code": "download_cap_exceeded", "message": "Cannot download file, download cap exceeded", "status": 403}'),
        (403, '{"code": "transaction_cap_exceeded", "message": "Transaction cap exceeded", "status": 403}'),
        (403, s3("AllAccessDisabled", "All access to this object has been disabled")),
        (403, s3("AccountProblem", "There is a problem with your account")),
        (403, s3("UserProjectAccountProblem", "The project's billing account is disabled")),
        (400, s3("KMS.DisabledException", "arn:secret is disabled.")),
        (409, azure("AccountIsDisabled", "The specified account is disabled.")),
    ],
)
def test_refusal_that_no_fresh_link_helps_says_so_and_is_tried_again(status, excerpt):
    error = refuse(status, excerpt)
    assert isinstance(error, OriginUnavailable)
    assert "link into its row" not in error.hint
    assert "secret" not in f"{error.message} {error.hint}"


def test_google_calls_a_link_that_is_too_old_a_token_and_it_is_told_as_a_link():
    assert refuse(400, GOOGLE).message == "the link expired"


@pytest.mark.parametrize(
    ("status", "code", "helps"),
    [
        (403, "AccessDenied", True),
        (403, "SignatureDoesNotMatch", True),
        (400, "AuthorizationQueryParametersError", True),
        (401, "Unauthorized", True),
        (403, "", True),
        (403, "InvalidObjectState", False),
        (409, "BlobArchived", False),
        (403, "RequestTimeTooSkewed", False),
        (405, "MethodNotAllowed", False),
        (451, "", False),
    ],
)
def test_denial_asks_for_a_fresh_link_where_one_can_help(status, code, helps):
    assert (FRESH_LINK in (refuse(status, s3(code, "secret")).hint or "")) is helps


@pytest.mark.parametrize(
    ("status", "excerpt"),
    [
        (403, s3("AccessDenied", "Access Denied")),
        (403, s3("AccessDenied", "Request is not yet valid")),
        (403, s3("SignatureDoesNotMatch", "The request signature we calculated does not match. secret")),
        (403, azure("AuthenticationFailed", "Signature did not match. String to sign used was secret expires")),
        (403, "expired.png is not for you"),
        (401, ""),
        (400, s3("AuthorizationQueryParametersError", "X-Amz-Expires must be less than a week")),
        (405, ""),
        (409, ""),
        (451, s3("AccessDenied", "Request has expired")),
    ],
)
def test_refusal_for_another_reason_than_age_is_a_denial(status, excerpt):
    assert type(refuse(status, excerpt, LATER)) is LinkDenied


def test_denial_says_what_the_service_calls_it():
    error = refuse(403, s3("AccessDenied", "Access Denied"))
    assert error.message == "files.example.com refuses the link (403 AccessDenied)"
    assert "not there, too" in error.hint


@pytest.mark.parametrize("code", ["x" * 60, "secret/key", "sec ret", "AKIA0123", ""])
def test_denial_repeats_nothing_that_is_not_a_word(code):
    assert refuse(403, f"<Code>{code}</Code>").message == "files.example.com refuses the link (403)"


def test_denial_of_an_archived_object_says_what_to_do():
    assert "archive tier" in refuse(403, s3("InvalidObjectState", "The operation is not valid")).hint


@pytest.mark.parametrize(
    ("status", "excerpt", "what"),
    [
        (404, s3("NoSuchKey", "The specified key does not exist."), "object"),
        (404, s3("NoSuchBucket", "The specified bucket does not exist"), "bucket or container"),
        (404, s3("ContainerNotFound", "The specified container does not exist."), "bucket or container"),
        (404, "<html>", "object"),
        (410, "", "object"),
    ],
)
def test_refusal_of_what_is_not_there_is_missing_even_when_the_link_is_old(status, excerpt, what):
    error = refuse(status, excerpt, EARLIER)
    assert isinstance(error, ObjectMissing)
    assert error.message == f"files.example.com has no such {what} ({status})"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 520, 599])
def test_refusal_for_now_is_the_origin_being_away(status):
    error = refuse(status, "", EARLIER, retry_after="7")
    assert isinstance(error, OriginUnavailable)
    assert error.retry_after_seconds == 7


@pytest.mark.parametrize("status", [201, 202, 203, 204, 206, 226, 300, 304, 399])
def test_success_that_is_not_the_object_is_said_to_be_none(status):
    assert isinstance(refuse(status), NotTheObject)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("999999999", 86_400),
        ("Thu, 01 Jan 2026 12:01:00 GMT", 60),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thu, 01 Jan 2099 11:00:00 GMT", 86_400),
        ("Thu, 01 Jan 2026 12:01:00 -0000", 60),
        ("Thursday, 01-Jan-26 12:01:00 GMT", 60),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 400, None),
        ("Thu, 99 Jan 2026 12:01:00 GMT", None),
        ("Thu, 01 Jan 99999999999 12:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_a_day_at_most(value, seconds):
    assert retry_after_seconds(value, now=NOON) == seconds


# The object and its parts

ENTITY = Entity(size=100, etag='"a"', last_modified="Thu, 01 Jan 2026 11:00:00 GMT", content_type="image/png")


def entity(**headers):
    return read_entity("files.example.com", Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def resume(known=ENTITY, status=206, position=40, **headers):
    fields = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return check_resumed("files.example.com", known, status, fields, position=position)


def test_entity_is_what_the_headers_say():
    read = entity(Content_Length="100", ETag='"a"', Last_Modified="Thu, 01 Jan 2026 11:00:00 GMT", Content_Type="image/png")
    assert read == ENTITY


@pytest.mark.parametrize("length", ["", "abc", "-1", "+5", "5, 7", "5,", "1e3", "0x10", " 5 x", "9" * 30, "\u0663"])
def test_entity_with_a_length_that_is_no_number_is_refused(length):
    with pytest.raises(NotTheObject):
        entity(Content_Length=length)


def test_entity_in_chunks_has_no_size_whatever_length_is_said():
    assert entity(Content_Length="5", Transfer_Encoding="Chunked").size is None


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "identity", ""])
def test_entity_in_another_transfer_coding_is_refused(coding):
    with pytest.raises(NotTheObject):
        entity(Content_Length="5", Transfer_Encoding=coding)


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"a"', "Last_Modified": "then"}, '"a"'),
        ({"ETag": 'W/"a"', "Last_Modified": "then"}, None),
        ({"Last_Modified": "then"}, "then"),
        ({}, None),
    ],
)
def test_if_range_takes_a_strong_validator_only(headers, validator):
    assert entity(**headers).if_range == validator


def test_same_length_on_several_lines_is_one():
    assert entity(Content_Length="5, 5, 5").size == 5


def test_resumed_part_that_starts_where_the_last_one_ended_goes_on():
    assert resume(Content_Range="bytes 40-99/100", ETag='"a"') == (ENTITY, 0)


def test_resumed_part_tells_the_size_that_was_not_known():
    known = Entity(size=None, etag='"a"', last_modified=None, content_type=None)
    assert resume(known, Content_Range="bytes 40-99/100")[0].size == 100


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 41-99/100", "bytes 40-99/101", "bytes 41-99/*", "bytes 40-100/100", "bytes 40-39/100",
        "bytes 40-100/*", "bytes */100", "items 40-99/100", "bytes 40-99", "", "bytes 40-99/100, 0-1/100", "bytes -40-99/100",
    ],
)  # fmt: skip
def test_resumed_part_that_is_another_one_is_refused(content_range):
    with pytest.raises(TransferBroken):
        resume(Content_Range=content_range, ETag='"a"')


@pytest.mark.parametrize(
    ("content_range", "skip"),
    [("bytes 0-99/100", 40), ("bytes 39-99/100", 1), ("bytes 40-99/*", 0), ("bytes  40 - 60 / 100", 0)],
)
def test_resumed_part_is_taken_from_where_it_begins_on(content_range, skip):
    assert resume(Content_Range=content_range, ETag='"a"') == (ENTITY, skip)


@pytest.mark.parametrize(("first", "then"), [('"a"', 'W/"a"'), ('W/"a"', '"a"'), ('W/"a"', 'W/"a"')])
def test_resumed_part_whose_etag_was_weakened_is_of_the_same_object(first, then):
    known = Entity(size=100, etag=first, last_modified=None, content_type=None)
    assert resume(known, Content_Range="bytes 40-99/100", ETag=then)[1] == 0


@pytest.mark.parametrize("size", [None, 40])
def test_nothing_is_missing_where_the_rest_begins_at_the_end(size):
    known = Entity(size=size, etag='"a"', last_modified=None, content_type=None)
    assert resume(known, status=416, Content_Range="bytes */40")[0].size == 40


@pytest.mark.parametrize("content_range", ["bytes */41", "bytes */39", "", "bytes 40-41/42", "bytes */*"])
def test_rest_that_is_refused_elsewhere_is_missing(content_range):
    known = Entity(size=None, etag='"a"', last_modified=None, content_type=None)
    with pytest.raises(TransferBroken, match="416"):
        resume(known, status=416, Content_Range=content_range)


def test_resumed_part_without_its_range_is_refused():
    with pytest.raises(TransferBroken):
        resume(ETag='"a"', Content_Type="multipart/byteranges; boundary=x")


@pytest.mark.parametrize("status", [200, 206])
def test_resumed_part_of_a_changed_object_is_refused(status):
    with pytest.raises(TransferBroken, match="changed"):
        resume(status=status, Content_Range="bytes 40-99/100", Content_Length="100", ETag='"b"')


def test_whole_object_instead_of_the_rest_is_skipped_up_to_the_position():
    assert resume(status=200, Content_Length="100", ETag='"a"') == (ENTITY, 40)


@pytest.mark.parametrize("headers", [{"Content_Length": "100"}, {"Content_Length": "90", "ETag": '"a"'}, {"ETag": '"a"'}])
def test_whole_object_that_may_be_another_one_is_refused(headers):
    with pytest.raises(TransferBroken):
        resume(status=200, **headers)


@pytest.mark.parametrize("first", [None, 'W/"a"'])
def test_whole_object_without_a_strong_etag_from_the_start_is_refused(first):
    known = Entity(size=100, etag=first, last_modified="then", content_type=None)
    with pytest.raises(TransferBroken):
        resume(known, status=200, Content_Length="100", ETag=first or '"a"')


@pytest.mark.parametrize("status", [204, 304, 416])
def test_any_other_answer_to_a_range_is_refused(status):
    with pytest.raises(TransferBroken, match=str(status)):
        resume(status=status)


HEAD = [
    b"HTTP/1.1 200 OK\r\n",
    b"Content-Type:  image/png \t\r\n",
    b'ETag:"a"\r\n',
    b'etag: "b"\r\n',
    b"Cache-Control: a\r\n",
    b"CACHE-CONTROL: b\r\n",
    b"X-Folded: a\r\n",
    b"\t b\r\n",
    b"no colon\r\n",
    b": no name\r\n",
    "X-Größe: 名\r\n".encode(),
    b"Location: /gr\xfcn\r\n",
    b"Empty:\n",
]


def test_headers_are_found_by_their_names_in_any_case():
    headers = parse_headers(HEAD)
    assert (headers["content-TYPE"], headers.get("CONTENT-type"), headers.get("Missing")) == ("image/png", "image/png", None)
    assert (headers["Empty"], headers["X-Folded"]) == ("", "a b")
    assert len(headers) == len(list(headers)) == 7


def test_first_of_several_lines_counts_unless_they_are_a_list():
    headers = parse_headers(HEAD)
    assert (headers["ETag"], headers["Cache-Control"]) == ('"a"', "a, b")


def test_other_bytes_than_those_of_utf_8_are_not_lost():
    assert parse_headers(HEAD)["Location"].encode("utf-8", "surrogateescape") == b"/gr\xfcn"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 404\r\n", 404),
        (b"HTTP/2 503 \r\n", 503),
        (b"HTTP/1.1 2000 OK\r\n", 0),
        (b"HTTP/1.1 OK\r\n", 0),
        (b"ICY 200 OK\r\n", 0),
    ],
)
def test_status_is_that_of_the_first_line(line, status):
    assert parse_status([line, b"A: b\r\n"]) == status


def test_nothing_has_no_status():
    assert parse_status([]) == 0
