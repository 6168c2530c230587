import base64
import io
import json
import logging
import sys
import warnings
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.observe.logging import MARK, SHORTEST, Redactor, configure

# The mark's own character is left out: next to a mark it would look like the end of such a secret.
texts = st.text(st.characters(codec="utf-8", exclude_characters="*"))
# No deadlines below: compiling the pattern of a strange secret takes its time.
secret_texts = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=SHORTEST, max_size=30)


@pytest.fixture(autouse=True)
def _restored_logging():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def events(stream):
    """Read the JSON lines of a stream."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(error, _local=None):
    """Raise the error from a frame of its own."""
    raise error


def texts_in(value):
    """Yield every text in plain data, keys included."""
    match value:
        case dict():
            for key, item in value.items():
                yield key
                yield from texts_in(item)
        case list():
            for item in value:
                yield from texts_in(item)
        case None | bool():
            pass  # a secret may be a part of such a word by chance
        case _:
            yield str(value)


# --- the redactor ---


@settings(deadline=None)
@given(secret_texts, texts, texts)
def test_no_redacted_text_holds_a_secret(secret, before, after):
    """Wherever a secret stands in a text, it is gone afterwards."""
    assert secret not in Redactor([secret]).redact(before + secret + after)


@settings(deadline=None)
@given(
    secret_texts,
    st.lists(
        st.sampled_from(
            [
                quote,
                quote_plus,
                lambda text: quote(text, safe=""),
                lambda text: json.dumps(text)[1:-1],
                lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
                lambda text: repr(text)[1:-1],
                lambda text: repr(text.encode())[2:-1],
            ]
        ),
        max_size=2,
    ),
)
def test_a_quoted_secret_is_a_secret(secret, quotings):
    """A secret that was URL-quoted or escaped, even twice and in different ways, is replaced as a whole."""
    text = secret
    for quoting in quotings:
        text = quoting(text)
    assert Redactor([secret]).redact(f"<{text}>") == f"<{MARK}>"


@settings(deadline=None)
@given(secret_texts, st.binary(), st.binary(), st.booleans())
def test_a_secret_in_base64_is_a_secret(secret, before, after, url_safe):
    """Of a secret within base64, at any position, fewer than four characters stay readable."""
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    data = secret.encode()
    text = Redactor([secret]).redact(encode(before + data + after).decode())
    assert MARK in text
    assert encode(data).decode().rstrip("=")[:-1] not in text


@settings(deadline=None)
@given(st.lists(secret_texts, min_size=1, max_size=4), texts)
def test_redaction_is_stable(secrets, text):
    """Redacting what was redacted changes nothing."""
    redactor = Redactor(secrets)
    once = redactor.redact(text + text.join(secrets))
    assert redactor.redact(once) == once


def test_overlapping_secrets_leave_nothing():
    """Secrets that share characters are all removed, not only the first of them."""
    assert Redactor(["abcdef", "efghij"]).redact("<abcdefghij>") == f"<{MARK}>"


def test_short_secrets_are_left_alone():
    """A secret of three characters is not looked for, as it would turn up by chance."""
    assert Redactor(["abc"]).redact("abcdef") == "abcdef"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("GET https://s3.test/a?Expires=1&Signature=x%2Fy&b=2 failed", f"GET https://s3.test/a{MARK} failed"),
        ("'https://s3.test/a?b=2&X-Amz-Signature=00ff'", f"'https://s3.test/a{MARK}'"),
        ("/go?to=https%3A%2F%2Fs3.test%2Fa%3FSignature%3Dzz", f"/go{MARK}"),
        ("Authorization: UserToken 0123456789abcdef", f"Authorization: UserToken {MARK}"),
        ("postgresql://me:pass@db/sleep", f"postgresql://me:{MARK}@db/sleep"),
        ("https://x.test/v1/user/1/session?updated_after=12.5", None),
        ("a signature is needed; it expires", None),
    ],
)
def test_credentials_are_known_by_their_shape(text, redacted):
    """Signed queries, bearer tokens and passwords in addresses go unconfigured; nothing else does."""
    assert Redactor().redact(text) == (text if redacted is None else redacted)


# --- the chain ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@st.composite
def events_with_secret(draw):
    """Draw a secret, and the fields of an event that has it in one place or more."""
    secret = draw(secret_texts)
    leaf = st.sampled_from(
        [secret, f"x{secret}y", secret.encode(), ValueError(secret), [secret], {secret: 1}, {"k": (secret,)}]
    )
    fields = st.dictionaries(st.sampled_from("abcdef"), leaf | values, min_size=1)
    return secret, draw(fields)


@settings(deadline=None)
@given(events_with_secret())
def test_no_event_shows_a_secret(case):
    """Whatever an event holds, however deep, it is one line of JSON and no text in it holds the secret."""
    secret, fields = case
    stream = io.StringIO()
    configure("info", "json", [secret], stream)
    try:
        fail(RuntimeError(secret))
    except RuntimeError:
        structlog.get_logger().exception(f"about.{secret}", **fields)
    (event,) = events(stream)
    assert not any(secret in text for text in texts_in(event))


@settings(deadline=None)
@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEF-_.~+/", min_size=12, max_size=40), values)
def test_no_console_line_shows_a_secret(secret, value):
    """The console shows as little as JSON does."""
    stream = io.StringIO()
    configure("info", "console", [secret], stream)
    structlog.get_logger().info(
        "a.b", value=value, plain=secret, nested=[{"k": secret}], error=OSError(secret)
    )
    assert secret not in stream.getvalue()


def test_tracebacks_show_no_local_variables():
    """An exception is written with its traceback, but not with what its variables held."""
    stream = io.StringIO()
    configure("info", "json", (), stream)
    try:
        fail(ValueError("visible"), "local" + " value")
    except ValueError:
        structlog.get_logger().exception("run.failed")
    (event,) = events(stream)
    assert "Traceback" in event["exception"]
    assert "visible" in event["exception"]
    assert "local value" not in stream.getvalue()


def test_events_carry_context_level_and_utc_time():
    """Bound context such as the run, the level and the time in UTC are part of every event."""
    stream = io.StringIO()
    configure("info", "json", (), stream)
    with structlog.contextvars.bound_contextvars(run=7, source="beddit"):
        structlog.get_logger().info("run.started")
        logging.getLogger("aiohttp.client").warning("slow %s", "answer")
    own, foreign = events(stream)
    assert own["event"] == "run.started"
    assert (own["run"], own["source"], own["level"]) == (7, "beddit", "info")
    assert own["timestamp"].endswith("Z")
    assert (foreign["event"], foreign["run"], foreign["logger"]) == ("slow answer", 7, "aiohttp.client")


@pytest.mark.filterwarnings("default")
def test_warnings_and_library_errors_take_the_same_way():
    """What libraries log or warn about is redacted like our own events, with their tracebacks."""
    stream = io.StringIO()
    configure("info", "json", ["s3cret!"], stream)
    warnings.warn("old s3cret!", stacklevel=1)
    try:
        fail(ValueError("s3cret!"))
    except ValueError:
        logging.getLogger("asyncio").exception("Task failed")
    warning, error = events(stream)
    assert f"old {MARK}" in warning["event"]
    assert f"ValueError: {MARK}" in error["exception"]
    assert "s3cret!" not in stream.getvalue()


def test_configuring_again_replaces_the_chain():
    """After a second configure there is one line per event, in the new format, without the new secrets."""
    first, second = io.StringIO(), io.StringIO()
    log = structlog.get_logger()
    configure("info", "json", (), first)
    log.info("a.b")
    configure("debug", "json", ["s3cret!"], second)
    configure("debug", "json", ["s3cret!"], second)
    log.debug("c.d", value="s3cret!")
    assert [event["event"] for event in events(first)] == ["a.b"]
    assert [event["value"] for event in events(second)] == [MARK]


def test_the_level_holds_for_us_and_libraries_are_quieter():
    """At info our info is written, our debug and the libraries' info are not."""
    stream = io.StringIO()
    configure("info", "json", (), stream)
    structlog.get_logger().debug("a.debug")
    structlog.get_logger().info("a.info")
    logging.getLogger("alembic").info("Context impl PostgresqlImpl.")
    assert [event["event"] for event in events(stream)] == ["a.info"]


def test_an_event_that_cannot_be_rendered_is_reported_without_its_content(capsys):
    """A broken log call neither raises nor shows its arguments; it is reported as such."""
    stream = io.StringIO()
    configure("info", "json", ["s3cret!"], stream)
    logging.getLogger("lib").warning("%d", "s3cret!")
    endless: list = []
    endless.append(endless)
    structlog.get_logger().info("a.b", endless=endless)
    assert [event["event"] for event in events(stream)] == ["log.unrenderable"] * 2
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_fails_stops_nothing(capsys):
    """A closed stream loses the event, but raises nothing and shows nothing elsewhere."""
    stream = io.StringIO()
    configure("info", "json", (), stream)
    stream.close()
    structlog.get_logger().info("a.b")
    assert capsys.readouterr() == ("", "")


def test_auto_is_json_unless_a_person_looks(monkeypatch):
    """The automatic format is the console on a terminal, else JSON; the default stream is standard error."""
    pipe, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", pipe)
    configure()
    structlog.get_logger().info("a.b")
    monkeypatch.setattr(sys, "stderr", terminal)
    configure()
    structlog.get_logger().info("a.b")
    assert events(pipe)[0]["event"] == "a.b"
    assert "a.b" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_the_console_cannot_be_steered_by_a_vendor():
    """Control characters in a value are shown escaped on the console."""
    stream = io.StringIO()
    configure("info", "console", (), stream)
    structlog.get_logger().info("a.b", name="\x1b[2Jgone")
    assert "\x1b" not in stream.getvalue()
    assert "gone" in stream.getvalue()
