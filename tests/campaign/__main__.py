"""``make campaign``: as many kills as wanted, then what was survived.

::

    python -m tests.campaign --kills 500 --seed 7 [--season 3]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from contextlib import ExitStack

import structlog

from sync.storage.embedded import EmbeddedPostgres
from sync.storage.migrate import migrate
from tests.campaign.campaign import PER_SEASON, Report, run_season
from tests.campaign.oracle import DifferenceError
from tests.integration.conftest import NO_DURABILITY, _execute, _new_name, _open_folder, _with_database


async def campaign(server: str, report: Report, kills: int, season: int | None) -> None:
    """Seasons until there were enough kills, or one season alone."""
    template = _new_name()
    await _execute(server, f"CREATE DATABASE {template}")
    await migrate(_with_database(server, template))
    number, begun = season or 1, time.monotonic()
    while True:
        name = _new_name()
        await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        await run_season(_with_database(server, name), number, report)
        await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
        print(  # noqa: T201
            f"season {number}: {report.kills} kills survived, {time.monotonic() - begun:.0f} s", flush=True
        )
        number += 1
        if season is not None or report.kills >= kills:
            return


def main() -> int:
    """Run a campaign; 1 where it found a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--places", action="store_true", help="name the awaits at which something happened")
    parser.add_argument("--verbose", action="store_true", help="tell everything that happens")
    parser.add_argument("--season", type=int, default=None, help="only this one")
    asked = parser.parse_args()
    report = Report(asked.seed)
    if asked.verbose:
        report.listener = print
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(f"seed {asked.seed}, seasons of {PER_SEASON} kills", flush=True)  # noqa: T201
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(_open_folder("nightshift-campaign-"))
            server = stack.enter_context(
                EmbeddedPostgres(folder / "pg", settings=NO_DURABILITY).running_sync()
            )
            asyncio.run(campaign(server, report, asked.kills, asked.season))
    except DifferenceError as error:
        print(f"{error}\n\n{report.text()}")  # noqa: T201
        return 1
    print(report.text())  # noqa: T201
    if asked.places:
        for place, count in sorted(report.known_places.items()):
            print(f"{report.places[place]:6} of {count:6}  {place}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
