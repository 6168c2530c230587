"""How long a vendor wants to be left alone."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.transport.retry_after import http_date, wanted_pause

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CAP = 300.0


def pause(now: datetime = NOW, **headers: str) -> float | None:
    """Ask with headers spelled as keywords."""
    return wanted_pause({name.replace("_", "-"): text for name, text in headers.items()}, now=now, cap=CAP)


def date(seconds: float) -> str:
    """Spell the instant so many seconds from now."""
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": " 7 "}, 7.0),
        ({"Retry_After": "1.5"}, 1.5),
        ({"Retry_After": "0"}, 0.0),
        ({"Retry_After": "86400"}, CAP),
        ({"Retry_After": "9" * 5000}, CAP),
        ({"Retry_After": "-7"}, None),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "\u0667"}, None),
        ({"Retry_After": date(30)}, 30.0),
        ({"Retry_After": date(-30)}, 0.0),
        ({"X_Rate_Limit_Reset": "12"}, 12.0),
        ({"X_Rate_Limit_Reset": str(int(NOW.timestamp()) + 12)}, 12.0),
        ({"Retry_After": "5", "X_Rate_Limit_Reset": "12"}, 5.0),
        ({"Retry_After": "soon", "X_Rate_Limit_Reset": "12"}, 12.0),
    ],
)
def test_every_spelling_is_understood(headers, seconds):
    """Delta seconds, HTTP dates and reset headers are read; nonsense asks for nothing; the cap holds."""
    assert pause(**headers) == seconds


def test_a_date_is_judged_on_the_vendors_clock():
    """When the answer carries a Date, our own clock's error does not change the pause."""
    wrong = NOW - timedelta(days=3)
    assert pause(now=wrong, Retry_After=date(30), Date=date(0)) == 30.0


@given(st.text(), st.text(), st.text())
def test_no_header_can_break_it(after, reset, now):
    """Whatever the headers say, the answer is None or lies between zero and the cap."""
    seconds = pause(Retry_After=after, X_Rate_Limit_Reset=reset, Date=now)
    assert seconds is None or 0.0 <= seconds <= CAP


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_both_forms_agree(skew, seconds):
    """A date that lies n seconds after the answer's Date asks for the same as the number n."""
    as_date = pause(Date=date(skew), Retry_After=date(skew + seconds))
    assert as_date == min(max(float(seconds), 0.0), CAP)


@pytest.mark.parametrize("text", [None, "", "yesterday", "Sun, 99 Mar 2026 12:00:00 GMT"])
def test_an_unreadable_date_is_no_date(text):
    """A missing or broken Date header is None and no error."""
    assert http_date(text) is None


def test_dates_are_in_utc():
    """Whatever zone a date is written in, the result is in UTC."""
    assert http_date("Sun, 01 Mar 2026 13:00:00 +0100") == NOW
    assert http_date("Sun, 01 Mar 2026 12:00:00 -0000") == NOW
