"""Which content of a session a raw signal was asked for: a session put again may keep its stamp.

* An attempt belongs to a version of a session, which is its stamp and its digest. What was fetched for one
  content of a stamp is asked for again when another content takes its place.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE beddit.blob_attempts ADD COLUMN session_digest bytea",
    "COMMENT ON COLUMN beddit.blob_attempts.session_digest IS 'The content of that version of the session'",
    """
    UPDATE beddit.blob_attempts a SET session_digest = s.digest
    FROM beddit.session_records s
    WHERE (s.user_id, s.session_id) = (a.user_id, a.session_id) AND s.updated IS NOT DISTINCT FROM a.updated
    """,
    """
    CREATE OR REPLACE VIEW beddit.sampled_tracks AS
    SELECT t.user_id, t.session_id, t.track, t.data_type, t.samples_per_frame, t.frame_length,
           t.samples_per_frame / nullif(t.frame_length, 0) AS sample_rate,
           t.sample_count,
           t.samples_per_frame * t.frame_count AS expected_count,
           CASE WHEN t.is_of_version AND a.status NOT IN ('pending', 'unavailable') THEN t.stored_status
                WHEN NOT t.declared OR m.track IS NULL THEN coalesce(t.stored_status, 'absent')
                WHEN a.status = 'unavailable' THEN 'unavailable'
                ELSE 'pending' END AS status,
           coalesce(a.reason, CASE WHEN t.is_of_version THEN t.stored_reason END) AS reason,
           coalesce(a.attempts, 0) AS attempts,
           a.next_attempt_at,
           encode(t.sha256, 'hex') AS sha256
    FROM (
        SELECT user_id, session_id, track, s.updated, s.digest, s.frame_length, s.frame_count,
               d.track IS NOT NULL AS declared,
               coalesce(d.data_type, b.data_type) AS data_type,
               coalesce(d.samples_per_frame, b.samples_per_frame) AS samples_per_frame,
               b.sample_count, b.sha256, b.status AS stored_status, b.reason AS stored_reason,
               b.track IS NOT NULL AND b.updated IS NOT DISTINCT FROM s.updated AS is_of_version
        FROM beddit.track_declarations d
        FULL JOIN beddit.blob_records b USING (user_id, session_id, track)
        LEFT JOIN beddit.session_records s USING (user_id, session_id)
    ) t
    LEFT JOIN beddit.blob_mentions m ON (m.user_id, m.session_id, m.track) = (t.user_id, t.session_id, t.track)
        AND m.updated IS NOT DISTINCT FROM t.updated
    LEFT JOIN beddit.blob_attempts a ON (a.user_id, a.session_id, a.track) = (t.user_id, t.session_id, t.track)
        AND a.updated IS NOT DISTINCT FROM t.updated AND a.session_digest = t.digest
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
