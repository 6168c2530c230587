"""``verify``: what it finds, what it costs, what it mends, and what it must not complain about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sync.emulators.beddit import Behaviour, BlobForm, Study
from sync.emulators.faults import Fault
from sync.model import Task

VERIFY, REPAIR = Task("verify"), Task("verify", repair=True)

USER = 1001
STUDY = Study(users=(USER,), nights=12, hours=0.2)


async def verify(pipeline: Any, task: Task = VERIFY) -> dict[str, str]:
    """Verify; it has to succeed. Kinds of what is open afterwards, by item."""
    (outcome,) = await pipeline.run(task)
    assert outcome.error is None
    await pipeline.assert_ledger()
    rows = await pipeline.fetch(
        "SELECT item_key, kind FROM sync.differences WHERE resolved_at IS NULL ORDER BY item_key"
    )
    return {row["item_key"]: row["kind"] for row in rows}


async def plant(pipeline: Any) -> dict[str, str]:
    """Make source and warehouse differ in five ways; what a verification has to say."""
    lost, damaged, put_again, gone, cut = sorted(pipeline.cloud.truth(USER))[2:7]
    await pipeline.pool.execute("DELETE FROM beddit.session_records WHERE session_id = $1", lost)
    await pipeline.pool.execute(
        'UPDATE beddit.track_arrays SET "values"[2] = "values"[2] + 1'
        " WHERE session_id = $1 AND track = 'heartbeat'",
        damaged,
    )
    session = pipeline.cloud.truth(USER)[put_again]
    pipeline.cloud.put(USER, session | {"software": "9.9"}, updated=session["updated"])
    pipeline.cloud.remove(USER, gone)
    await pipeline.pool.execute(
        "DELETE FROM beddit.sample_chunks WHERE session_id = $1 AND track = 'normal' AND first_index = 0", cut
    )
    return {
        f"{USER}/{lost}": "missing",
        f"{USER}/{damaged}": "content",
        f"{USER}/{put_again}": "changed",
        f"{USER}/{gone}": "vanished",
        f"{USER}/{cut}/normal": "blob",
    }


async def test_exactly_the_planted_differences_are_found_and_mended(open_pipeline: Any) -> None:
    """Five differences of different kinds are found without a blob; a repair mends them."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    truth = pipeline.cloud.truth(USER)
    planted = await plant(pipeline)
    before = len(pipeline.cloud.requests)
    assert await verify(pipeline) == planted
    asked = pipeline.cloud.requests[before:]
    assert {request.method for request in asked if request.host == "blob"} == {"HEAD"}

    assert await verify(pipeline, REPAIR) == {}
    rows = await pipeline.fetch("SELECT item_key FROM sync.differences WHERE mended ORDER BY item_key")
    vanished = next(key for key, kind in planted.items() if kind == "vanished")
    assert [row["item_key"] for row in rows] == sorted(planted.keys() - {vanished})
    await pipeline.assert_truth({USER: truth | pipeline.cloud.truth(USER)})
    marked = await pipeline.fetch(
        "SELECT session_id FROM beddit.sessions WHERE missing_upstream_at IS NOT NULL"
    )
    assert [f"{USER}/{row['session_id']}" for row in marked] == [vanished]
    assert await verify(pipeline) == {}


async def test_what_comes_back_is_marked_no_longer(open_pipeline: Any) -> None:
    """A night that is listed again loses its mark by the next verification, whether it repairs or not."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    gone = min(pipeline.cloud.truth(USER))
    session = pipeline.cloud.truth(USER)[gone]
    pipeline.cloud.remove(USER, gone)
    assert await verify(pipeline) == {f"{USER}/{gone}": "vanished"}
    assert await verify(pipeline) == {}, "what is marked is as the source has it"
    pipeline.cloud.put(USER, session, updated=session["updated"])
    assert await verify(pipeline) == {}
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT count(missing_upstream_at) FROM beddit.sessions") == 0


async def test_a_signal_that_grew_is_found_by_its_length(open_pipeline: Any) -> None:
    """A raw signal that became whole without a new stamp is found, and downloaded by a repair."""
    study = Study(users=(USER,), nights=2, hours=0.2)
    pipeline = await open_pipeline(study, behaviour=Behaviour(blob_form=BlobForm.HALF))
    await pipeline.once()
    pipeline.cloud.behaviour = Behaviour()
    assert set((await verify(pipeline)).values()) == {"blob"}
    assert await verify(pipeline, REPAIR) == {}
    assert await pipeline.value("SELECT array_agg(DISTINCT status) FROM beddit.sampled_tracks") == [
        "complete"
    ]
    await pipeline.assert_truth()


CLEAN: Mapping[str, Behaviour] = {
    "as documented": Behaviour(),
    "answers that are cut without a word": Behaviour(answer_ceiling=5),
    "ranges are about ends": Behaviour(range_by="end", range_includes_start=False),  # type: ignore[arg-type]
    "absolute times": Behaviour(absolute_times=True),
    "items that are no numbers": Behaviour(non_finite=True),
    "halved signals": Behaviour(blob_form=BlobForm.HALF),
    "compressed signals": Behaviour(blob_form=BlobForm.GZIP),
    "no addresses": Behaviour(data_urls=False),
    "too much for one answer": Behaviour(overload_above=6, overload_seconds=0),
}


@pytest.mark.parametrize("behaviour", CLEAN.values(), ids=CLEAN.keys())
async def test_a_clean_warehouse_has_no_differences(open_pipeline: Any, behaviour: Behaviour) -> None:
    """Whatever the vendor leaves open, nothing differs where everything was read."""
    pipeline = await open_pipeline(STUDY, behaviour=behaviour)
    first, second = sorted(pipeline.cloud.truth(USER))[:2]
    pipeline.cloud.remove_blob(USER, first, "noise")
    await pipeline.once()
    pipeline.cloud.remove_blob(USER, second, "normal")  # gone at the source: what is stored stays
    newest = max(pipeline.cloud.truth(USER).values(), key=lambda session: session["updated"])
    pipeline.cloud.put(USER, newest | {"id": newest["id"] + 60})  # read the next time
    assert await verify(pipeline) == {}


async def test_a_host_that_refuses_to_tell_a_length_is_asked_for_a_byte(open_pipeline: Any) -> None:
    """Where a signature is good for GET alone, a byte of the signal tells its length."""
    pipeline = await open_pipeline(Study(users=(USER,), nights=1, hours=0.2))
    await pipeline.once()
    await pipeline.pool.execute("UPDATE beddit.blob_records SET byte_count = byte_count + 2")

    async def refuse(request: Any) -> None:
        if request.method == "HEAD":
            pipeline.cloud.fail_next(Fault(status=403), host="blob")

    pipeline.cloud.on_request = refuse
    assert set((await verify(pipeline)).values()) == {"blob"}


async def test_an_interrupted_verification_goes_on(open_pipeline: Any) -> None:
    """What was verified before an interruption is not asked for again."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    assert await verify(pipeline) == {}
    whole = await asked(pipeline)
    await pipeline.pool.execute(
        "UPDATE sync.stream_state SET cursor = cursor || '{\"ended\": false}' WHERE stream = 'verification'"
    )
    assert await asked(pipeline) == 0
    assert await asked(pipeline) == whole


async def asked(pipeline: Any) -> int:
    """Requests of a verification."""
    before = len(pipeline.cloud.requests)
    await verify(pipeline)
    return len(pipeline.cloud.requests) - before
