"""Who was forgotten is known by slow hashes, and may be allowed again without losing the record.

* A pseudonym is scrypt (N = 16384, r = 8, p = 1; 32 bytes) with the row's salt over the SHA-256 of salt and
  identity, which is what the rows held so far: so they can be turned into it.
* It is computed by the programs, no longer by PostgreSQL.
"""

import hashlib

from alembic import op
from sqlalchemy import text

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP FUNCTION sync.forgotten_as",
    "ALTER TABLE sync.forgotten ADD COLUMN allowed_at timestamptz",
    """
    COMMENT ON TABLE sync.forgotten IS
    'Accounts whose data was removed and which are not read again, unless allowed_at is set'
    """,
    """
    COMMENT ON COLUMN sync.forgotten.allowed_at IS
    'Since when its account may be read again, on a person''s word; NULL: it may not'
    """,
    """
    COMMENT ON COLUMN sync.forgotten.hashes IS
    'Pseudonyms: slow hashes (scrypt) of the salt and of what the account is known by. They are personal data:'
    ' whoever guesses a user''s number or name can confirm the guess'
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    connection = op.get_bind()
    for number, salt, hashes in connection.execute(
        text("SELECT forgotten_id, salt, hashes FROM sync.forgotten")
    ).all():
        slow = [hashlib.scrypt(one, salt=salt, n=2**14, r=8, p=1, dklen=32) for one in hashes]
        connection.execute(
            text("UPDATE sync.forgotten SET hashes = :hashes WHERE forgotten_id = :number"),
            {"hashes": slow, "number": number},
        )
