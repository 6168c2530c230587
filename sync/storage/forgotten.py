"""Who was forgotten, and is not read again: ``sync.forgotten`` knows the accounts by pseudonyms alone.

A pseudonym is a slow hash, so that whoever reads the table cannot simply try all the numbers that a user can
have. All that one warehouse writes share a salt: to recognise an account costs a hash, however many were
forgotten before.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final, TypeAlias

import asyncpg

from sync.errors import AccountForgotten

KnownAs: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]
"""By source and account, what the account is recognised by."""

COST: Final = 2**14
"""scrypt's N, with r = 8: a hash takes 16 MB and some 50 ms."""

# Whoever begins to work shares the table; who forgets somebody has it alone: one of them sees the other.
SHARED: Final = "LOCK TABLE sync.forgotten IN ROW SHARE MODE"
ALONE: Final = "LOCK TABLE sync.forgotten IN EXCLUSIVE MODE"

_IN_FORCE: Final = """
    SELECT forgotten_id, forgotten_at, salt, hashes FROM sync.forgotten
    WHERE source = $1 AND allowed_at IS NULL ORDER BY forgotten_id
"""
_SALT: Final = "SELECT salt FROM sync.forgotten ORDER BY forgotten_id DESC LIMIT 1"


def by_name(account: str) -> str:
    """What an account is recognised by of which nothing but its name is known."""
    return f"account {account}"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A row of ``sync.forgotten`` that holds.

    Attributes:
        number: Its number.
        since: When the account was forgotten.
        identity: What the account was recognised by.
    """

    number: int
    since: datetime
    identity: str


def undo(number: int) -> str:
    """What a person has to say to PostgreSQL so that a forgotten account is read again."""
    return f"UPDATE sync.forgotten SET allowed_at = now() WHERE forgotten_id = {number}"  # noqa: S608 - an integer


def refusal(source: str, account: str, forgotten: Forgotten) -> AccountForgotten:
    """Why an account is not read, and what a person can do about it."""
    text = (
        f"account {account} of {source} was forgotten on {forgotten.since:%Y-%m-%d} and is not read: take it "
        f'out of the configuration. If it is to be read again: `nightshift sql "{undo(forgotten.number)}"`'
    )
    if forgotten.identity == by_name(account):
        text += "; if it is another one of the same name, give it another name"
    return AccountForgotten(text)


def identities_of(
    known_as: KnownAs | None, source: str, accounts: Iterable[str]
) -> Mapping[str, Sequence[str]]:
    """What some accounts are recognised by: those of which nothing else is known, by their names."""
    of_source = (known_as or {}).get(source, {})
    return {account: of_source.get(account, (by_name(account),)) for account in accounts}


async def find_forgotten(
    connection: asyncpg.Connection | asyncpg.Pool, source: str, known_as: Mapping[str, Sequence[str]]
) -> Mapping[str, Forgotten]:
    """Which of some accounts were forgotten and not allowed again since.

    Args:
        connection: Where to ask. To be sure that nobody is forgotten until a transaction ends, lock the table
            in it first (``SHARED``).
        source: Their source.
        known_as: By the account's name, what it is recognised by.
    """
    rows = await connection.fetch(_IN_FORCE, source)
    return await asyncio.to_thread(_recognised, rows, known_as) if rows else {}


def _recognised(
    rows: Iterable[asyncpg.Record], known_as: Mapping[str, Sequence[str]]
) -> Mapping[str, Forgotten]:
    listed = {(row["salt"], pseudonym): row for row in rows for pseudonym in row["hashes"]}
    salts = sorted({salt for salt, _ in listed})
    found: dict[str, Forgotten] = {}
    for account, identities in known_as.items():
        for identity in identities:
            for salt in salts:
                if row := listed.get((salt, _pseudonym(salt, identity))):
                    found[account] = Forgotten(row["forgotten_id"], row["forgotten_at"], identity)
    return found


async def new_salt(connection: asyncpg.Connection) -> bytes:
    """The salt for a new record; has to be asked for with the table locked (``ALONE``)."""
    salt: bytes | None = await connection.fetchval(_SALT)
    return salt or os.urandom(16)


async def pseudonyms_of(salt: bytes, identities: Iterable[str]) -> Sequence[bytes]:
    """What the table knows somebody by."""
    return await asyncio.to_thread(lambda: [_pseudonym(salt, identity) for identity in identities])


@cache
def _pseudonym(salt: bytes, identity: str) -> bytes:
    inner = hashlib.sha256(salt + identity.encode()).digest()  # what older records were made of
    return hashlib.scrypt(inner, salt=salt, n=COST, r=8, p=1, dklen=32)
