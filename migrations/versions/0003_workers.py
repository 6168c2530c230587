"""Processes that share one warehouse (sync.workers, sync.leases), and daily totals of old runs.

* A lease says which process works on an account. It is free, or points to a living worker.
* A run belongs to the worker that began it. Who takes over a silent worker's accounts ends its runs first:
  a batch is committed only for a run that still runs, so that the old process can store nothing more.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE sync.workers (
        worker_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        command text NOT NULL,
        host text NOT NULL,
        pid int NOT NULL,
        version text NOT NULL,
        lease interval NOT NULL,
        started_at timestamptz NOT NULL DEFAULT now(),
        heartbeat_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "COMMENT ON TABLE sync.workers IS 'One row per nightshift process that works here now'",
    "COMMENT ON COLUMN sync.workers.lease IS 'After a silence of that length others take over what it worked on'",
    """
    CREATE TABLE sync.leases (
        source text NOT NULL,
        account text NOT NULL,
        worker_id bigint,
        work text,
        claimed_at timestamptz,
        cycles jsonb NOT NULL DEFAULT '{}',
        retries jsonb NOT NULL DEFAULT '{}',
        failures int NOT NULL DEFAULT 0,
        PRIMARY KEY (source, account)
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX leases_worker ON sync.leases (worker_id) WHERE worker_id IS NOT NULL",
    "COMMENT ON TABLE sync.leases IS 'Which process works on which account; nobody does where worker_id is NULL'",
    "COMMENT ON COLUMN sync.leases.cycles IS 'For each kind of work, the cycle that it was last done for'",
    "COMMENT ON COLUMN sync.leases.retries IS 'For each kind of work that failed, when it is tried again'",
    "COMMENT ON COLUMN sync.leases.failures IS 'How often work failed in a row'",
    # -- runs -------------------------------------------------------------------------------------
    "ALTER TABLE sync.run_log ADD COLUMN worker_id bigint",
    "CREATE INDEX run_log_account ON sync.run_log (source, account, run_id)",
    "CREATE INDEX run_log_running ON sync.run_log (worker_id) WHERE outcome = 'running'",
    """
    CREATE TABLE sync.run_days (
        day date NOT NULL,
        source text NOT NULL,
        account text NOT NULL,
        task text NOT NULL,
        outcome text NOT NULL,
        runs bigint NOT NULL,
        started_at timestamptz NOT NULL,
        finished_at timestamptz,
        read bigint NOT NULL,
        stored bigint NOT NULL,
        unchanged bigint NOT NULL,
        superseded bigint NOT NULL,
        duplicate bigint NOT NULL,
        rejected bigint NOT NULL,
        requests bigint NOT NULL,
        bytes bigint NOT NULL,
        PRIMARY KEY (day, source, account, task, outcome)
    )
    """,
    "COMMENT ON TABLE sync.run_days IS 'What is left of old runs: their sums, by day (UTC)'",
    """
    CREATE OR REPLACE VIEW sync.runs AS
    SELECT run_id, source, account, task, started_at, finished_at, outcome,
           read, stored, unchanged, superseded, duplicate, rejected, requests, bytes, error, 1::bigint AS runs
    FROM sync.run_log
    UNION ALL
    SELECT NULL, source, account, task, started_at, finished_at, outcome,
           read, stored, unchanged, superseded, duplicate, rejected, requests, bytes, NULL, runs
    FROM sync.run_days
    """,
    """
    COMMENT ON VIEW sync.runs IS
    'One row per run and account: read = stored + unchanged + superseded + duplicate + rejected, in items '
    '(a session and each of its points, a blob and each of its samples); old runs as daily totals, without run_id'
    """,
    """
    COMMENT ON COLUMN sync.runs.outcome IS
    'running, done, paused (goes on at its next turn), failed, interrupted, or lost (its process fell silent)'
    """,
    "COMMENT ON COLUMN sync.runs.runs IS 'How many runs the row stands for'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
