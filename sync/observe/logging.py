"""The logging chain: one event, one line, no secret.

Our own events (structlog) and those of the libraries (the standard ``logging``, ``warnings``) end in the
same chain::

    structlog ─┐
               ├─► context, level, time, traceback ─► redaction ─► JSON or console ─► stream
    logging ───┘

Redaction comes last before rendering. It first turns everything in the event into plain text, numbers,
lists and tables, by itself, so that the renderer has nothing left to convert: no text reaches the stream that
was not redacted. Redacting the rendered text instead would tear JSON apart when a secret is, say, a number.

Event names are stable, dotted words, such as ``run.finished``; what varies stands in the event's fields.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

MARK = "***"
SHORTEST = 4
"""Shorter secrets are not looked for: they would turn up inside innocent words and numbers."""

# Our own events, all modules together: event names say enough about where they come from.
OWN_LOGGER = "nightshift"


# --- redaction ----------------------------------------------------------------------------------

# Values that give access although nobody configured them, by their shape:
_SHAPES = (
    # the query of a signed address, whole, also when it is itself quoted inside another address;
    (
        re.compile(
            r"""(?xi) (?: (?: \? | %3F ) [^\s"'<>?]*? )?
            (?: (?<![a-z0-9]) | (?<=%3F) | (?<=%26) ) (?: Signature | Expires | Policy | Key-Pair-Id
                | AWSAccessKeyId | GoogleAccessId | sig | X-(?:Amz|Goog)-[\w-]+ ) (?: = | %3D ) [^\s"'<>]* """
        ),
        MARK,
    ),
    # what follows the name of an authorization scheme;
    (re.compile(r"(?i)\b(Bearer|UserToken)(\s+|%20|\+)[\w.~+/=-]{8,}"), rf"\1\2{MARK}"),
    # and the password of an address.
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{MARK}@"),
)


class Redactor:
    """Removes secrets from text, however they are quoted.

    A secret is found as it is, URL-quoted, JSON- or Python-escaped (in any mixture, several times over) and
    in base64 at any position. Signed addresses, bearer tokens and passwords in addresses are found by
    their shape.

    Args:
        secrets: The values to remove. Those of fewer than ``SHORTEST`` characters are ignored.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        patterns = sorted(
            {pattern for secret in secrets if len(secret) >= SHORTEST for pattern in _patterns(secret)},
            key=lambda pattern: (-len(pattern), pattern),
        )
        # Looking ahead finds secrets that overlap each other, too.
        self._secrets = re.compile("(?=(" + "|".join(patterns) + "))") if patterns else None

    def redact(self, text: str) -> str:
        """Return the text with a mark in place of every secret."""
        text = self._without_secrets(text)
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
        return text

    def redact_data(self, value: Any) -> Any:
        """Return the value as plain data (text, numbers, lists, tables) in which all text is redacted."""
        match value:
            case None | bool():
                return value
            case str():
                return self.redact(str(value))
            case int() | float():
                return self._redact_number(value)
            case bytes() | bytearray() | memoryview():
                return self.redact(bytes(value).decode("utf-8", "backslashreplace"))
            case Mapping():
                return {self.redact(_text(key)): self.redact_data(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.redact_data(item) for item in value]
            case _:
                return self.redact(_text(value))

    def _without_secrets(self, text: str) -> str:
        if self._secrets is None:
            return text
        pieces: list[str] = []
        done = 0
        for found in self._secrets.finditer(text):
            start, end = found.span(1)
            if start > done or not pieces:
                pieces += (text[done:start], MARK)
            done = max(done, end)
        return "".join((*pieces, text[done:]))

    def _redact_number(self, number: float) -> Any:
        text = _text(number)
        redacted = self.redact(text)
        return number if redacted == text and math.isfinite(number) else redacted


def _patterns(secret: str) -> Iterator[str]:
    """Yield regular expressions for all that a secret may look like."""
    yield _quoted_pattern(secret)
    data = secret.encode("utf-8", "surrogatepass")
    for shift in range(3):
        # Base64 writes three bytes as four characters, so there are three ways in which a secret can lie in a
        # longer text. Characters that mix its bits with a neighbour's are left out.
        first, end = -(-shift * 8 // 6), (shift + len(data)) * 8 // 6
        piece = base64.b64encode(bytes(shift) + data).decode()[first:end]
        yield _quoted_pattern(piece)
        yield _quoted_pattern(piece.translate(str.maketrans("+/", "-_")))


def _quoted_pattern(text: str) -> str:
    return "".join(_character_pattern(character) for character in text)


# What escaping puts before a character; escaping again doubles it, URL-quoting writes it as %5C.
_BACKSLASH = r"(?:\\|%(?:25)*5[Cc])"
_BACKSLASHES = _BACKSLASH + "{1,8}"
_LETTER_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


@functools.cache
def _character_pattern(character: str) -> str:
    if character == "\\":
        return _BACKSLASHES
    if character.isascii() and (character.isalnum() or character in "-._~"):
        return re.escape(character)  # no quoting changes these
    code = ord(character)
    data = character.encode("utf-8", "surrogatepass")
    utf16 = character.encode("utf-16-be", "surrogatepass")
    units = (utf16[place : place + 2].hex() for place in range(0, len(utf16), 2))
    forms = [
        "".join(f"{_BACKSLASH}{{0,8}}%(?:25)*(?i:{byte:02x})" for byte in data),  # URL-quoted
        "".join(f"{_BACKSLASHES}u(?i:{unit})" for unit in units),  # JSON
        "".join(f"{_BACKSLASHES}x(?i:{byte:02x})" for byte in data),  # Python, bytes
        f"{_BACKSLASHES}(?:x(?i:{code:02x})|U(?i:{code:08x}))",  # Python, text
    ]
    if character in _LETTER_ESCAPES:
        forms.append(_BACKSLASHES + _LETTER_ESCAPES[character])
    if character == " ":
        forms += (r"\+", "%(?:25)*2[Bb]")
    forms.append(f"{_BACKSLASH}{{0,8}}{re.escape(character)}")  # last: %25 is more of a secret than its %
    return f"(?:{'|'.join(forms)})"


def _text(value: object) -> str:
    try:
        return repr(value) if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001 - whatever an object's own code does, the event is worth more
        return f"<{type(value).__name__}>"


# --- the chain ----------------------------------------------------------------------------------


def configure(
    level: Level = "info",
    format: Format = "auto",  # noqa: A002
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> Redactor:
    """Send every event of this process, ours and the libraries', through one redacting chain.

    Calling it again replaces the chain.

    Args:
        level: The least important events of ours that are written. Libraries are heard from ``warning`` on,
            and at ``debug`` from ``info`` on: their own debugging prints what was sent.
        format: ``console``, ``json`` (one event a line), or ``auto``: console when the stream is a terminal.
        secrets: Values that must not be written.
        stream: Where to write; standard error unless told.

    Returns:
        The redactor, for text that goes elsewhere, such as error messages in the database.
    """
    stream = sys.stderr if stream is None else stream
    redactor = Redactor(secrets)
    handler = _Handler(stream)
    handler.setFormatter(_formatter(redactor, _renderers(format, stream)))

    own, least = logging.getLogger(OWN_LOGGER), logging.getLevelNamesMapping()[level.upper()]
    own.setLevel(least)
    root = logging.getLogger()
    root.handlers[:] = [handler]  # any other handler would be a way around the redaction
    root.setLevel(logging.INFO if level == "debug" else max(least, logging.WARNING))
    logging.captureWarnings(True)

    structlog.configure(
        processors=[*_first_steps(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: own,
        cache_logger_on_first_use=False,  # so that calling configure again reaches every logger
    )
    return redactor


def _first_steps() -> list[Processor]:
    """What is done where an event is made, because it looks at the context and the current exception."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # Python's own traceback, which shows no local variables
    ]


def _renderers(format: Format, stream: TextIO) -> list[Processor]:  # noqa: A002
    terminal = stream.isatty()
    if format == "json" or (format == "auto" and not terminal):
        return [_in_order, structlog.processors.JSONRenderer()]
    console = structlog.dev.ConsoleRenderer(
        colors=terminal and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )
    return [_without_controls, console]


def _formatter(redactor: Redactor, renderers: list[Processor]) -> logging.Formatter:
    def redact(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        plain: EventDict = redactor.redact_data(event)
        return plain

    return _Formatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *_first_steps()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, *renderers],
    )


def _in_order(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Put what every event has first."""
    return {key: event[key] for key in ("timestamp", "level", "event") if key in event} | dict(event)


def _without_controls(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Escape control characters: a vendor's text must not steer a person's terminal."""
    return {
        key: _CONTROLS.sub(_escape, value) if isinstance(value, str) else value
        for key, value in event.items()
    }


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders an event, and one that cannot be rendered as the news of that."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - a bad event must neither stop work nor go unnoticed
            news = {"level": "error", "event": "log.unrenderable", "logger": record.name}
            return json.dumps(
                news | {"line": f"{record.module}:{record.lineno}", "error": type(error).__name__}
            )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; a stream that fails is no reason to fail."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Stay silent: the standard report would quote the event, unredacted."""
