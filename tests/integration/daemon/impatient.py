"""The program, with less patience with a vendor than a person could configure: for tests of outages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sync.app import sources
from sync.cli import main

_limits = sources.limits


def _impatient(cloud: Any) -> Any:
    return replace(_limits(cloud), attempts=2, backoff_initial_s=0.05, backoff_max_s=0.1, burst=1000)


if __name__ == "__main__":
    sources.limits = _impatient
    main()
