"""Persons whose data was removed (sync.forgotten), and rejects that a person declares settled.

* Whoever was forgotten is not read again. The table knows an account by salted hashes alone: of its name, and
  of what the vendor calls the person.
* A reject that a person settled is closed. It still stands for a datapoint that could not become a row, until
  one comes in its place: a session that was proved complete stays so.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # -- forgetting -------------------------------------------------------------------------------
    """
    CREATE TABLE sync.forgotten (
        forgotten_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        source text NOT NULL,
        forgotten_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        removed jsonb NOT NULL DEFAULT '{}',
        salt bytea NOT NULL,
        hashes bytea[] NOT NULL
    )
    """,
    """
    COMMENT ON TABLE sync.forgotten IS
    'Accounts whose data was removed and which are not read again; deleting a row allows its account again'
    """,
    "COMMENT ON COLUMN sync.forgotten.finished_at IS 'When nothing was left; NULL: it was interrupted, repeat it'",
    "COMMENT ON COLUMN sync.forgotten.removed IS 'How many rows of which table were removed'",
    """
    COMMENT ON COLUMN sync.forgotten.hashes IS
    'SHA-256 of the salt and of what the account is known by; whoever guesses a name can confirm the guess'
    """,
    """
    CREATE FUNCTION sync.forgotten_as(source text, identity text) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT max(f.forgotten_id) FROM sync.forgotten f
        WHERE f.source = forgotten_as.source
          AND sha256(f.salt || convert_to(forgotten_as.identity, 'UTF8')) = ANY (f.hashes)
    )
    """,
    "COMMENT ON FUNCTION sync.forgotten_as IS 'Which row of sync.forgotten somebody is known by; NULL: by none'",
    # -- settled rejects --------------------------------------------------------------------------
    """
    ALTER TABLE sync.reject_log
        ADD COLUMN settled boolean NOT NULL DEFAULT false,
        ADD COLUMN note text
    """,
    """
    COMMENT ON COLUMN sync.reject_log.settled IS
    'A person closed it, and no row has come in its place'
    """,
    "DROP INDEX sync.reject_log_instant",
    """
    CREATE INDEX reject_log_instant ON sync.reject_log (record_key, instant)
    WHERE instant IS NOT NULL AND (resolved_at IS NULL OR settled)
    """,
    """
    COMMENT ON COLUMN sync.reject_log.note IS
    'What the person said who settled it (`nightshift rejects resolve`); kept when it comes back'
    """,
    "COMMENT ON VIEW sync.rejects IS 'Items that could not become rows; resolved when they came right or were settled'",
    """
    CREATE OR REPLACE VIEW bace.data_sessions AS
    SELECT r.id_data_session, r.id_group, r.id_person, r.label, r.started_at, r.ended_at, r.created_at,
           r.created_by, r.updated_at, r.updated_by, r.archived_at, r.datapoint_count,
           r.is_ingestion_finished, r.is_archived,
           coalesce(loads.loaded_count, 0)::bigint AS loaded_count,
           (SELECT coalesce(sum(j.items), 0)::bigint FROM sync.reject_log j
            WHERE j.source = 'bace' AND j.record_key = r.id_data_session::text
              AND j.instant IS NOT NULL AND (j.resolved_at IS NULL OR j.settled)) AS rejected_count,
           CASE WHEN EXISTS (
                    SELECT FROM unnest(r.datasets) AS dataset WHERE NOT EXISTS (
                        SELECT FROM bace.session_loads l WHERE l.id_data_session = r.id_data_session
                        AND (l.datasets IS NULL OR dataset = ANY (l.datasets))))
                THEN '{}'
                ELSE coalesce(loads.raw_coverage, '{}') END AS raw_coverage,
           CASE WHEN r.ended_at IS NULL OR r.is_ingestion_finished IS NOT TRUE THEN 'open'
                WHEN c.digest = r.digest THEN c.status
                ELSE 'loading' END AS status,
           CASE WHEN r.ended_at IS NULL THEN 'the session has not ended'
                WHEN r.is_ingestion_finished IS NOT TRUE THEN 'the source has not finished ingesting it'
                WHEN c.digest = r.digest THEN c.reason
                WHEN c.digest IS NOT NULL THEN 'changed upstream since it was last checked'
                WHEN loads.parts > 0 THEN 'not read to its end yet'
                ELSE 'not read yet' END AS status_reason,
           r.missing_upstream_at, r.extra
    FROM bace.session_records r
    LEFT JOIN bace.session_checks c USING (id_data_session)
    CROSS JOIN LATERAL (
        SELECT count(*) AS parts, sum(l.loaded_count) AS loaded_count,
               range_intersect_agg(l.raw_coverage) AS raw_coverage
        FROM bace.session_loads l WHERE l.id_data_session = r.id_data_session
    ) AS loads
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
