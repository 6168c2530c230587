"""Raw signal: every type, every trouble on the way, and who may not be asked for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from sync.emulators.beddit import HTML_PAGE, BlobForm, Fault
from sync.model import Task
from sync.sources.beddit.cursor import as_time
from sync.sources.beddit.source import GROUP, BedditSource

DAY = 86_400.0
NOW = 1_711_000_000.5
START = NOW - DAY
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}
DTYPES = {
    "uint8": "u1",
    "int8": "i1",
    "uint16": "<u2",
    "int16": "<i2",
    "uint32": "<u4",
    "int32": "<i4",
    "float32": "<f4",
    "float64": "<f8",
}
FRAMES = 3000
BLOB = np.arange(FRAMES * 2, dtype="<u2").tobytes()
DECLARED = {"normal": {"samples_per_frame": 2, "data_type": "uint16"}}
CHUNKS = "SELECT ctid::text, xmin::text FROM beddit.sample_chunks ORDER BY 1"


async def opened(open_pipeline, manual_clock, night, *, blob=BLOB, sampled=None, **fields):
    """A pipeline for one user with one night of 3,000 frames and its raw signal."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW))
    pipeline.cloud.put(USER, night(START, sampled_tracks=DECLARED if sampled is None else sampled, **fields))
    if blob is not None:
        pipeline.cloud.set_blob(USER, int(START), "normal", blob)
    return pipeline


async def only_track(pipeline):
    """The only raw signal, as users see it."""
    (row,) = await pipeline.fetch("SELECT *, next_attempt_at - now() AS wait FROM beddit.sampled_tracks")
    return row


def spooled(pipeline):
    """What lies in the spool folder."""
    folder = pipeline.settings.spool
    return [path.name for path in folder.iterdir()] if folder.exists() else []


async def is_due_again(pipeline):
    """Let the wait for the next attempt be over."""
    await pipeline.pool.execute("UPDATE beddit.blob_attempts SET next_attempt_at = now() - interval '1 s'")


# --- types and lengths --------------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", DTYPES)
async def test_every_type_arrives(open_pipeline, manual_clock, night, data_type):
    """Each of the eight types keeps every value, its extremes and what is not finite included."""
    dtype = np.dtype(DTYPES[data_type])
    rng = np.random.default_rng(1)
    samples = np.frombuffer(rng.bytes(FRAMES * 2 * dtype.itemsize), dtype).copy()
    if dtype.kind == "f":
        finite = np.finfo(dtype)
        samples = rng.normal(0, 1e3, FRAMES * 2).astype(dtype)
        samples[:5] = [np.nan, np.inf, -np.inf, finite.max, finite.tiny]
    else:
        samples[:2] = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    sampled = {"normal": {"samples_per_frame": 2, "data_type": data_type}}
    pipeline = await opened(open_pipeline, manual_clock, night, blob=samples.tobytes(), sampled=sampled)
    await pipeline.once()
    await pipeline.assert_truth()
    row = await only_track(pipeline)
    assert (row["status"], row["reason"], row["sample_count"]) == ("complete", None, FRAMES * 2)
    assert row["sample_rate"] == pytest.approx(10.0)


@pytest.mark.parametrize("data_type", ["int24", "UINT16", "", None])
async def test_an_unknown_type_keeps_length_and_hash(open_pipeline, manual_clock, night, data_type):
    """A type that nobody documented is kept as length and SHA-256, and asked for once only."""
    sampled = {"normal": {"samples_per_frame": 2, "data_type": data_type}}
    pipeline = await opened(open_pipeline, manual_clock, night, blob=b"abc", sampled=sampled)
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["sample_count"]) == ("unsupported", None)
    assert row["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert await pipeline.value("SELECT byte_count FROM beddit.blob_records") == 3
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert pipeline.cloud.requests_to("blob") == ()


@pytest.mark.parametrize(
    ("size", "count"),
    [(FRAMES * 2, FRAMES), (FRAMES * 8, FRAMES * 4), (FRAMES * 4 - 1, FRAMES * 2 - 1), (0, 0), (1, 0)],
    ids=["half", "twice", "odd", "empty", "one-byte"],
)
async def test_a_length_that_does_not_fit(open_pipeline, manual_clock, night, size, count):
    """It is stored as it is, with both counts and the reason, and is not asked for again."""
    pipeline = await opened(open_pipeline, manual_clock, night, blob=(BLOB * 2)[:size])
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["sample_count"], row["expected_count"]) == ("mismatch", count, FRAMES * 2)
    assert f"{size:,} bytes" in row["reason"] or f"{count:,} samples" in row["reason"]
    values = await pipeline.fetch("SELECT value FROM beddit.samples ORDER BY index")
    whole = np.frombuffer((BLOB * 2)[: count * 2], "<u2")
    assert [value["value"] for value in values] == whole.tolist()
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert pipeline.cloud.requests_to("blob") == ()


async def test_a_session_without_frame_length(open_pipeline, manual_clock, night):
    """Nothing is known of its rate: complete, values kept, with rate, times and expected count NULL."""
    pipeline = await opened(open_pipeline, manual_clock, night, frame_length=None)
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["sample_rate"], row["expected_count"]) == ("complete", None, None)
    (found,) = await pipeline.fetch('SELECT count(*), count("time") AS times FROM beddit.samples')
    assert found == {"count": FRAMES * 2, "times": 0}
    await pipeline.assert_truth()


async def test_a_session_without_address(open_pipeline, manual_clock, night):
    """A track without address is absent; when the address comes, its samples do."""
    pipeline = await opened(open_pipeline, manual_clock, night, blob=None)
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "absent"
    pipeline.cloud.set_blob(USER, int(START), "normal", BLOB)
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(START, sampled_tracks=DECLARED))
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "complete"
    await pipeline.assert_truth()


# --- trouble on the way ---------------------------------------------------------------------------------


async def test_a_cut_download_is_begun_again(open_pipeline, manual_clock, night):
    """Two cuts cost two more requests; the third answer is stored whole."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(Fault(cut_after=5000), times=2, host="blob")
    await pipeline.once()
    await pipeline.assert_truth()
    assert len(pipeline.cloud.requests_to("blob")) == 3


async def test_a_download_that_is_always_cut_stays_pending(open_pipeline, manual_clock, night):
    """Nothing of it is stored; it waits for minutes, then longer, and arrives once the way is clear."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    waits = []
    for attempt in range(1, 4):
        pipeline.cloud.fail_next(Fault(cut_after=5000), times=50, host="blob")
        await pipeline.once()
        row = await only_track(pipeline)
        assert (row["status"], row["attempts"], row["sample_count"]) == ("pending", attempt, None)
        assert "cut off" in row["reason"]
        assert await pipeline.value("SELECT count(*) FROM beddit.sample_chunks") == 0
        assert spooled(pipeline) == []
        waits.append(row["wait"].total_seconds())
        pipeline.cloud.forget_requests()
        await pipeline.once()
        assert pipeline.cloud.requests_to("blob") == ()  # not before its time
        await is_due_again(pipeline)
    assert 200 < waits[0] < waits[1] < waits[2] < 3600
    pipeline.cloud.faults.clear()
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["attempts"], row["next_attempt_at"]) == ("complete", 4, None)
    await pipeline.assert_truth()


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_blob_host_in_trouble_is_no_failed_run(open_pipeline, manual_clock, night, status):
    """The session is there, its signal is pending, and the run is a success."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(Fault(status=status), times=50, host="blob")
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "pending"
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 1
    assert spooled(pipeline) == []


async def test_a_blob_that_is_too_large_is_unavailable(open_pipeline, manual_clock, night):
    """More bytes than configured are refused, announced or not, and leave nothing behind."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.change(blob_max_bytes=len(BLOB) - 1)
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["sample_count"]) == ("unavailable", None)
    assert f"{len(BLOB) - 1:,} bytes" in row["reason"]
    assert spooled(pipeline) == []
    pipeline.change(blob_max_bytes=len(BLOB))
    await is_due_again(pipeline)
    await pipeline.once()
    await pipeline.assert_truth()


@pytest.mark.parametrize(
    "page",
    [HTML_PAGE, Fault(body=b'{"error": "x"}', content_type="application/json")],
    ids=["html", "json"],
)
async def test_a_page_is_not_stored_as_signal(open_pipeline, manual_clock, night, page):
    """A portal's page with status 200 is no signal."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(page, times=50, host="blob")
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["sha256"]) == ("unavailable", None)
    assert page.content_type in row["reason"]


async def test_a_session_that_is_not_listed_any_more(open_pipeline, manual_clock, night):
    """A blob whose address was refused and whose session is gone is unavailable, and says so."""
    pipeline = await opened(open_pipeline, manual_clock, night)

    async def vanish(request):
        if request.host == "blob":
            pipeline.cloud.on_request = None
            pipeline.cloud.fail_next(Fault(status=404), host="blob")
            pipeline.cloud.remove(USER, int(START))

    pipeline.cloud.on_request = vanish
    await pipeline.once()
    row = await only_track(pipeline)
    assert row["status"] == "unavailable"
    assert "does not list" in row["reason"]


async def test_cancelling_a_download_leaves_no_file(open_pipeline, manual_clock, night):
    """The spool folder is empty after a run was cancelled in the middle of a blob."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    reached = asyncio.Event()

    async def note(request):
        if request.host == "blob":
            reached.set()

    pipeline.cloud.on_request = note
    pipeline.limits = replace(pipeline.limits, read_timeout_s=60)
    pipeline.cloud.fail_next(Fault(drip=30, drip_bytes=100), host="blob")
    running = asyncio.create_task(pipeline.run(Task("once")))
    async with asyncio.timeout(30):
        await reached.wait()
        while not spooled(pipeline):  # noqa: ASYNC110 - nothing tells when a file appears
            await asyncio.sleep(0)  # until the file is there
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert spooled(pipeline) == []
    pipeline.cloud.on_request = None
    await pipeline.once()
    await pipeline.assert_truth()
    assert spooled(pipeline) == []


async def test_clocks_that_differ_do_not_hammer_the_blob_host(open_pipeline, manual_clock, night):
    """A client whose clock is behind the database's tries a refused blob once, and then waits like others."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.clock = manual_clock(time.time() - 30)
    pipeline.cloud.fail_next(Fault(status=404), times=100, host="blob")
    await pipeline.once()
    assert (await only_track(pipeline))["attempts"] == 1
    assert len(pipeline.cloud.requests_to("blob")) == 2  # the second with an address that was listed anew
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert pipeline.cloud.requests_to("blob") == ()


# --- versions -------------------------------------------------------------------------------------------


async def test_a_session_put_again_fetches_its_signal_again(open_pipeline, manual_clock, night):
    """Equal bytes rewrite no chunk; other bytes replace all of them."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.once()
    before = await pipeline.fetch(CHUNKS)
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(START, level=70.0, sampled_tracks=DECLARED))
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert len(pipeline.cloud.requests_to("blob")) == 1
    assert await pipeline.fetch(CHUNKS) == before
    pipeline.cloud._clock.now += 60
    pipeline.cloud.set_blob(USER, int(START), "normal", BLOB[::-1])
    pipeline.cloud.put(USER, night(START, level=71.0, sampled_tracks=DECLARED))
    await pipeline.once()
    await pipeline.assert_truth()


async def test_another_content_under_an_equal_stamp_fetches_the_signal_again(
    open_pipeline, manual_clock, night
):
    """The signal belongs to the content, also where the stamp does not tell the contents apart."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.once()
    pipeline.cloud.set_blob(USER, int(START), "normal", BLOB[::-1])
    pipeline.cloud.put(USER, night(START, level=71.0, sampled_tracks=DECLARED), updated=NOW)
    pipeline.cloud.fail_next(Fault(status=404), times=2, host="blob")
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "unavailable"
    await is_due_again(pipeline)
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "complete"
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert not pipeline.cloud.requests_to("blob")
    await pipeline.assert_truth()


@pytest.mark.parametrize(
    ("before", "after"), [("uint16", "int16"), ("int24", "uint16"), ("uint16", "float32")]
)
async def test_a_type_that_was_corrected_is_decoded_anew(open_pipeline, manual_clock, night, before, after):
    """The same bytes under another type are other samples."""
    sampled = {"normal": {"samples_per_frame": 2, "data_type": before}}
    blob = np.arange(0x3F80, 0x3F80 + FRAMES * 2, dtype="<u2").tobytes() + b"\x00\xc0" * 2
    pipeline = await opened(open_pipeline, manual_clock, night, blob=blob, sampled=sampled)
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(
        USER, night(START, sampled_tracks={"normal": {"samples_per_frame": 2, "data_type": after}})
    )
    await pipeline.once()
    await pipeline.assert_truth()


@pytest.mark.parametrize("trouble", [Fault(status=404), Fault(status=500), Fault(cut_after=100), HTML_PAGE])
async def test_a_failed_second_fetch_keeps_the_old_samples(open_pipeline, manual_clock, night, trouble):
    """Raw signal is replaced by a whole blob only, never by its absence."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.once()
    before = await pipeline.fetch(CHUNKS)
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(START, level=70.0, sampled_tracks=DECLARED))
    pipeline.cloud.fail_next(trouble, times=50, host="blob")
    await pipeline.once()
    assert await pipeline.fetch(CHUNKS) == before
    row = await only_track(pipeline)
    assert row["status"] in {"pending", "unavailable"}  # of the version that the session is at now
    assert row["sample_count"] == FRAMES * 2
    assert row["reason"]
    await pipeline.assert_truth()


async def test_a_session_that_names_no_tracks_any_more_keeps_its_samples(open_pipeline, manual_clock, night):
    """A newer version without sampled tracks destroys no raw signal."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.once()
    before = await pipeline.fetch(CHUNKS)
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(START, level=70.0))
    await pipeline.once()
    assert await pipeline.fetch(CHUNKS) == before
    assert (await only_track(pipeline))["status"] == "complete"


@pytest.mark.parametrize("form", [BlobForm.GZIP, BlobForm.GZIP_UNLABELLED])
async def test_a_blob_that_was_stored_compressed(open_pipeline, manual_clock, night, form):
    """One that says so is unpacked; one that does not say so is stored as it is, as a mismatch."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, blob_form=form)
    await pipeline.once()
    if form is BlobForm.GZIP:
        await pipeline.assert_truth()
    else:
        assert (await only_track(pipeline))["status"] == "mismatch"


# --- who is not asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1:{port}/x",
        "https://127.1:{port}/x",
        "https://localhost:{port}/x",
        "https://10.1.2.3/x",
        "https://192.168.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]:{port}/x",
        "https://[::ffff:127.0.0.1]:{port}/x",
        "https://[fe80::1]/x",
        "https://0.0.0.0:{port}/x",
        "https://2130706433:{port}/x",
        "http://127.0.0.1:{port}/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "//127.0.0.1/x",
        "/etc/passwd",
        "https://user:password@127.0.0.1/x",
    ],
)
async def test_a_private_address_is_refused(open_pipeline, manual_clock, night, address):
    """Nobody is connected to; the session loads, and the signal says why it is unavailable."""
    port = 9
    sampled = {"normal": {**DECLARED["normal"], "data_url": address.format(port=port) + "?Signature=geheim"}}
    pipeline = await opened(open_pipeline, manual_clock, night, blob=None, sampled=sampled)
    port = pipeline.cloud.blob_url.rpartition(":")[2]
    sampled["normal"]["data_url"] = address.format(port=port) + "?Signature=geheim"
    pipeline.cloud.put(USER, night(START, sampled_tracks=sampled))
    pipeline.change(allow_private_blob_hosts=False)
    await pipeline.once()
    row = await only_track(pipeline)
    assert row["status"] == "unavailable"
    assert "geheim" not in row["reason"]
    assert "password" not in row["reason"]
    if (
        address.startswith("http")
        and "@" not in address
        and not any(n in address for n in ("127.1:", "213070"))
    ):
        assert "beddit.allow_private_blob_hosts" in row["reason"]
    assert pipeline.cloud.requests_to("blob") == ()
    assert await pipeline.value("SELECT count(*) FROM beddit.track_values") == 4


async def test_the_emulators_own_addresses_need_the_setting(open_pipeline, manual_clock, night):
    """With the setting off, a blob on loopback is refused; with it on, the same blob arrives."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.change(allow_private_blob_hosts=False)
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "unavailable"
    assert pipeline.cloud.requests_to("blob") == ()
    pipeline.change(allow_private_blob_hosts=True)
    await is_due_again(pipeline)
    await pipeline.once()
    await pipeline.assert_truth()


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://u:p@h/x", "https://[bad/"]
)
async def test_a_redirect_that_leads_nowhere_good(open_pipeline, manual_clock, night, location):
    """Redirects are judged like addresses: the blob is unavailable, all else is there."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(Fault(location=location), times=50, host="blob")
    await pipeline.once()
    row = await only_track(pipeline)
    assert (row["status"], row["sha256"]) == ("unavailable", None)
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 1


async def test_a_redirect_to_another_address_of_the_blob_is_followed(open_pipeline, manual_clock, night):
    """An object store that sends us on to the right place is followed there."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(
        Fault(location=pipeline.cloud.signed_url(USER, int(START), "normal")), host="blob"
    )
    await pipeline.once()
    await pipeline.assert_truth()


# --- saved files beside the cloud -----------------------------------------------------------------------


def saved_span():
    """The task that reads what a saved folder would hold of the only night."""
    return Task("archive", since=as_time(START - DAY), until=as_time(START + DAY))


async def test_a_saved_copy_does_not_hide_a_signal_that_is_still_to_come(open_pipeline, manual_clock, night):
    """A session loaded from a file that names no addresses leaves the cloud's raw signal due."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(Fault(status=503), times=50, host="blob")
    await pipeline.once()
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, data_urls=False)
    await pipeline.run(saved_span())
    assert (await only_track(pipeline))["status"] == "pending"
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, data_urls=True)
    pipeline.cloud.faults.clear()
    await is_due_again(pipeline)
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "complete"
    await pipeline.assert_truth()


async def test_a_signal_whose_address_is_named_later_under_the_same_stamp(open_pipeline, manual_clock, night):
    """What a saved file could not name, the cloud does: the samples arrive without a new version."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, data_urls=False)
    await pipeline.run(saved_span())
    assert (await only_track(pipeline))["status"] == "absent"
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, data_urls=True)
    await pipeline.once()
    assert (await only_track(pipeline))["status"] == "complete"
    await pipeline.assert_truth()


# --- what must not replace what is there ----------------------------------------------------------------


@pytest.mark.parametrize("newer", [b"", BLOB[:-2], BLOB[:4000]], ids=["empty", "shorter", "short"])
@pytest.mark.parametrize("frame_length", [0.2, None])
async def test_less_signal_replaces_none(open_pipeline, manual_clock, night, newer, frame_length):
    """Also where nothing says how long a signal should be, a shorter one is no reason to lose a whole one."""
    pipeline = await opened(open_pipeline, manual_clock, night, frame_length=frame_length)
    await pipeline.once()
    before = await pipeline.fetch(CHUNKS)
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(START, level=70.0, sampled_tracks=DECLARED, frame_length=frame_length))
    pipeline.cloud.set_blob(USER, int(START), "normal", newer)
    await pipeline.once()
    assert await pipeline.fetch(CHUNKS) == before
    row = await only_track(pipeline)
    assert (row["status"], row["sample_count"]) == ("unavailable", FRAMES * 2)
    assert "stays" in row["reason"]


async def test_nothing_replaces_half_a_signal(open_pipeline, manual_clock, night):
    """An empty answer is no newer version of a signal that did not fit its session."""
    pipeline = await opened(open_pipeline, manual_clock, night, blob=BLOB[:4000])
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(START, level=70.0, sampled_tracks=DECLARED))
    pipeline.cloud.set_blob(USER, int(START), "normal", b"")
    await pipeline.once()
    assert await pipeline.value("SELECT count(*) FROM beddit.samples") == 2000


# --- patience -------------------------------------------------------------------------------------------


async def test_patience_is_with_one_version(open_pipeline, manual_clock, night):
    """Neither what went well nor another version's failures make the first failure wait longer."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.clock = pipeline.cloud._clock
    for version in range(5):
        pipeline.cloud._clock.now += 60
        pipeline.cloud.put(USER, night(START, level=float(version), sampled_tracks=DECLARED))
        await pipeline.once()
    for version in range(5, 8):
        pipeline.cloud._clock.now += 60
        pipeline.cloud.put(USER, night(START, level=float(version), sampled_tracks=DECLARED))
        pipeline.cloud.fail_next(Fault(status=503), times=50, host="blob")
        await pipeline.once()
        row = await only_track(pipeline)
        assert (row["status"], row["attempts"]) == ("pending", 1)
        assert row["next_attempt_at"] == as_time(pipeline.cloud._clock.now + 300)


async def test_an_older_version_s_failure_is_not_shown(open_pipeline, manual_clock, night):
    """Reason, attempts and the next attempt are those of the version that the session is at."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(Fault(status=503), times=50, host="blob")
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, data_urls=False)
    pipeline.cloud.put(USER, night(START, level=70.0, sampled_tracks=DECLARED))
    await pipeline.once()
    row = await only_track(pipeline)
    shown = (row["status"], row["reason"], row["attempts"], row["next_attempt_at"])
    assert shown == ("absent", None, 0, None)


async def test_an_end_that_is_no_end_does_not_list_everything_again(open_pipeline, manual_clock, night):
    """A session that ends in the year 9000 is listed again for its address; the years after it are not."""
    pipeline = await opened(open_pipeline, manual_clock, night, end_timestamp=221_845_392_000.0)
    pipeline.cloud.fail_next(Fault(status=403), host="blob")
    await pipeline.once()
    listed = [
        float(request.query["end_timestamp"])
        for request in pipeline.cloud.requests_to("api")
        if request.query.get("start_timestamp") == f"{START - 1:.6f}"
    ]
    assert listed
    assert max(listed) <= START + 2 * DAY + 2


async def test_what_is_due_is_asked_for_once_and_not_for_each_group(
    open_pipeline, manual_clock, night, monkeypatch
):
    """Looking for what is due takes the longer the more nights there are: many groups cost two looks."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    nights = 3 * GROUP
    for number in range(1, nights):
        start = START - number * DAY
        pipeline.cloud.put(USER, night(start, sampled_tracks=DECLARED))
        pipeline.cloud.set_blob(USER, int(start), "normal", BLOB)
    await pipeline.run(Task("once"))
    await pipeline.pool.execute("DELETE FROM beddit.blob_records")
    looks, due = [], BedditSource._due

    async def counted(source, context, at_hand):
        looks.append(found := await due(source, context, at_hand))
        return found

    monkeypatch.setattr(BedditSource, "_due", counted)
    await pipeline.run(Task("once"))
    assert len(looks[0]) == nights
    assert len(looks) <= 3
    assert await pipeline.fetch("SELECT count(*) FROM beddit.blob_records") == [{"count": nights}]
