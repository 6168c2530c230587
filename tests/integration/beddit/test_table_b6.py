"""What the documents leave open (table B6 of the API facts): right under every possible answer.

Each test is named after the row of the table that it is about. The emulated cloud gives one answer to the
question by a switch; the warehouse then has to equal what the cloud holds.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import product

import numpy as np
import pytest

from sync.emulators.beddit import Behaviour, BlobForm, Fault, Limit, Order, Overload, RangeBy, Study
from sync.errors import AuthenticationError
from sync.model import Task

NOW = 1_711_000_000.5
DAY = 86_400.0
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}
GIVES_UP = Behaviour(overload_above=20, overload_seconds=0)


def fill(cloud, night, count, *, updated=None):
    """Put one night a day, the last one yesterday, each stamped when it ended unless told."""
    for number in range(count):
        start = NOW - (count - number) * DAY + 0.123456
        session = night(start, level=50.0 + number)
        cloud.put(USER, session, updated=session["end_timestamp"] + 1.5 if updated is None else updated)


async def opened(open_pipeline, manual_clock, behaviour=None, *, now=NOW):
    """A pipeline for one user whose cloud's clock stands still."""
    return await open_pipeline(None, tokens=TOKENS, behaviour=behaviour, clock=manual_clock(now))


# --- 1 to 3: times ---------------------------------------------------------------------------------


async def test_row_1_relative_track_times(open_pipeline):
    """Item times are seconds from the start, small negative ones included."""
    study = Study(users=(USER,), nights=2, hours=0.2, raw_signal=False)
    pipeline = await open_pipeline(study)
    await pipeline.once()
    assert await pipeline.value("SELECT count(*) FROM beddit.track_values WHERE offset_seconds < 0") == 2
    await pipeline.assert_truth()


async def test_row_1_absolute_track_times(open_pipeline):
    """Times that can only be Unix times are taken as such, and noted as an anomaly, not as rejects."""
    study = Study(users=(USER,), nights=1, hours=0.2, raw_signal=False)
    pipeline = await open_pipeline(study, behaviour=Behaviour(absolute_times=True))
    (outcome,) = await pipeline.once()
    (session,) = pipeline.cloud.truth(USER).values()
    start = session["start_timestamp"]
    rows = await pipeline.fetch(
        'SELECT track, offset_seconds, (extract(epoch FROM "time") * 1000000)::bigint AS us, value '
        "FROM beddit.track_values ORDER BY track, index"
    )
    assert [tuple(row.values()) for row in rows] == [
        (track, start + time, round((start + time) * 1e6), float(value))
        for track, content in sorted(session["time_value_tracks"].items())
        for time, value in content["items"]
    ]
    notes = await pipeline.fetch("SELECT item_key FROM sync.rejects ORDER BY 1")
    with_items = [name for name, content in session["time_value_tracks"].items() if content["items"]]
    assert [note["item_key"] for note in notes] == sorted(
        f"{USER}/{session['id']}/{track}#absolute" for track in with_items
    )
    assert outcome.tally.rejected == 0


async def test_row_2_units_of_offsets(open_pipeline, manual_clock, night):
    """Offsets on any grid are kept bit for bit: tenths, 1/140 s in float32, whole seconds as integers."""
    pipeline = await opened(open_pipeline, manual_clock)
    grids = [0.1, 0.30000000000000004, float(np.float32(1 / 140)), 3, 29316.8, 1e-7]
    tracks = {"heartbeat": {"value_data_type": "float32", "items": [[time, 1.0] for time in grids]}}
    pipeline.cloud.put(USER, night(NOW - DAY, time_value_tracks=tracks))
    await pipeline.once()
    rows = await pipeline.fetch("SELECT offset_seconds FROM beddit.track_values ORDER BY index")
    assert [row["offset_seconds"] for row in rows] == grids
    await pipeline.assert_truth()


async def test_row_3_timestamps_are_utc(open_pipeline, manual_clock, night):
    """A start is a Unix time whatever the zone says; only the night's date is local."""
    pipeline = await opened(open_pipeline, manual_clock)
    start = datetime(2016, 8, 15, 14, 35, tzinfo=UTC)
    session = night(start.timestamp(), length=8 * 3600.0, timezone="Asia/Tokyo")
    pipeline.cloud.put(USER, session)
    await pipeline.once()
    (row,) = await pipeline.fetch("SELECT started_at, night FROM beddit.sessions")
    assert row == {"started_at": start, "night": date(2016, 8, 16)}


# --- 4 to 7: the incremental question ---------------------------------------------------------------


@pytest.mark.parametrize("inclusive", [False, True], ids=["strict", "inclusive"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999999])
async def test_row_4_updated_after_bound(open_pipeline, manual_clock, night, inclusive, fraction):
    """Sessions that are put at the very instant of the newest known one are read, strict bound or not."""
    now = 1_711_000_000.0 + fraction
    behaviour = Behaviour(inclusive_updated_after=inclusive)
    pipeline = await opened(open_pipeline, manual_clock, behaviour, now=now)
    pipeline.cloud.put(USER, night(now - DAY))
    await pipeline.once()
    for number in range(2, 5):
        stamp = pipeline.cloud.put(USER, night(now - number * DAY))
        assert stamp == now
        await pipeline.once()
        await pipeline.assert_truth()


@pytest.mark.parametrize(
    ("order", "overload", "limit"),
    [*product(Order, [None, 20], [Limit.HONOURED]), *product(Order, [20], [Limit.IGNORED])],
)
async def test_row_5_order_of_results(  # noqa: PLR0917 - three of them are the case
    open_pipeline, manual_clock, night, order, overload, limit
):
    """Whatever the order of answers, whole or in pages, every session arrives and the next pass is cheap."""
    pipeline = await opened(open_pipeline, manual_clock, Behaviour(order=order, range_order=order))
    fill(pipeline.cloud, night, 10)
    await pipeline.once()
    # 60 old nights come late and out of order: their stamps rise while their starts fall.
    for number in range(60):
        session = night(NOW - (100 + number * 7 % 60) * DAY)
        pipeline.cloud.put(USER, session, updated=NOW + 10 + number / 7)
    pipeline.cloud._clock.now = NOW + 100
    behaviour = replace(GIVES_UP, overload_above=overload, limit=limit, order=order, range_order=order)
    pipeline.cloud.behaviour = behaviour
    await pipeline.once()
    await pipeline.assert_truth()
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert len(pipeline.cloud.requests) == 1


@pytest.mark.parametrize(
    "limits",
    [
        {"limit": Limit.HONOURED},
        {"limit": Limit.IGNORED},
        {"limit": Limit.REFUSED},
        {"limit_ceiling": 1},
        {"limit_ceiling": 5},
        {"limit_ceiling": 8},
        {"limit_ceiling": 10},
    ],
    ids=lambda limits: "-".join(str(value) for value in limits.values()),
)
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("rising", [True, False], ids=["as-slept", "reversed"])
async def test_row_6_limit(  # noqa: PLR0917 - three of them are the case
    open_pipeline, manual_clock, night, limits, order, rising
):
    """With limit honoured, ignored, refused or silently lowered: all of too many changes still arrive."""
    pipeline = await opened(open_pipeline, manual_clock)
    fill(pipeline.cloud, night, 3)
    await pipeline.once()
    for number in range(50):
        day = 60 - number if rising else 10 + number
        pipeline.cloud.put(USER, night(NOW - day * DAY), updated=NOW + number)
    pipeline.cloud._clock.now = NOW + 100
    pipeline.cloud.behaviour = replace(GIVES_UP, order=order, **limits)
    await pipeline.once()
    await pipeline.assert_truth()


@pytest.mark.parametrize(
    "behaviour", [{}, {"overload_above": 100}, {"overload_above": 180}, {"limit_ceiling": 20}]
)
async def test_row_7_whole_pages_of_one_stamp(open_pipeline, manual_clock, night, behaviour):
    """210 changes, 150 of them with one identical stamp, arrive with pages that are smaller than that."""
    pipeline = await opened(open_pipeline, manual_clock)
    fill(pipeline.cloud, night, 3)
    await pipeline.once()
    for number in range(210):
        stamp = NOW + 10 + min(number, 60)
        pipeline.cloud.put(USER, night(NOW - (10 + number) * DAY), updated=stamp)
    pipeline.cloud._clock.now = NOW + 100
    pipeline.cloud.behaviour = replace(GIVES_UP, **behaviour)
    async with asyncio.timeout(60):
        await pipeline.once()
    await pipeline.assert_truth()


# --- 8 to 10: the range question --------------------------------------------------------------------


@pytest.mark.parametrize("range_by", RangeBy)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("last", [True, False])
async def test_row_8_range_query(  # noqa: PLR0917 - three of them are the case
    open_pipeline, manual_clock, night, range_by, first, last
):
    """Whatever a range means, nights on and across the edges of windows arrive."""
    behaviour = Behaviour(range_by=range_by, range_includes_start=first, range_includes_end=last)
    pipeline = await opened(open_pipeline, manual_clock, behaviour, now=1_711_000_000.0)
    edge = 1_711_000_000.0 - 1  # the cursor: the server's Date minus the overlap of one second
    for month in range(1, 5):
        border = edge - month * 30 * DAY
        for start, hours in ((0, 1), (-3600, 1), (-100_000, 47), (1, 47), (-1, 47), (-30, 1)):
            session = night(border + start, length=hours * 3600.0)
            pipeline.cloud.put(USER, session, updated=session["end_timestamp"] + 1.5)
    await pipeline.backfill()
    await pipeline.assert_truth()


@pytest.mark.parametrize("range_by", RangeBy)
async def test_row_8_the_first_instant_of_all(open_pipeline, manual_clock, night, range_by):
    """A night that starts exactly where a backfill begins arrives, also where ranges exclude their ends."""
    behaviour = Behaviour(range_by=range_by, range_includes_start=False, range_includes_end=False)
    pipeline = await opened(open_pipeline, manual_clock, behaviour)
    first = float(int(NOW - 90 * DAY))
    pipeline.cloud.put(USER, night(first), updated=first + 601.5)
    await pipeline.backfill(since=datetime.fromtimestamp(first, UTC))
    await pipeline.assert_truth()


async def test_row_9_missing_parameters(open_pipeline, manual_clock, night):
    """Every question has either updated_after or both bounds of a range, and never more than that."""
    pipeline = await opened(open_pipeline, manual_clock, GIVES_UP)
    fill(pipeline.cloud, night, 40)
    session = night(NOW - 5 * DAY, sampled_tracks={"normal": {"samples_per_frame": 1, "data_type": "uint8"}})
    pipeline.cloud.put(USER, session)
    pipeline.cloud.set_blob(USER, session["id"], "normal", bytes(3000))
    pipeline.cloud.fail_next(Fault(status=403), host="blob")
    await pipeline.once()
    for number in range(40):
        pipeline.cloud.put(USER, night(NOW - (100 + number) * DAY))
    await pipeline.once()
    await pipeline.backfill(reload=True)
    await pipeline.assert_truth()
    asked = {frozenset(request.query) - {"limit"} for request in pipeline.cloud.requests_to("api")}
    assert asked == {frozenset({"updated_after"}), frozenset({"start_timestamp", "end_timestamp"})}


@pytest.mark.parametrize("overload", Overload)
@pytest.mark.parametrize("limit", Limit)
async def test_row_10_time_outs_of_the_incremental_pass(open_pipeline, manual_clock, night, overload, limit):
    """Changes that no answer can hold arrive, by pages or by a walk over all history."""
    pipeline = await opened(open_pipeline, manual_clock)
    fill(pipeline.cloud, night, 30)
    await pipeline.once()
    pipeline.cloud._clock.now = NOW + 1000
    for number in range(45):
        pipeline.cloud.put(USER, night(NOW - (20 + number) * DAY, level=70.0), updated=NOW + 10 + number)
    pipeline.cloud.behaviour = replace(GIVES_UP, overload=overload, limit=limit)
    await pipeline.once()
    await pipeline.assert_truth()
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert len(pipeline.cloud.requests) == 1


@pytest.mark.parametrize("overload", Overload)
async def test_row_10_time_outs_of_the_backfill(open_pipeline, manual_clock, night, overload):
    """Windows shrink until the server can answer; no night is lost and no window is asked for for ever."""
    pipeline = await opened(
        open_pipeline, manual_clock, replace(GIVES_UP, overload_above=5, overload=overload)
    )
    fill(pipeline.cloud, night, 100)
    await pipeline.once()
    await pipeline.assert_truth()
    assert len(pipeline.cloud.requests) < (300 if overload is Overload.CUT else 150)


async def test_row_10_an_answer_cut_in_the_middle(open_pipeline, manual_clock, night):
    """What came before a cut is kept, what came after it is asked for again."""
    pipeline = await opened(open_pipeline, manual_clock)
    fill(pipeline.cloud, night, 12)
    pipeline.cloud.fail_next(Fault(cut_after=3000), path="session")  # the first contact is shorter than that
    pipeline.cloud.fail_next(Fault(cut_after=3000), path="session", times=2)
    await pipeline.once()
    await pipeline.assert_truth()


async def test_row_10_an_interrupted_walk_goes_on(open_pipeline, manual_clock, night):
    """A walk that fails after any of its requests is continued, and then ends the same."""
    pipeline = await opened(open_pipeline, manual_clock)
    fill(pipeline.cloud, night, 10)
    await pipeline.once()
    pipeline.cloud._clock.now = NOW + 1000
    for number in range(45):
        pipeline.cloud.put(USER, night(NOW - (20 + number) * DAY, level=70.0), updated=NOW + 10 + number)
    pipeline.cloud.behaviour = replace(GIVES_UP, limit=Limit.IGNORED)
    for survived in range(3, 100, 4):
        counted = 0

        async def fail_after(_request, survived=survived):
            nonlocal counted
            counted += 1
            if counted == survived:
                pipeline.cloud.fail_next(Fault(status=500), times=4)  # small questions fail as well

        pipeline.cloud.on_request = fail_after
        (outcome,) = await pipeline.run(Task("once"))
        if outcome.error is None:
            break
    else:
        pytest.fail("the walk never came to its end")
    assert survived > 3
    pipeline.cloud.on_request = None
    await pipeline.once()
    await pipeline.assert_truth()
    assert (await pipeline.value("SELECT cursor ->> 'walk_to' FROM sync.streams")) is None


# --- 11 and 12: raw signal --------------------------------------------------------------------------


async def test_row_11_no_token_for_the_blob_host(open_pipeline):
    """The token goes to the API alone; the host of raw signal gets a signed address and nothing else."""
    study = Study(users=(USER,), nights=2, hours=0.1)
    pipeline = await open_pipeline(study)
    await pipeline.once()
    requests = pipeline.cloud.requests_to("blob")
    assert len(requests) == 4
    token = pipeline.cloud.token(USER)
    assert all("authorization" not in r.headers and token not in repr(r.headers) for r in requests)
    assert all(r.headers["authorization"] == f"UserToken {token}" for r in pipeline.cloud.requests_to("api"))
    await pipeline.assert_truth()


async def test_row_11_an_expired_address_is_listed_again(open_pipeline, manual_clock):
    """An address that expired between its listing and its use is replaced by a fresh one, at once."""
    study = Study(users=(USER,), nights=3, hours=0.1)
    clock = manual_clock(NOW + 30 * DAY)
    pipeline = await open_pipeline(study, clock=clock, behaviour=Behaviour(url_lifetime=60))
    expired = 0

    async def age(request):
        nonlocal expired
        if request.host == "blob" and expired < 3:
            expired += 1
            clock.now += 61

    pipeline.cloud.on_request = age
    await pipeline.once()
    assert expired == 3
    assert 403 in {request.status for request in pipeline.cloud.requests_to("blob")}
    await pipeline.assert_truth()


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_row_11_a_refused_address_is_no_failure(open_pipeline, status):
    """A blob that stays refused is unavailable with a reason; all else arrives, and it is tried later."""
    study = Study(users=(USER,), nights=2, hours=0.1)
    pipeline = await open_pipeline(study)
    lost = study.night(USER, 0).session_id
    pipeline.cloud.fail_next(Fault(status=status), host="blob", path=f"/{lost}/normal", times=2)
    await pipeline.once()
    row, *others = await pipeline.fetch(
        "SELECT *, next_attempt_at > now() AS later FROM beddit.sampled_tracks "
        "ORDER BY session_id, track DESC"
    )
    assert (row["session_id"], row["track"], row["status"]) == (lost, "normal", "unavailable")
    assert str(status) in row["reason"]
    assert (row["attempts"], row["later"], row["sample_count"]) == (1, True, None)
    assert [other["status"] for other in others] == ["complete"] * 3
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 2


@pytest.mark.parametrize("data_type", ["uint16", "float32"])
async def test_row_12_blobs_are_little_endian(open_pipeline, manual_clock, night, data_type):
    """Bytes written by hand, least significant first, become the numbers that they stand for."""
    pipeline = await opened(open_pipeline, manual_clock)
    blob, values = {
        "uint16": (bytes([0x01, 0x00, 0x00, 0x80, 0xFE, 0xFF]), [1, 32768, 65534]),
        "float32": (bytes([0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0, 0, 0, 0x20, 0x41]), [1.0, -2.0, 10.0]),
    }[data_type]
    session = night(
        NOW - DAY, length=0.6, sampled_tracks={"normal": {"samples_per_frame": 1, "data_type": data_type}}
    )
    pipeline.cloud.put(USER, session)
    pipeline.cloud.set_blob(USER, session["id"], "normal", blob)
    await pipeline.once()
    rows = await pipeline.fetch("SELECT index, value FROM beddit.samples ORDER BY index")
    assert [tuple(row.values()) for row in rows] == list(enumerate(values))
    assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") == "complete"


@pytest.mark.parametrize("form", [BlobForm.HALF, BlobForm.DOUBLED, BlobForm.ODD, BlobForm.EMPTY])
async def test_row_12_a_wrong_length_is_kept_and_said(open_pipeline, form):
    """A blob that does not fit its session is stored as it is: both counts, and time is not stretched."""
    study = Study(users=(USER,), nights=1, hours=0.1)
    pipeline = await open_pipeline(study, behaviour=Behaviour(blob_form=form))
    await pipeline.once()
    night = study.night(USER, 0)
    whole = night.samples("normal")
    expected = {
        BlobForm.HALF: whole[: len(whole) // 2],
        BlobForm.DOUBLED: np.concatenate((whole, whole)),
        BlobForm.ODD: whole[:-1],
        BlobForm.EMPTY: whole[:0],
    }[form]
    (row,) = await pipeline.fetch("SELECT * FROM beddit.sampled_tracks WHERE track = 'normal'")
    assert row["status"] == "mismatch"
    assert (row["sample_count"], row["expected_count"]) == (len(expected), night.frames * 28)
    samples = await pipeline.fetch(
        'SELECT value, (extract(epoch FROM "time") * 1000000)::bigint AS us FROM beddit.samples '
        "WHERE track = 'normal' ORDER BY index"
    )
    assert [sample["value"] for sample in samples] == expected.tolist()
    start = night.start_timestamp
    assert [s["us"] for s in samples] == [round((start + i * 0.2 / 28) * 1e6) for i in range(len(expected))]


# --- 13 to 18 ---------------------------------------------------------------------------------------


async def test_row_13_error_code(open_pipeline, manual_clock, night):
    """Any integer is kept; a missing one is NULL; one that is no integer is NULL and noted."""
    pipeline = await opened(open_pipeline, manual_clock)
    codes = [0, 7, -1, 2**31 - 1, None, "broken", 2**31, True]
    for number, code in enumerate(codes):
        pipeline.cloud.put(USER, night(NOW - DAY + number * 1000, error_code=code))
    session = night(NOW - 2 * DAY)
    del session["error_code"]
    pipeline.cloud.put(USER, session)
    await pipeline.once()
    rows = await pipeline.fetch("SELECT error_code FROM beddit.sessions ORDER BY session_id")
    assert [row["error_code"] for row in rows] == [None, 0, 7, -1, 2**31 - 1, None, None, None, None]
    notes = await pipeline.fetch("SELECT payload FROM sync.rejects ORDER BY item_key")
    assert [note["payload"] for note in notes] == ['"broken"', "2147483648", "true"]
    await pipeline.assert_ledger()


async def test_row_14_actigram(open_pipeline, manual_clock, night):
    """Movements are stored as they come, epochs of 3 s with large floats or of 60 s with counts."""
    pipeline = await opened(open_pipeline, manual_clock)
    tracks = {
        "actigram": {"value_data_type": "float32", "items": [[3, 1006.25], [6, 37064.41]]},
        "actigram_epochwise": {"value_data_type": "uint8", "items": [[0, 0], [60, 18]]},
    }
    pipeline.cloud.put(USER, night(NOW - DAY, time_value_tracks=tracks))
    await pipeline.once()
    rows = await pipeline.fetch("SELECT track, offset_seconds, value FROM beddit.track_values ORDER BY 1, 2")
    assert [tuple(row.values()) for row in rows] == [
        ("actigram", 3.0, 1006.25),
        ("actigram", 6.0, 37064.41),
        ("actigram_epochwise", 0.0, 0.0),
        ("actigram_epochwise", 60.0, 18.0),
    ]


async def test_row_15_id_collisions(open_pipeline, manual_clock, night):
    """Two sessions of one second share an id: the newer one is kept whole, instants from its own start."""
    pipeline = await opened(open_pipeline, manual_clock)
    start = float(int(NOW - DAY))
    pipeline.cloud.put(USER, night(start + 0.1, level=50.0), updated=NOW - 100)
    await pipeline.once()
    pipeline.cloud.put(USER, night(start + 0.9, level=60.0), updated=NOW - 0.2)
    await pipeline.once()
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 1


async def test_row_15_ids_are_a_users_own(open_pipeline, manual_clock, night):
    """Two users' sessions with the same id are two sessions."""
    pipeline = await open_pipeline(None, tokens={1: "token-one", 2: "token-two"}, clock=manual_clock(NOW))
    pipeline.cloud.put(1, night(NOW - DAY, level=50.0))
    pipeline.cloud.put(2, night(NOW - DAY, level=60.0))
    await pipeline.once()
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 2


async def test_row_16_deletion(open_pipeline, manual_clock):
    """What the cloud no longer holds stays in the warehouse, raw signal included."""
    study = Study(users=(USER,), nights=3, hours=0.1)
    pipeline = await open_pipeline(study, clock=manual_clock(NOW + 30 * DAY))
    await pipeline.once()
    truth = {USER: pipeline.cloud.truth(USER)}
    pipeline.cloud.remove(USER, study.night(USER, 1).session_id)
    await pipeline.once()
    await pipeline.backfill(reload=True)
    await pipeline.assert_truth(truth)


async def test_row_17_non_finite_numbers(open_pipeline):
    """NaN and Infinity become one reject each, with place and payload; their neighbours keep their index."""
    study = Study(users=(USER,), nights=2, hours=0.2, raw_signal=False)
    pipeline = await open_pipeline(study, behaviour=Behaviour(non_finite=True))
    (outcome,) = await pipeline.once()
    expected, rejected = [], {}
    for session_id, session in pipeline.cloud.truth(USER).items():
        for track, content in session["time_value_tracks"].items():
            for index, (time, value) in enumerate(content["items"]):
                if index % 100 == 1:
                    written = ("NaN", "Infinity", "-Infinity")[index // 100 % 3]
                    rejected[f"{USER}/{session_id}/{track}[{index}]"] = [time, written]
                else:
                    expected.append((session_id, track, index, float(time), float(value)))
    rows = await pipeline.fetch(
        "SELECT session_id, track, index, offset_seconds, value FROM beddit.track_values"
    )
    assert sorted(tuple(row.values()) for row in rows) == sorted(expected)
    notes = await pipeline.fetch("SELECT item_key, payload ->> 1 AS value FROM sync.rejects")
    found = {note["item_key"]: note["value"] for note in notes}
    names = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    assert found == {key: names[value] for key, (_, value) in rejected.items()}
    assert outcome.tally.rejected == len(rejected)
    await pipeline.assert_ledger()


async def test_row_18_another_users_id(open_pipeline, manual_clock, night):
    """A token that may not see the configured user stops that account and says so; others complete."""
    pipeline = await open_pipeline(None, tokens={1: "token-one", 2: "token-two"}, clock=manual_clock(NOW))
    for user in (1, 2):
        pipeline.cloud.put(user, night(NOW - DAY))
    right = pipeline.settings.accounts["user1"]
    accounts = {"user1": right, "user2": replace(right, user_id=2)}
    pipeline.change(accounts=accounts)
    good, bad = await pipeline.run(Task("once"))
    assert good.error is None
    assert isinstance(bad.error, AuthenticationError)
    assert await pipeline.value("SELECT array_agg(user_id) FROM beddit.sessions") == [1]
    assert len([r for r in pipeline.cloud.requests if "/user/2/" in r.path]) == 1
