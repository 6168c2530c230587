"""``verify``: what it finds, what it costs, what it mends, and what it must not complain about."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from sync.emulators.beddit import Behaviour, BlobForm, Study
from sync.emulators.faults import MALFORMED_JSON, Fault
from sync.model import VERIFICATION, Extent, Pass, StreamKey, Task

VERIFY, REPAIR = Task("verify"), Task("verify", repair=True)

USER = 1001
STUDY = Study(users=(USER,), nights=12, hours=0.2)


async def verify(pipeline: Any, task: Task = VERIFY) -> dict[str, str]:
    """Verify; it has to succeed. Kinds of what is open afterwards, by item."""
    (outcome,) = await pipeline.run(task)
    assert outcome.error is None
    return await found(pipeline)


async def verify_in_vain(pipeline: Any, task: Task = VERIFY) -> str:
    """Verify; it has to fail. Why."""
    (outcome,) = await pipeline.run(task)
    assert outcome.error is not None
    return str(outcome.error)


async def found(pipeline: Any) -> dict[str, str]:
    """Kinds of what is open, by item."""
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
    assert [row["item_key"] for row in rows] == sorted(planted)
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


async def test_what_has_vanished_is_told_until_a_repair_takes_note_of_it(open_pipeline: Any) -> None:
    """One verification that nobody read loses nothing; and how much is missing is told ever after."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    gone = min(pipeline.cloud.truth(USER))
    pipeline.cloud.remove(USER, gone)
    told = {f"{USER}/{gone}": "vanished"}
    assert await verify(pipeline) == told
    assert await verify(pipeline) == told
    assert await verify(pipeline, REPAIR) == {}
    assert await verify(pipeline) == {}
    assert (await extent(pipeline)).vanished == 1


async def test_a_night_that_nobody_could_be_asked_about_is_no_equality(open_pipeline: Any) -> None:
    """A missing night is neither vanished nor looked at where the question about it has no whole answer."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    gone = min(pipeline.cloud.truth(USER))
    pipeline.cloud.remove(USER, gone)
    alone = pipeline.settings.longest_session.total_seconds() + 2

    async def spoil(request: Any) -> None:
        start, end = (float(request.query.get(name, 0)) for name in ("start_timestamp", "end_timestamp"))
        if start < gone < end < start + alone:
            pipeline.cloud.on_request = None
            pipeline.cloud.fail_next(MALFORMED_JSON)

    pipeline.cloud.on_request = spoil
    began = datetime.fromtimestamp(gone, UTC)
    assert f"that began at {began:%Y-%m-%d %H:%M} UTC could not" in await verify_in_vain(pipeline)
    assert await found(pipeline) == {}
    (left_out,) = (await progress(pipeline)).left_out
    assert [int(edge.timestamp()) for edge in (left_out.start, left_out.end)] == [gone, gone]
    assert await verify(pipeline) == {f"{USER}/{gone}": "vanished"}


async def progress(pipeline: Any) -> Pass:
    """How far the last verification came."""
    stored = await pipeline.warehouse.stream(StreamKey("beddit", f"user{USER}", VERIFICATION))
    verification = Pass.load(stored.cursor)
    assert verification is not None
    return verification


async def extent(pipeline: Any) -> Extent:
    """What the last verification compared."""
    return (await progress(pipeline)).extent


# --- raw signals -----------------------------------------------------------------------------------

TABLES = (
    "session_records",
    "track_arrays",
    "track_declarations",
    "blob_mentions",
    "blob_attempts",
    "blob_records",
    "sample_chunks",
)


async def lose(pipeline: Any, tables: Sequence[str], session_id: int) -> None:
    """Delete a night's rows behind the back of everybody."""
    for table in tables:
        await pipeline.pool.execute(f"DELETE FROM beddit.{table} WHERE session_id = $1", session_id)  # noqa: S608


async def test_a_night_is_mended_with_its_raw_signals(open_pipeline: Any) -> None:
    """A night that was lost with all that belongs to it is whole after the repair, its signals too."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    lost = min(pipeline.cloud.truth(USER))
    await lose(pipeline, TABLES, lost)
    assert await verify(pipeline, REPAIR) == {}
    await pipeline.assert_truth()


@pytest.mark.parametrize(
    "tables", [("blob_records", "sample_chunks"), ("blob_records", "sample_chunks", "blob_attempts")]
)
async def test_a_raw_signal_that_is_not_there_is_no_equality(
    open_pipeline: Any, tables: Sequence[str]
) -> None:
    """Lost, or due and never fetched: the difference is told, and mended."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    lost = min(pipeline.cloud.truth(USER))
    await lose(pipeline, tables, lost)
    assert await verify(pipeline) == {f"{USER}/{lost}/{track}": "blob" for track in ("noise", "normal")}
    assert await verify(pipeline, REPAIR) == {}
    await pipeline.assert_truth()


async def test_a_lost_raw_signal_is_told_though_its_source_lost_it_too(open_pipeline: Any) -> None:
    """That a signal which was stored is in neither place is the worst there is to say."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    lost = min(pipeline.cloud.truth(USER))
    await lose(pipeline, ("blob_records", "sample_chunks"), lost)
    pipeline.cloud.remove_blob(USER, lost, "normal")
    pipeline.cloud.remove_blob(USER, lost, "noise")
    assert len(await verify(pipeline)) == 2
    assert len(await verify(pipeline, REPAIR)) == 2


async def test_a_raw_signal_that_nobody_has_is_no_difference(open_pipeline: Any) -> None:
    """Due or not: what the source refuses cannot be missing here."""
    pipeline = await open_pipeline(STUDY)
    refused = min(pipeline.cloud.truth(USER))
    pipeline.cloud.remove_blob(USER, refused, "noise")
    await pipeline.once()
    await pipeline.pool.execute("UPDATE beddit.blob_attempts SET next_attempt_at = now() - interval '1 h'")
    assert await verify(pipeline) == {}


async def test_lost_samples_are_found_where_no_address_is_named_any_more(open_pipeline: Any) -> None:
    """What is stored is compared with itself, whether or not its source could be asked."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    lost = min(pipeline.cloud.truth(USER))
    await lose(pipeline, ("blob_mentions", "sample_chunks"), lost)
    assert await verify(pipeline) == {f"{USER}/{lost}/{track}": "blob" for track in ("noise", "normal")}


async def test_a_repair_that_keeps_what_is_stored_keeps_its_state(open_pipeline: Any) -> None:
    """Where the source holds less than it did, signal and status stay; it is told why."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    night = min(pipeline.cloud.truth(USER))
    whole = pipeline.cloud.blob(USER, night, "normal")
    before = await pipeline.fetch("SELECT * FROM beddit.sampled_tracks ORDER BY session_id, track")
    pipeline.cloud.set_blob(USER, night, "normal", whole[: len(whole) // 4 * 2])
    assert await verify(pipeline, REPAIR) == {f"{USER}/{night}/normal": "blob"}
    assert await pipeline.fetch("SELECT * FROM beddit.sampled_tracks ORDER BY session_id, track") == before
    text = await pipeline.value("SELECT text FROM sync.differences")
    assert "not mended: the newest blob is not whole" in text
    assert text.endswith("the stored signal stays")


# --- passes ----------------------------------------------------------------------------------------

LONG_AGO = 1_500_000_000
"""When a night began that lies in another window than those of the study."""


async def spoil(pipeline: Any, session_id: int) -> None:
    """Have the raw signals of a night never answered for."""

    async def refuse(request: Any) -> None:
        if request.host == "blob" and str(session_id) in request.path:
            for _ in range(2):
                pipeline.cloud.fail_next(Fault(status=503), host="blob")

    pipeline.cloud.on_request = refuse


async def test_what_never_answers_hides_nothing_else(open_pipeline: Any, night: Any) -> None:
    """A verification that could not look at everything fails, and ends: the next looks at all the rest."""
    pipeline = await open_pipeline(STUDY)
    pipeline.cloud.put(USER, night(float(LONG_AGO)), updated=LONG_AGO + 1_000.0)
    await pipeline.once()
    await spoil(pipeline, max(pipeline.cloud.truth(USER)))
    why = await verify_in_vain(pipeline)
    assert "503" in why
    assert ".." not in why
    await pipeline.pool.execute(
        "UPDATE beddit.session_records SET software = 'x' WHERE session_id = $1", LONG_AGO
    )
    await verify_in_vain(pipeline)
    assert await found(pipeline) == {f"{USER}/{LONG_AGO}": "content"}


async def test_what_could_not_be_looked_at_is_not_over(open_pipeline: Any, night: Any) -> None:
    """A difference stays open where this verification did not look, and goes where it did."""
    pipeline = await open_pipeline(STUDY)
    pipeline.cloud.put(USER, night(float(LONG_AGO)), updated=LONG_AGO + 1_000.0)
    await pipeline.once()
    newest = max(pipeline.cloud.truth(USER))
    software = pipeline.cloud.truth(USER)[newest]["software"]
    await pipeline.pool.execute("UPDATE beddit.session_records SET software = 'x'")
    assert {f"{USER}/{newest}", f"{USER}/{LONG_AGO}"} <= (await verify(pipeline)).keys()
    await pipeline.pool.execute("UPDATE beddit.session_records SET software = $1", software)
    await spoil(pipeline, newest)
    await verify_in_vain(pipeline)
    left = await found(pipeline)
    assert f"{USER}/{newest}" in left
    assert f"{USER}/{LONG_AGO}" not in left
    pipeline.cloud.on_request = None
    assert await verify(pipeline) == {}


async def test_an_old_pass_is_not_gone_on_with(open_pipeline: Any) -> None:
    """What was verified more than a week ago is verified again."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    assert await verify(pipeline) == {}
    await pipeline.pool.execute(
        """
        UPDATE sync.stream_state SET cursor = cursor || jsonb_build_object(
            'ended', false, 'began_at', to_char(now() - interval '8 days', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'))
        WHERE stream = 'verification'
        """
    )
    await pipeline.pool.execute("UPDATE beddit.session_records SET software = 'x'")
    assert len(await verify(pipeline)) == 12


async def test_an_interrupted_verification_goes_on(open_pipeline: Any, night: Any) -> None:
    """What was verified before an interruption is not asked for again in this pass, what was not is."""
    pipeline = await open_pipeline(STUDY)
    pipeline.cloud.put(USER, night(float(LONG_AGO)), updated=LONG_AGO + 1_000.0)
    await pipeline.once()
    newest = max(pipeline.cloud.truth(USER))
    requests = await asked(pipeline)
    reached = max(n for n, request in enumerate(requests) if request.host == "blob") + 1

    running = asyncio.ensure_future(pipeline.run(VERIFY))
    left = iter(range(reached))

    async def interrupt(request: Any) -> None:
        if next(left, None) is None:
            running.cancel()

    pipeline.cloud.on_request = interrupt
    with pytest.raises(asyncio.CancelledError):
        await running
    pipeline.cloud.on_request = None

    await pipeline.pool.execute(
        "UPDATE beddit.session_records SET software = 'x' WHERE session_id = ANY ($1)", [newest, LONG_AGO]
    )
    rest = await asked(pipeline)
    assert "blob" not in {request.host for request in rest}, "nights of the study are asked about again"
    assert await found(pipeline) == {f"{USER}/{LONG_AGO}": "content"}
    assert (await extent(pipeline)).sessions == 13
    assert len(await asked(pipeline)) == len(requests)
    assert await found(pipeline) == {f"{USER}/{one}": "content" for one in (LONG_AGO, newest)}


async def asked(pipeline: Any) -> Sequence[Any]:
    """Requests of a verification."""
    before = len(pipeline.cloud.requests)
    await verify(pipeline)
    return pipeline.cloud.requests[before:]


async def test_it_says_what_was_compared(open_pipeline: Any) -> None:
    """How many nights, from when to when; and where what was read begins, if there is more."""
    pipeline = await open_pipeline(STUDY)
    starts = sorted(
        datetime.fromtimestamp(session["start_timestamp"], UTC)
        for session in pipeline.cloud.truth(USER).values()
    )
    await pipeline.backfill(since=starts[4])
    assert await verify(pipeline) == {}
    partly = Extent(sessions=8, first=starts[4], last=starts[-1], read_since=starts[4])
    assert await extent(pipeline) == partly
    assert await verify(pipeline, Task("verify", since=starts[5])) == {}
    assert await extent(pipeline) == Extent(sessions=7, first=starts[5], last=starts[-1])
    await pipeline.backfill()
    assert await verify(pipeline) == {}
    assert await extent(pipeline) == Extent(sessions=12, first=starts[0], last=starts[-1])


async def test_without_any_history_equal_is_said_of_nothing(open_pipeline: Any) -> None:
    """Where all coverage was taken back, and nothing read since, no night counts as compared."""
    pipeline = await open_pipeline(Study(users=(USER,), nights=1, hours=0.1, raw_signal=False))
    await pipeline.once()
    await pipeline.pool.execute("UPDATE sync.stream_state SET coverage = '{}'")
    assert await verify(pipeline) == {}
    compared = await extent(pipeline)
    assert compared.sessions == 0
    assert compared.read_since is not None
