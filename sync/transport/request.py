"""What is asked for: a frozen value that holds no credentials of an account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Its repr shows neither address nor content: both may be secret.

    Attributes:
        url: A path below the client's base address (``"/api/v1/..."``), or a whole address, which is sent
            exactly as it is written, because a changed spelling can break a signature.
        method: The HTTP method.
        params: Query parameters, added to those that the address already has.
        headers: Header fields beside those that every request carries.
        form: Fields of a form body.
        json: A JSON body. At most one of ``form`` and ``json``.
        retry: False sends it once and never again, because what it does must not be done twice.
        retry_timeouts: False raises a time-out (and 408, 502, 504) at once as AnswerTooLarge, because the
            caller will ask for less instead of asking again.
        max_body_bytes: Overrides the client's limit of decompressed bytes.
    """

    url: str = field(repr=False)
    method: str = "GET"
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: Any = field(default=None, repr=False)
    retry: bool = True
    retry_timeouts: bool = True
    max_body_bytes: int | None = None
