-- The roles of a warehouse, none with more rights than its work needs:
--
--   nightshift          owns the tables, for `nightshift migrate` alone
--   nightshift_worker   reads and writes rows: run, once, backfill, status, check
--   nightshift_reader   reads: researchers, dashboards
--
-- A superuser runs it, before or after the first `nightshift migrate`, and as often as one likes:
--
--   psql --dbname=postgres --file=role.sql
--   psql --dbname=postgres --file=role.sql --set=database=sleep --set=owner=o --set=worker=w --set=reader=r
--
-- A missing role or database is made; nothing is taken away. Passwords come from the environment
-- (OWNER_PASSWORD, WORKER_PASSWORD, READER_PASSWORD); without one a role keeps the password it has.

\set ON_ERROR_STOP on
\set QUIET on
\if :{?database} \else \set database nightshift \endif
\if :{?owner} \else \set owner nightshift \endif
\if :{?worker} \else \set worker nightshift_worker \endif
\if :{?reader} \else \set reader nightshift_reader \endif
\set owner_password ''
\set worker_password ''
\set reader_password ''
\getenv owner_password OWNER_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv reader_password READER_PASSWORD

SELECT format('CREATE DATABASE %I', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec

\connect :"database"
BEGIN;

-- What is made later is granted by its owner's default privileges, so it has to be the right owner.
SELECT set_config(
    'nightshift.others', coalesce(string_agg(nspname || ' belongs to ' || rolname, ', '), ''), true)
FROM pg_namespace JOIN pg_roles ON pg_roles.oid = nspowner
WHERE nspname IN ('sync', 'beddit', 'bace') AND rolname <> :'owner' \g /dev/null
DO $$
BEGIN
    IF current_setting('nightshift.others') <> '' THEN
        RAISE EXCEPTION '%: give that role with --set=owner=', current_setting('nightshift.others');
    END IF;
END $$;

-- A server that logs statements must not log these.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY[:'owner', :'worker', :'reader']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

SELECT format('ALTER ROLE %I PASSWORD %L', name, password)
FROM (VALUES (:'owner', :'owner_password'), (:'worker', :'worker_password'), (:'reader', :'reader_password'))
    AS given (name, password)
WHERE password <> '' \gexec

GRANT CONNECT, CREATE ON DATABASE :"database" TO :"owner";
GRANT CONNECT ON DATABASE :"database" TO :"worker", :"reader";

ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE ON SCHEMAS TO :"worker", :"reader";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"worker";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT SELECT ON TABLES TO :"reader";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE, SELECT ON SEQUENCES TO :"worker";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT SELECT ON SEQUENCES TO :"reader";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT EXECUTE ON ROUTINES TO :"worker", :"reader";

-- The same for what is there already. Nobody but pg_dump selects from a sequence, an identity column's too.
SELECT format(statement, nspname, :'worker', :'reader')
FROM pg_namespace, (VALUES
    ('GRANT USAGE ON SCHEMA %1$I TO %2$I, %3$I'),
    ('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %1$I TO %2$I'),
    ('GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO %3$I'),
    ('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %2$I'),
    ('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %3$I'),
    ('GRANT EXECUTE ON ALL ROUTINES IN SCHEMA %1$I TO %2$I, %3$I')) AS grants (statement)
WHERE nspname IN ('sync', 'beddit', 'bace') \gexec

COMMIT;
