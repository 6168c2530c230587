"""Reading addresses, and naming them without their secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sync.errors import AddressRefused
from sync.transport.address import follow, join, origin, parse, place

BASE = URL("https://cloud.example/prefix/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "night",
        "//cloud.example/x",
        "file:///etc/passwd",
        "ftp://h/x",
        "data:,x",
        "https://",
        "http://[::1",
    ],
)
def test_half_addresses_are_refused(text):
    """What is no complete http or https address raises AddressRefused and no ValueError."""
    with pytest.raises(AddressRefused):
        parse(text)


@pytest.mark.parametrize("text", ["https://alice@h/x", "https://alice:pw@h/x", "https://:pw@h/x"])
def test_user_names_are_refused(text):
    """An address with a user name or password is refused, and the message does not repeat them."""
    with pytest.raises(AddressRefused) as caught:
        parse(text)
    assert "alice" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("query", ["sig=a%2Fb%2bc+d", "x=%7E~", "filter%5Bstart%5D=1", "a=b==&&c"])
def test_a_signed_address_keeps_its_spelling(query):
    """What is sent is letter for letter what the vendor wrote."""
    assert str(parse(f"https://h.example/a%2fb?{query}")) == f"https://h.example/a%2fb?{query}"


def test_other_characters_are_encoded():
    """An address with characters that cannot be sent is cleaned instead of breaking the request line."""
    assert str(parse("https://h.example/ä b\r\nX: y")) == "https://h.example/%C3%A4%20bX:%20y"


@given(st.text())
def test_no_text_breaks_the_parser(text):
    """Any text is an address or is refused; what is accepted fits into a request line."""
    try:
        url = parse(text)
    except AddressRefused:
        return
    assert url.raw_path_qs.isascii()
    assert not any(character.isspace() for character in url.raw_path_qs)


def test_paths_go_below_the_base_address():
    """A path is appended to the base address, whose own path it does not replace."""
    assert str(join(BASE, "/api/v1/x?y=1")) == "https://cloud.example/prefix/api/v1/x?y=1"


@pytest.mark.parametrize(
    "text", ["https://cloud.example/api", "https://CLOUD.example/api", "https://cloud.example:443/api"]
)
def test_whole_addresses_of_the_same_origin_are_fine(text):
    """Links that a vendor hands out are followed when they stay at home."""
    assert origin(join(BASE, text)) == origin(BASE)


@pytest.mark.parametrize(
    "text",
    [
        "http://cloud.example/api",
        "https://cloud.example:8443/api",
        "https://cloud.example.evil.example/api",
        "https://evil.example/api",
        "https://cloud.example@evil.example/api",
        "https://evil.example\\@cloud.example/api",
    ],
)
def test_a_token_never_leaves_its_origin(text):
    """Another scheme, port or host is refused, however it is disguised."""
    with pytest.raises(AddressRefused):
        join(BASE, text)


@pytest.mark.parametrize(
    "text", ["//evil.example/x", "/@evil.example", "/\\evil.example", "/:80@evil.example"]
)
def test_no_path_leads_away(text):
    """However a path is written, it stays a path of the base address's origin."""
    assert origin(join(BASE, text)) == origin(BASE)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "https://h.example/b"),
        ("c?d=1", "https://h.example/c?d=1"),
        ("//other.example/b", "https://other.example/b"),
        ("http://other.example/b", "http://other.example/b"),
    ],
)
def test_redirects_may_be_relative(location, target):
    """A Location header is read relative to the address that sent it."""
    assert str(follow(URL("https://h.example/a?s=1"), location)) == target


@pytest.mark.parametrize("location", ["file:///etc/passwd", "https://u:p@h/x", "http://[::1"])
def test_redirects_are_read_as_strictly(location):
    """A redirect to something that is no clean address is refused."""
    with pytest.raises(AddressRefused):
        follow(URL("https://h.example/a"), location)


def test_messages_never_show_a_query():
    """A request is named by method, host and path; a very long path is shortened."""
    assert place("GET", URL("https://h.example:8443/a?signature=x")) == "GET h.example:8443/a"
    assert len(place("GET", URL("https://h.example/" + "a" * 5000))) < 300
