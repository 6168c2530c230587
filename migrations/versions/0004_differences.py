"""Differences between source and warehouse, as verifications find them.

* A difference is open until a repair mends it or a later verification of the same time no longer finds it.
* Nothing here is needed for reading: rows may be deleted at any time, and come back if they are still true.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE sync.difference_log (
        source text NOT NULL,
        account text NOT NULL,
        item_key text NOT NULL,
        kind text NOT NULL,
        text text NOT NULL,
        instant timestamptz NOT NULL,
        found_at timestamptz NOT NULL DEFAULT now(),
        last_seen_at timestamptz NOT NULL DEFAULT now(),
        resolved_at timestamptz,
        mended boolean NOT NULL DEFAULT false,
        PRIMARY KEY (source, account, item_key)
    )
    """,
    "COMMENT ON TABLE sync.difference_log IS 'What verifications found; sync.differences is for reading it'",
    """
    COMMENT ON COLUMN sync.difference_log.instant IS
    'When the session began: a verification resolves only what lies in the time that it looked at'
    """,
    """
    CREATE VIEW sync.differences AS
    SELECT source, account, item_key, kind, text, found_at, last_seen_at, resolved_at, mended
    FROM sync.difference_log
    """,
    "COMMENT ON VIEW sync.differences IS 'Where a verification found source and warehouse to differ'",
    "COMMENT ON COLUMN sync.differences.source IS 'beddit or bace'",
    "COMMENT ON COLUMN sync.differences.account IS 'The account with which the source was asked'",
    """
    COMMENT ON COLUMN sync.differences.item_key IS
    'What differs: user/session, user/session/track, a data session''s id, or that and /datapoints'
    """,
    """
    COMMENT ON COLUMN sync.differences.kind IS
    'missing (the source has it, the warehouse not), changed (another version or other content), '
    'vanished (the warehouse has it, the source not any more; kept and marked), '
    'content (the same version, and other rows), blob (a raw signal''s length or stored samples)'
    """,
    "COMMENT ON COLUMN sync.differences.text IS 'What differs, in words'",
    "COMMENT ON COLUMN sync.differences.found_at IS 'When a verification first found it'",
    "COMMENT ON COLUMN sync.differences.last_seen_at IS 'When a verification last found it'",
    "COMMENT ON COLUMN sync.differences.resolved_at IS 'When it was over; NULL: it is open'",
    "COMMENT ON COLUMN sync.differences.mended IS 'Whether a repair ended it; else it ended by itself'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
