"""Runs the migrations on the connection that the caller opened.

nightshift passes one (``Config.attributes["connection"]``); the alembic command line opens its own from
the environment variable NIGHTSHIFT_WAREHOUSE__DSN. Nothing of ``sync`` is imported here: a migration is
history and must not change when code does.
"""

import asyncio
import os
import re

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

LOCK = 0x6E69676874  # "night": one migration at a time, whoever starts it


def migrate(connection: Connection) -> None:
    with connection.begin():
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS sync"))
        context.configure(connection=connection, version_table_schema="sync", transaction_per_migration=False)
        with context.begin_transaction():
            context.run_migrations()


async def migrate_from_environment() -> None:
    dsn = os.environ["NIGHTSHIFT_WAREHOUSE__DSN"]
    engine = create_async_engine(re.sub(r"^postgres(ql)?://", "postgresql+asyncpg://", dsn))
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(migrate_from_environment())
