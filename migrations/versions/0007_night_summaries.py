"""What researchers compute of each night (beddit.night_summaries).

* A session's row carries figures of its tracks: what replaces the tracks replaces them. Of the nights that
  are stored already they are computed here, and equal: an array's values are summed one after the other.
* What follows from the session alone, as its time in bed, is in the view and nowhere else.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE beddit.session_records
        ADD COLUMN heart_rate_count int,
        ADD COLUMN heart_rate_mean float8,
        ADD COLUMN heart_rate_min float8,
        ADD COLUMN heart_rate_max float8,
        ADD COLUMN respiration_cycle_count int,
        ADD COLUMN respiration_cycle_seconds float8,
        ADD COLUMN respiration_rate_mean float8,
        ADD COLUMN actigram_count int,
        ADD COLUMN actigram_sum float8,
        ADD COLUMN actigram_mean float8,
        ADD COLUMN actigram_min float8,
        ADD COLUMN actigram_max float8,
        ADD COLUMN snoring_event_count int,
        ADD COLUMN snoring_seconds float8,
        ADD COLUMN snoring_longest_seconds float8
    """,
    # Each array is aggregated by itself, so that nothing comes between its order and the order of the sum.
    """
    UPDATE beddit.session_records s SET
        heart_rate_count = f.heart_rate_count,
        heart_rate_mean = f.heart_rate_mean,
        heart_rate_min = f.heart_rate_min,
        heart_rate_max = f.heart_rate_max,
        respiration_cycle_count = f.respiration_cycle_count,
        respiration_cycle_seconds = f.respiration_cycle_seconds,
        respiration_rate_mean = 60 * f.respiration_cycle_count / nullif(f.respiration_cycle_seconds, 0),
        actigram_count = f.actigram_count,
        actigram_sum = f.actigram_sum,
        actigram_mean = f.actigram_mean,
        actigram_min = f.actigram_min,
        actigram_max = f.actigram_max,
        snoring_event_count = f.snoring_event_count,
        snoring_seconds = f.snoring_seconds,
        snoring_longest_seconds = f.snoring_longest_seconds
    FROM (
        SELECT t.user_id, t.session_id,
               max(v.count) FILTER (WHERE t.track = 'heart_rate') AS heart_rate_count,
               max(v.mean) FILTER (WHERE t.track = 'heart_rate') AS heart_rate_mean,
               max(v.min) FILTER (WHERE t.track = 'heart_rate') AS heart_rate_min,
               max(v.max) FILTER (WHERE t.track = 'heart_rate') AS heart_rate_max,
               max(v.count) FILTER (WHERE t.track = 'respiration_cycles') AS respiration_cycle_count,
               max(v.sum) FILTER (WHERE t.track = 'respiration_cycles') AS respiration_cycle_seconds,
               max(v.count) FILTER (WHERE t.track = 'actigram') AS actigram_count,
               max(v.sum) FILTER (WHERE t.track = 'actigram') AS actigram_sum,
               max(v.mean) FILTER (WHERE t.track = 'actigram') AS actigram_mean,
               max(v.min) FILTER (WHERE t.track = 'actigram') AS actigram_min,
               max(v.max) FILTER (WHERE t.track = 'actigram') AS actigram_max,
               max(v.count) FILTER (WHERE t.track = 'snoring_events') AS snoring_event_count,
               max(v.sum) FILTER (WHERE t.track = 'snoring_events') AS snoring_seconds,
               max(v.max) FILTER (WHERE t.track = 'snoring_events') AS snoring_longest_seconds
        FROM beddit.track_arrays t
        CROSS JOIN LATERAL (
            SELECT count(*), coalesce(sum(value), 0) AS sum, avg(value) AS mean, min(value), max(value)
            FROM unnest(t."values") AS value
            WHERE value <= 1e30
              AND value >= CASE WHEN t.track IN ('respiration_cycles', 'snoring_events')
                                THEN 1e-6 ELSE -1e30 END
        ) AS v
        WHERE t.track IN ('heart_rate', 'respiration_cycles', 'actigram', 'snoring_events')
        GROUP BY t.user_id, t.session_id
    ) AS f
    WHERE (s.user_id, s.session_id) = (f.user_id, f.session_id)
    """,
    """
    CREATE VIEW beddit.night_summaries AS
    SELECT user_id, session_id, night, started_at, ended_at, timezone,
           CASE WHEN ended_at >= started_at
                THEN extract(epoch FROM ended_at - started_at)::float8 END AS time_in_bed_seconds,
           heart_rate_mean, heart_rate_min, heart_rate_max, heart_rate_count,
           respiration_rate_mean, respiration_cycle_count, respiration_cycle_seconds,
           actigram_mean, actigram_min, actigram_max, actigram_sum, actigram_count,
           snoring_event_count, snoring_seconds, snoring_longest_seconds,
           missing_upstream_at
    FROM beddit.session_records
    """,
    """
    COMMENT ON VIEW beddit.night_summaries IS
    'One row per sleep session (a night may have several), with figures of its tracks: NULL where it has no '
    'such track, counts and sums of 0 where a track is empty'
    """,
    """
    COMMENT ON COLUMN beddit.night_summaries.night IS
    'Local date on which the session ended (on which it began, where no end is known)'
    """,
    "COMMENT ON COLUMN beddit.night_summaries.time_in_bed_seconds IS 'From the session''s start to its end'",
    """
    COMMENT ON COLUMN beddit.night_summaries.heart_rate_mean IS
    'Beats per minute: the plain mean of the readings, each of which is of 30 seconds'
    """,
    "COMMENT ON COLUMN beddit.night_summaries.heart_rate_count IS 'Readings of 30 seconds'",
    """
    COMMENT ON COLUMN beddit.night_summaries.respiration_rate_mean IS
    'Breaths per minute: cycles by the time that they took. The vendor holds no other figure of them sound'
    """,
    """
    COMMENT ON COLUMN beddit.night_summaries.respiration_cycle_seconds IS
    'The lengths of all cycles: how much of the night the rate is of'
    """,
    "COMMENT ON COLUMN beddit.night_summaries.actigram_mean IS 'Movement in a reported epoch, without a unit'",
    "COMMENT ON COLUMN beddit.night_summaries.actigram_count IS 'Reported epochs'",
    "COMMENT ON COLUMN beddit.night_summaries.snoring_seconds IS 'The lengths of all events'",
    "COMMENT ON COLUMN beddit.night_summaries.missing_upstream_at IS 'When the source was seen to hold it no longer'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
