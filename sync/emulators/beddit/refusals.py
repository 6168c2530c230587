"""How the Beddit API and its object store answer, and how they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from sync.emulators.answers import Answer, whole
from sync.emulators.faults import Fault, phrase

_IDENTIFIERS: Final = {400: "bad_request", 403: "forbidden", 404: "not_found", 410: "unsupported_api_version"}


def json_answer(value: object) -> Answer:
    """A successful answer of the API."""
    return whole(json.dumps(value).encode())


def refusal(status: int, description: str, *, error: str | None = None) -> Answer:
    """An error of the API: ``{"error", "description"}`` (Beddit API docs, 1-General)."""
    identifier = error or _IDENTIFIERS.get(status) or phrase(status).lower().replace(" ", "_")
    return whole(json.dumps({"error": identifier, "description": description}).encode(), status=status)


def store_refusal(status: int, code: str, message: str) -> Answer:
    """An error of the object store, in the XML that such stores write."""
    declaration = '<?xml version="1.0" encoding="UTF-8"?>'
    body = f"{declaration}\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return whole(body.encode(), status=status, content_type="application/xml")


def scripted(host: str, fault: Fault) -> Answer:
    """The answer that a fault puts in the true one's place."""
    status = fault.status or (200 if fault.location is None else 302)
    if fault.body is not None:
        answer = whole(fault.body, status=status)
    elif host == "api":
        answer = refusal(status, "This answer was scripted.")
    else:
        answer = store_refusal(status, phrase(status).title().replace(" ", ""), "This was scripted.")
    return replace(answer, headers=fault.headers())
