"""Sessions that somebody saved before the vendor's cloud was closed, ready to be served again.

A folder is read once, file by file, into an index of places: what a query asks about, and where the text
stands. Texts are read again when they are served, so memory holds one file while the folder is read, and
one session while it is served. The bytes of a session are served as they were saved. The only exception
are its old addresses (``data_url``): their host is gone for good, so they are removed, and the track counts
as absent unless its samples were saved too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sync.emulators.beddit.record import Record, TextAround, identifier, number

Span = tuple[int, int]

_BLANK: Final = re.compile(r"[ \t\n\r]*")
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_BLOB_NAMES: Final = (
    re.compile(r"(?P<id>\d+)_(?P<track>.+)\.bin"),
    re.compile(r"(?P<id>\d+)\.(?P<track>[^.]+)"),
)
_FACTS: Final = ("id", "start_timestamp", "end_timestamp", "updated", "sampled_tracks")
_DECODER: Final = json.JSONDecoder()  # Python's own: it accepts NaN and Infinity, which must survive


@dataclass(frozen=True, slots=True)
class FileNote:
    """A file of the folder, and a sentence about what became of it."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class SavedSession:
    """A place in a file where a session stands, and what queries ask about it.

    Attributes:
        user_id: Whose session it is, by the folder's names.
        path: The file.
        span: First byte, and byte after the last.
        session_id: The session's id; None if it has no usable one.
        start: ``start_timestamp``, if usable.
        end: ``end_timestamp``, if usable.
        updated: ``updated``, if usable.
        sampled: Its sampled tracks without addresses; None if it has none.
        sampled_span: Where in the session's text they stand.
        rewritten: Whether they cannot be served as they were saved.
        blobs: The samples that were saved beside the session: track name to file.
    """

    user_id: int
    path: Path
    span: Span
    session_id: int | None
    start: float | None
    end: float | None
    updated: float | None
    sampled: Mapping[str, Any] | None = None
    sampled_span: Span = (0, 0)
    rewritten: bool = False
    blobs: Mapping[str, Path] = field(default_factory=dict)

    def text(self) -> bytes:
        """The session's bytes as they were saved, old addresses included."""
        begin, end = self.span
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def text_around(self) -> TextAround:
        """The session's bytes before and after its sampled tracks."""
        text = self.text()
        if not self.rewritten:
            return text, b""
        begin, end = self.sampled_span
        return text[:begin], text[end:]

    def record(self) -> Record:
        """The session as the cloud keeps it; without ``updated`` it counts as put at 0."""
        return Record(
            user_id=self.user_id,
            session_id=self.session_id,
            start=self.start,
            end=self.end,
            updated=self.updated or 0.0,
            sampled=self.sampled if self.rewritten else None,
            load=self.text_around,
        )


@dataclass(frozen=True, slots=True)
class Archive:
    """What was found in a folder.

    Attributes:
        root: The folder.
        sessions: The sessions of each user, one version of each.
        passed_over: Files that hold no session, with the reason.
        damaged: Files that hold sessions and also something that cannot be read; the rest is served.
    """

    root: Path
    sessions: Mapping[int, tuple[SavedSession, ...]]
    passed_over: tuple[FileNote, ...]
    damaged: tuple[FileNote, ...]


def read_archive(folder: Path, *, default_user: int = 1) -> Archive:
    """Read a folder of saved Beddit JSON files: arrays of sessions, and single sessions.

    A directory directly under the folder whose name is an integer names the user of everything in it. Of
    several versions of a session, the one with the newest ``updated`` is taken, else the one in the file
    whose path sorts last. Samples saved as ``<session id>.<track>`` or ``<session id>_<track>.bin`` beside
    a session become its blobs, if the session declares the track.

    Args:
        folder: Where to look, at any depth.
        default_user: Whose sessions all others are.

    Raises:
        NotADirectoryError: There is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    reader = _Reader(folder, default_user)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        reader.read(path)
    return reader.result()


class _Reader:
    """Gathers what the files of one folder hold."""

    def __init__(self, root: Path, default_user: int) -> None:
        self._root = root
        self._default_user = default_user
        self._newest: dict[tuple[int, object], SavedSession] = {}
        self._blobs: dict[tuple[Path, int], dict[str, Path]] = {}
        self._passed_over: list[FileNote] = []
        self._damaged: list[FileNote] = []

    def read(self, path: Path) -> None:
        """Take in one file."""
        if self._is_blob(path):
            return
        try:
            text = _json_text(path)
            contents = _contents(text)
        except OSError as error:
            self._pass_over(path, f"cannot be read: {error.strerror or error}")
            return
        except _NoJSONError as error:
            self._pass_over(path, str(error))
            return
        if not any(element.is_session for element in contents.elements):
            self._pass_over(path, contents.damage or _what_instead(contents.elements))
            return
        if contents.damage:
            self._damaged.append(FileNote(path, contents.damage))
        user_id = self._user_of(path)
        for element in contents.elements:
            if element.is_sleep:
                continue  # an analysis of the night, saved among sessions
            self._keep(_saved(user_id, path, element, text))

    def result(self) -> Archive:
        """Everything that was found, with blobs given to their sessions."""
        sessions: dict[int, list[SavedSession]] = {}
        for saved in self._newest.values():
            sessions.setdefault(saved.user_id, []).append(self._with_blobs(saved))
        self._passed_over += [
            FileNote(path, "holds samples of a track that no session beside it declares")
            for tracks in self._blobs.values()
            for path in tracks.values()
        ]
        return Archive(
            root=self._root,
            sessions={user_id: tuple(found) for user_id, found in sorted(sessions.items())},
            passed_over=tuple(sorted(self._passed_over, key=lambda note: note.path)),
            damaged=tuple(self._damaged),
        )

    def _pass_over(self, path: Path, reason: str) -> None:
        self._passed_over.append(FileNote(path, reason))

    def _is_blob(self, path: Path) -> bool:
        for pattern in _BLOB_NAMES:
            found = pattern.fullmatch(path.name)
            if found and found["track"].lower() != "json":
                self._blobs.setdefault((path.parent, int(found["id"])), {})[found["track"]] = path
                return True
        return False

    def _user_of(self, path: Path) -> int:
        top, *rest = path.relative_to(self._root).parts
        return int(top) if rest and top.isascii() and top.isdecimal() else self._default_user

    def _keep(self, saved: SavedSession) -> None:
        # What has no id is no version of anything: all of them are kept, under their places.
        key = (saved.user_id, (saved.path, saved.span) if saved.session_id is None else saved.session_id)
        known = self._newest.get(key)
        if known is None or (saved.updated or 0.0) >= (known.updated or 0.0):
            self._newest[key] = saved

    def _with_blobs(self, saved: SavedSession) -> SavedSession:
        if saved.session_id is None or saved.sampled is None:
            return saved
        beside = self._blobs.get((saved.path.parent, saved.session_id), {})
        declared = {track for track, description in saved.sampled.items() if isinstance(description, dict)}
        blobs = {track: beside.pop(track) for track in sorted(declared & beside.keys())}
        return replace(saved, blobs=blobs, rewritten=saved.rewritten or bool(blobs))


@dataclass(frozen=True, slots=True)
class _Element:
    """One element of an array, or the single value of a file, without its bulk.

    Attributes:
        facts: What the index needs of an object; empty for any other value.
        names: The names of all its members.
        span: Where it stands in the file.
    """

    facts: Mapping[str, Any]
    names: frozenset[str]
    span: Span

    @classmethod
    def of(cls, value: Any, span: Span) -> _Element:
        """The element for a decoded value."""
        members = value if isinstance(value, dict) else {}
        facts = {name: members[name] for name in _FACTS if name in members}
        return cls(facts, frozenset(members), span)

    @property
    def is_sleep(self) -> bool:
        """Whether it is an object of the sibling resource (Beddit API docs, 3-2, sleep resource)."""
        return not self.names.isdisjoint({"properties", "date"})

    @property
    def is_session(self) -> bool:
        """Whether it is recognisable as a session; a usable one needs more."""
        return not self.is_sleep and not self.names.isdisjoint({"start_timestamp", "time_value_tracks"})


@dataclass(slots=True)
class _Contents:
    """What one file holds.

    Attributes:
        elements: What can be read.
        malformed: How many elements between others are no JSON.
        complete: The file is not cut, and holds nothing behind its last bracket.
    """

    elements: list[_Element] = field(default_factory=list)
    malformed: int = 0
    complete: bool = True

    @property
    def damage(self) -> str | None:
        """A sentence about what cannot be read; None if all can be."""
        found = f"{len(self.elements)} element{'' if len(self.elements) == 1 else 's'} can be read"
        between = f"{self.malformed} malformed element{'' if self.malformed == 1 else 's'}"
        if not self.complete:
            return f"is cut or malformed before its end: {found}" + (f", {between}" if self.malformed else "")
        return f"has {between}: {found}" if self.malformed else None


class _NoJSONError(ValueError):
    """A file's content cannot be JSON; the message is the sentence for its owner."""


def _json_text(path: Path) -> str:
    """A file's text in which every byte is one character, so that places in it are places in the file.

    JSON's own signs are ASCII and no byte of another character looks like them in UTF-8, so this is safe
    for finding out where things stand, and nothing else is done with the text.
    """
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start:
            raise _NoJSONError("is empty")
        if start[:1] not in b"[{":
            raise _NoJSONError("is not JSON: it starts with neither [ nor {")
        file.seek(0)
        return file.read().decode("latin-1")


def _contents(text: str) -> _Contents:
    """Everything that can be read in a file: arrays and objects, one after the other.

    One array is what the service answered; several come from pages appended to one file.
    """
    contents = _Contents()
    at = _blank(text, 3 if text.startswith("\xef\xbb\xbf") else 0)
    while at < len(text):
        if text[at] == "[":
            at = _read_array(text, at + 1, contents)
        elif (element := _element(text, at)) and text[at] == "{":
            contents.elements.append(element)
            at = element.span[1]
        else:
            contents.complete = False
            break
        at = _blank(text, at)
    return contents


def _read_array(text: str, at: int, contents: _Contents) -> int:
    """Read an array's elements, and tell where it ends."""
    at = _blank(text, at)
    while at < len(text) and text[at] != "]":
        element = _element(text, at)
        after = _blank(text, element.span[1]) if element else at
        if element and text[after : after + 1] in (",", "]", ""):
            contents.elements.append(element)
        else:
            # Its brackets and strings may still tell where the next element begins.
            after = _end_by_structure(text, at)
            contents.malformed += after < len(text)
        at = _blank(text, after + 1) if text[after : after + 1] == "," else after
    contents.complete &= at < len(text)
    return at + 1


def _element(text: str, at: int) -> _Element | None:
    """The JSON value that stands here; None if there is none that another program could read."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        _utf8(text[at:end])
    except (ValueError, RecursionError):
        return None
    return _Element.of(value, (at, end))


def _end_by_structure(text: str, at: int) -> int:
    """Where an element ends, judged by brackets and strings alone: a comma or its array's end."""
    depth = 0
    for sign in _STRUCTURE.finditer(text, at):
        match sign[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}" if depth:
                depth -= 1
            case "," | "]" if not depth:
                return sign.start()
            case _:
                pass
    return len(text)


def _what_instead(elements: list[_Element]) -> str:
    """A sentence about a readable file without any session."""
    if not elements:
        return "is an empty array: there is no session in it"
    if any(element.is_sleep for element in elements):
        return "holds sleep objects (analyses of nights), not sessions"
    return "holds JSON, but nothing in it is a session"


def _saved(user_id: int, path: Path, element: _Element, text: str) -> SavedSession:
    facts = element.facts
    saved = SavedSession(
        user_id=user_id,
        path=path,
        span=element.span,
        session_id=identifier(facts.get("id")),
        start=number(facts.get("start_timestamp")),
        end=number(facts.get("end_timestamp")),
        updated=number(facts.get("updated")),
    )
    if not isinstance(facts.get("sampled_tracks"), dict):
        return saved
    own = text[slice(*element.span)]
    span = _member(own, "sampled_tracks")
    tracks = json.loads(_utf8(own[slice(*span)]))
    silent = {track: _without_address(description) for track, description in tracks.items()}
    return replace(saved, sampled=silent, sampled_span=span, rewritten=silent != tracks)


def _without_address(description: Any) -> Any:
    if not isinstance(description, dict):
        return description
    return {key: value for key, value in description.items() if key != "data_url"}


def _utf8(text: str) -> str:
    """A file's text (one character for each byte) as the text that its writer meant."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8")


def _member(text: str, name: str) -> Span:
    """Where in an object's text the value of a member stands; the last one of that name counts."""
    span = (0, 0)
    at = _blank(text, 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _blank(text, _blank(text, at) + 1)
        begin = at
        _, at = _DECODER.raw_decode(text, at)
        if key == name:
            span = (begin, at)
        at = _blank(text, at)
        at = _blank(text, at + 1) if text[at] == "," else at
    return span


def _blank(text: str, at: int) -> int:
    """The first place at or after ``at`` that is not blank."""
    found = _BLANK.match(text, at)
    return found.end() if found else at
