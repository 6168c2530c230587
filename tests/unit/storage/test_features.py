"""What TimescaleDB is told, which depends on how old it is."""

from __future__ import annotations

import pytest

from sync.storage import features


@pytest.mark.parametrize("rollup", features.ROLLUPS, ids=lambda rollup: rollup.view)
@pytest.mark.parametrize(("version", "told"), [((2, 18), False), ((2, 19), True), ((2, 23), True)])
def test_summaries_are_refreshed_a_chunk_at_a_time(
    rollup: features.Rollup, version: tuple[int, ...], told: bool
):
    """A server that would commit after each bucket is told not to; one that does not know the word is not."""
    policy = "".join(features._rollup(rollup, version).statements)
    assert (f"buckets_per_batch => {rollup.batch}" in policy) is told
    assert ("buckets_per_batch" in policy) is told
