"""What a status means, and what the vendor said about it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import (
    AnswerTooLarge,
    AuthenticationError,
    RateLimited,
    RequestRefused,
    RetryableError,
    SourceContractError,
    SourceUnavailable,
)
from sync.transport.status import (
    ANONYMOUS_STATUSES,
    CHECK_CREDENTIALS,
    FOREIGN_STATUSES,
    REJECTED,
    STATUSES,
    TokenRejected,
    refusal,
    vendor_words,
    verdict,
)

TABLES = (STATUSES, ANONYMOUS_STATUSES, FOREIGN_STATUSES)


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        ([401], TokenRejected),
        ([403], AuthenticationError),
        ([300, 301, 302, 304, 307, 308, 400, 404, 405, 409, 410, 413, 418, 422, 451], RequestRefused),
        ([408, 502, 504], AnswerTooLarge),
        ([429], RateLimited),
        ([500, 501, 503, 505, 521, 599], SourceUnavailable),
        ([206, 100, 199, 600, 999, 0], SourceContractError),
    ],
)
def test_every_status_has_one_meaning(statuses, error):
    """The table sorts statuses by what to do next."""
    assert {found.error for status in statuses if (found := verdict(status))} == {error}


def test_without_a_token_there_is_none_to_renew():
    """Who is refused while asking for a token has wrong credentials, and is told nothing about tokens."""
    found = verdict(401, ANONYMOUS_STATUSES)
    assert found
    assert found.error is AuthenticationError
    assert "token" not in found.advice


def test_success_is_no_error():
    """What both vendors document for an answer passes."""
    assert verdict(200) is None
    assert verdict(200, FOREIGN_STATUSES) is None


@pytest.mark.parametrize("status", [201, 202, 203, 204, 205, 206])
def test_other_successes_are_no_answer(status):
    """An answer without content would wipe what it should replace."""
    for statuses in TABLES:
        found = verdict(status, statuses)
        assert found is not None
        assert found.error is SourceContractError


@pytest.mark.parametrize("status", [401, 403])
def test_an_expired_blob_address_is_not_the_accounts_fault(status):
    """At an address that a vendor handed out, 401 and 403 refuse the request, not the credentials."""
    found = verdict(status, FOREIGN_STATUSES)
    assert found
    assert found.error is RequestRefused


@given(st.integers(0, 1000), st.sampled_from(TABLES), st.text(), st.none() | st.floats(0, 300))
def test_every_verdict_makes_a_sentence(status, statuses, words, retry_after):
    """Whatever the status, the error says where and what, and carries status or pause."""
    if not (found := verdict(status, statuses)):
        return
    error = refusal(found, "GET h/p", status, words, retry_after)
    assert str(error).startswith(f"GET h/p was answered with {status}")
    assert str(error).endswith(".")
    assert error.status == status if isinstance(error, RequestRefused) else True
    assert error.retry_after == retry_after if isinstance(error, RetryableError) else True


@pytest.mark.parametrize("found", [CHECK_CREDENTIALS, REJECTED])
def test_a_refusal_names_the_setting_to_change(found):
    """Whoever has to act is told where in the configuration, and that it has to be read again."""
    text = str(refusal(found, "GET h/p", 401, "", None, setting="beddit.accounts.alice.token"))
    assert "correct beddit.accounts.alice.token, then reload (SIGHUP) or start anew" in text
    assert "{" not in str(refusal(found, "GET h/p", 401, "", None))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"error": "forbidden", "description": "Token expired"}, "forbidden: Token expired"),
        (
            {"name": "Not Found", "message": "No such thing", "code": 0, "status": 404},
            "Not Found: No such thing",
        ),
        ({"error": "invalid_grant", "error_description": "Wrong"}, "invalid_grant: Wrong"),
        ([{"field": "sort", "message": "Unknown"}, {"field": "x", "message": "y"}], "sort: Unknown"),
        ({"message": "Only this"}, "Only this"),
        ({"error": {"deep": 1}, "description": 5}, ""),
        ({"stack-trace": ["secret"]}, ""),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_the_vendors_words_are_found(payload, words):
    """Both vendors' error bodies, OAuth2's and validation lists are understood; all else is left out."""
    assert vendor_words(json.dumps(payload).encode(), []) == words


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"[" * 16_000, b'{"error": '])
def test_a_body_that_is_no_json_says_nothing(body):
    """Broken and hostile bodies are no error of their own."""
    assert vendor_words(body, []) == ""


def test_words_are_one_short_line():
    """Line breaks are flattened, and 200 characters are enough."""
    words = vendor_words(json.dumps({"error": "a\nb\r\n\tc", "description": "x" * 5000}).encode(), [])
    assert words.startswith("a b c: xxx")
    assert len(words) == 200


@given(st.text(min_size=1), st.text(), st.text())
def test_a_secret_is_never_repeated(secret, before, after):
    """A secret in the vendor's words is hidden before anything is cut off."""
    body = json.dumps({"error": before + secret + after}).encode()
    shown = vendor_words(body, ["", secret])
    assert secret not in shown.replace("***", "") or secret.strip() in {"", "*", "**", "***"} or not shown


def test_the_longer_secret_goes_first():
    """A secret that contains another one disappears whole."""
    body = json.dumps({"error": "Bearer abc and abc"}).encode()
    assert vendor_words(body, ["abc", "Bearer abc"]) == "*** and ***"


def test_signed_addresses_lose_their_signature():
    """An address in the vendor's words is shown without its query."""
    body = json.dumps({"error": "cannot read HTTPS://h/x?sig=geheim now"}).encode()
    assert vendor_words(body, []) == "cannot read HTTPS://h/x?*** now"
