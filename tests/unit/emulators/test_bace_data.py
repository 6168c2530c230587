"""Rows of data: resolutions follow the interval asked for, buckets add up, every switch switches."""

import itertools
import json
import math

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.emulators.bace import (
    BaceCloud,
    Behaviour,
    DataSession,
    Dataset,
    Excess,
    OddValues,
    Samples,
    Sorting,
    identifier,
)
from sync.emulators.bace.levels import joined, raw

DAY = 86_400
T0 = 1_648_598_400  # midnight, UTC
GROUP = identifier("a group")
DEVICE = identifier("a device")
PULSE = Dataset.of(GROUP, DEVICE, 6000)
BATTERY = Dataset.of(GROUP, DEVICE, 5205)


class Visitor:
    """A plain HTTP client of a cloud's data."""

    def __init__(self, http, cloud):
        self.http, self.cloud = http, cloud

    async def ask(self, query):
        """The status and the decoded body of an answer."""
        url = f"{self.cloud.base_url}/api/v2/data-downsampled?{query}"
        headers = {"Authorization": f"Bearer {self.cloud.token()}"}
        async with self.http.get(url, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def rows(self, query="", **window):
        """All rows of a successful answer, from one page."""
        status, body = await self.ask(f"{query}&{between(**window)}&per-page=1000000")
        assert status == 200, body
        assert body["_meta"]["pageCount"] <= 1
        return body["items"]

    async def stamps(self, query="", **window):
        """The rows' stamps."""
        return [row["timestamp_seconds"] for row in await self.rows(query, **window)]

    async def width(self, length, query=""):
        """What the resolution looks like for an interval of so many seconds from midnight."""
        counts = [row["count_val"] for row in await self.rows(query, gte=T0, lt=T0 + length)]
        return counts[0]


def between(**window):
    """A filter on the time."""
    return "&".join(f"filter[timestamp_seconds][{op}]={value}" for op, value in window.items())


def steady(*, seconds=DAY, every=1.0, dataset=PULSE, start=T0, **more):
    """A session with a sample every so often from its start on; the values count up."""
    times = np.arange(start * 1000, (start + seconds) * 1000, round(every * 1000), dtype=np.int64)
    samples = Samples((dataset,), np.zeros(len(times), np.int64), times, np.arange(len(times)) % 1000 + 0.0)
    return DataSession.of(samples, start=start, end=start + seconds, **more)


def of(session):
    """The filter for one session."""
    return f"filter[id_data_session]={session.id}"


@pytest.fixture
async def cloud():
    """A running cloud without sessions, long after all that tests put into it."""
    behaviour = Behaviour(data_pages_to=1_000_000)
    async with BaceCloud(behaviour=behaviour, clock=lambda: T0 + 400.0 * DAY) as running:
        yield running


@pytest.fixture
async def visitor(cloud):
    """A client of that cloud."""
    async with aiohttp.ClientSession() as http:
        yield Visitor(http, cloud)


@pytest.fixture
def behave(cloud):
    """Change the cloud's behaviour."""

    def change(**switches):
        cloud.behaviour = Behaviour(data_pages_to=1_000_000, **switches)

    return change


@pytest.fixture
def hold(cloud):
    """Put sessions into the cloud; the last one comes back."""

    def put(*sessions):
        for session in sessions:
            cloud.put(session)
        return sessions[-1]

    return put


# --- the documents' example -----------------------------------------------------------------------


async def test_a_session_s_rows_look_like_the_documents_example(visitor, hold, cloud):
    """Raw rows carry min = max = avg, count 1 and stamps to the millisecond; whole numbers are integers."""
    start = 1_648_641_893
    points = [(BATTERY, start + 46.995, 3.95), (BATTERY, start + 346.995, 3.94), (BATTERY, start + 400, 4)]
    session = hold(DataSession.of(points, start=start, end=1_648_643_067))
    status, answer = await visitor.ask(of(session))
    assert status == 200
    assert list(answer) == ["items", "_links", "_meta"]
    about = {
        "id_container_data_latest": BATTERY.id_container_data_latest,
        "id_group": GROUP,
        "datatype": 5205,
        "source_device": DEVICE,
    }
    expected = [(1648641939.995, 3.95), (1648642239.995, 3.94), (start + 400, 4)]
    assert [list(row.items()) for row in answer["items"]] == [
        [
            *about.items(),
            ("timestamp_seconds", stamp),
            ("min_val", value),
            ("max_val", value),
            ("avg_val", value),
            ("count_val", 1),
        ]
        for stamp, value in expected
    ]
    assert isinstance(answer["items"][2]["timestamp_seconds"], int)
    assert isinstance(answer["items"][2]["avg_val"], int)
    assert answer["_meta"] == {"totalCount": 3, "pageCount": 1, "currentPage": 1, "perPage": 500}
    href = f"{cloud.base_url}/api/v2/data-downsampled?filter%5Bid_data_session%5D={session.id}&page=1"
    assert answer["_links"] == {name: {"href": href} for name in ("self", "first", "last")}


async def test_pages_of_rows_are_cut_to_the_range_of_the_endpoint(visitor, hold, cloud):
    """500 rows a page unless asked otherwise, up to a maximum that nobody is told."""
    cloud.behaviour = Behaviour(data_pages_to=700)
    session = hold(steady(seconds=1800))
    for query, size, pages in (("", 500, 4), ("&per-page=100", 100, 18), ("&per-page=9999", 700, 3)):
        _, answer = await visitor.ask(of(session) + query)
        meta = answer["_meta"]
        assert (meta["perPage"], meta["pageCount"], len(answer["items"])) == (size, pages, size)
    seen = []
    for page in range(1, 5):
        _, answer = await visitor.ask(f"{of(session)}&page={page}")
        seen += [row["timestamp_seconds"] for row in answer["items"]]
    assert seen == list(range(T0, T0 + 1800))


# --- resolutions ----------------------------------------------------------------------------------


async def test_the_length_of_the_interval_chooses_the_resolution(visitor, hold):
    """Up to an hour raw, up to a day minutes, up to four weeks hours, else days."""
    session = hold(steady(seconds=2 * DAY))
    lengths = {3600: 1, 3601: 60, DAY: 60, DAY + 1: 3600, 28 * DAY: 3600, 28 * DAY + 1: DAY}
    for length, count in lengths.items():
        assert await visitor.width(length, of(session)) == count


async def test_the_thresholds_are_switches(visitor, hold, behave):
    """Each threshold moves, and may exclude the exact length."""
    session = hold(steady(seconds=2 * DAY))
    behave(raw_up_to=60, minutes_up_to=7200, hours_up_to=DAY, thresholds_inclusive=False)
    for length, count in {59.999: 1, 60: 60, 7200: 3600, DAY: DAY}.items():
        assert await visitor.width(length, of(session)) == count


async def test_an_open_interval_is_answered_with_days(visitor, hold):
    """Without both bounds the answer is per day, stamped with UTC midnight."""
    session = hold(steady(seconds=DAY, start=T0 + 3600))
    for window in ({"gte": T0}, {"lt": T0 + 9 * DAY}):
        assert await visitor.stamps(of(session), **window) == [T0, T0 + DAY]
    assert [row["count_val"] for row in await visitor.rows()] == [DAY - 3600, 3600]


async def test_a_session_alone_is_answered_by_its_own_length(visitor, hold, behave):
    """With the session and no time its span decides, or with the switch nothing does."""
    short, long = hold(steady(seconds=1174)), hold(steady(seconds=2 * DAY, dataset=BATTERY, label="long"))
    assert len(await visitor.rows(of(short))) == 1174
    assert len(await visitor.rows(of(long))) == 48
    behave(session_span_decides=False)
    assert len(await visitor.rows(of(short))) == 1
    assert await visitor.stamps(of(short), gte=T0, lt=T0 + 3) == [T0, T0 + 1, T0 + 2]


async def test_a_bucket_answers_by_its_start(visitor, hold):
    """Buckets whose start is in the range are answered whole; others not at all."""
    session = hold(steady(seconds=DAY))
    assert await visitor.stamps(of(session), gte=T0 + 30, lt=T0 + 7200) == list(range(T0 + 60, T0 + 7200, 60))
    rows = await visitor.rows(of(session), gt=T0, lte=T0 + 7200)
    assert [rows[0]["timestamp_seconds"], rows[-1]["timestamp_seconds"]] == [T0 + 60, T0 + 7200]
    assert {row["count_val"] for row in rows} == {60}


async def test_sparse_samples_look_like_single_ones_in_every_resolution(visitor, hold):
    """A battery read every 300 s comes as minutes with count 1, at instants that are not its own."""
    session = hold(steady(every=300, dataset=BATTERY, start=T0 + 47))
    rows = await visitor.rows(of(session), gte=T0, lt=T0 + DAY)
    assert {row["count_val"] for row in rows} == {1}
    assert {row["timestamp_seconds"] % 60 for row in rows} == {0}
    raw_rows = await visitor.rows(of(session), gte=T0, lt=T0 + 3600)
    assert {row["timestamp_seconds"] % 60 for row in raw_rows} == {47}


async def test_bounds_are_compared_to_the_fraction(visitor, hold):
    """Bounds may have fractions; gt and lt exclude their instant, gte and lte include it."""
    points = [(PULSE, T0 + offset, 1) for offset in (0.995, 1.5, 2.25)]
    session = hold(DataSession.of(points, start=T0, end=T0 + 10))
    assert await visitor.stamps(of(session), gte=T0 + 0.995, lte=T0 + 2.25) == [
        T0 + 0.995,
        T0 + 1.5,
        T0 + 2.25,
    ]
    assert await visitor.stamps(of(session), gt=T0 + 0.995, lt=T0 + 2.25) == [T0 + 1.5]
    assert await visitor.stamps(of(session), gte=T0 + 0.996, lt=T0 + 2.2501) == [T0 + 1.5, T0 + 2.25]


samples = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 4 * DAY * 1000),
        st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3)),
    ),
    min_size=1,
    max_size=60,
)


@given(samples=samples, width=st.sampled_from([60_000, 3_600_000, 86_400_000]))
def test_buckets_obey_their_laws(samples, width):
    """Buckets are aligned, lie in order, add up to the samples, and hold their min, max and avg."""
    datasets = tuple(Dataset.of(GROUP, DEVICE, 6000 + i) for i in range(3))
    which, offsets, values = zip(*samples, strict=True)
    times = np.array(offsets, dtype=np.int64) + T0 * 1000
    ordered = Samples(datasets, np.array(which), times, np.array(values)).ordered()
    level = raw(ordered, whole_seconds=False).in_buckets(width)
    expected = {}
    for index, time, value in zip(which, times.tolist(), values, strict=True):
        dataset = ordered.datasets.index(datasets[index])
        expected.setdefault((dataset, time - time % width), []).append(value)
    keys = list(zip(level.dataset.tolist(), level.stamp.tolist(), strict=True))
    assert keys == sorted(expected)
    assert level.count.tolist() == [len(expected[key]) for key in keys]
    assert level.low.tolist() == [min(expected[key]) for key in keys]
    assert level.high.tolist() == [max(expected[key]) for key in keys]
    means = [math.fsum(expected[key]) / len(expected[key]) for key in keys]
    assert np.allclose(level.mean(), means, rtol=1e-9, atol=1e-6)
    assert np.all((level.low <= level.mean()) & (level.mean() <= level.high))


@given(samples=samples, cut=st.integers(0, 60))
def test_rows_of_several_sessions_become_one_order(samples, cut):
    """Joined levels are what the joined samples would give."""
    datasets = tuple(Dataset.of(GROUP, DEVICE, 6000 + i) for i in range(3))
    which, offsets, values = (np.array(column) for column in zip(*samples, strict=True))
    times = offsets + T0 * 1000
    whole = Samples(datasets, which, times, values.astype(float)).ordered()
    first = np.arange(len(whole)) < cut
    parts = [raw(whole.where(mask), whole_seconds=False).in_buckets(60_000) for mask in (first, ~first)]
    merged = joined(parts, merge=60_000)
    straight = raw(whole, whole_seconds=False).in_buckets(60_000)
    for name in ("dataset", "stamp", "low", "high", "count"):
        assert np.array_equal(getattr(merged, name), getattr(straight, name))
    assert np.allclose(merged.total, straight.total)


async def test_coarse_answers_count_what_fine_answers_list(visitor, hold):
    """The counts of a session agree in every resolution."""
    session = hold(steady(seconds=3 * 3600, every=0.7))
    fine = [
        row
        for start in range(T0, T0 + 3 * 3600, 3600)
        for row in await visitor.rows(of(session), gte=start, lt=start + 3600)
    ]
    for length in (DAY, 7 * DAY, 100 * DAY):
        rows = await visitor.rows(of(session), gte=T0, lt=T0 + length)
        assert sum(row["count_val"] for row in rows) == len(fine)
        assert min(row["min_val"] for row in rows) == min(row["min_val"] for row in fine)


# --- filters --------------------------------------------------------------------------------------


async def test_rows_can_be_filtered_by_every_field(visitor, hold):
    """All fields of the row filter, alone and together, with ``in`` and ``or``."""
    other = Dataset.of(identifier("another group"), identifier("another device"), 6000)
    sets = (PULSE, BATTERY, other)
    first, second = (
        DataSession.of(
            [(one, T0 + i + n * 100, float(i)) for one in sets for i in range(10)], start=T0, label=f"s{n}"
        )
        for n in range(2)
    )
    hold(first, second)
    window = {"gte": T0, "lt": T0 + 3600}
    cases = {
        "": 60,
        "filter[datatype]=6000": 40,
        f"filter[source_device]={DEVICE}": 40,
        f"filter[id_group]={GROUP}&filter[datatype]=6000": 20,
        f"filter[id_container_data_latest][in][0]={PULSE.id_container_data_latest}"
        f"&filter[id_container_data_latest][in][]={other.id_container_data_latest}": 40,
        of(first): 30,
        f"filter[id_data_session][in][]={first.id}&filter[id_data_session][in][]={second.id}": 60,
        f"{of(first)}&filter[datatype]=5205": 10,
        f"{of(first)}&filter[avg_val][gte]=8.5": 3,
        f"{of(first)}&filter[count_val]=1&filter[min_val][lt]=1": 3,
        f"{of(first)}&filter[max_val][neq]=1": 27,
        f"{of(first)}&filter[max_val][in][]=1&filter[max_val][in][]=2": 6,
        f"{of(first)}&filter[or][0][datatype]=5205&filter[or][1][avg_val]=9": 12,
        f"filter[datatype][gt]=6000&filter[id_group]={GROUP}": 0,
        "filter[id_data_session]=nobody": 0,
    }
    for query, expected in cases.items():
        assert len(await visitor.rows(query, **window)) == expected, query


async def test_bad_filters_of_rows_are_refused(visitor):
    """Unknown attributes and bad values are a 422 here too."""
    for query in ("filter[foo]=1", "filter[timestamp_seconds][gte]=soon", "filter[datatype]=pulse"):
        status, body = await visitor.ask(query)
        assert status == 422
        assert body[0]["field"] == "filter"


async def test_fields_restrict_rows(visitor, hold):
    """``fields`` leaves the named ones."""
    session = hold(steady(seconds=1))
    _, body = await visitor.ask(f"{of(session)}&fields=timestamp_seconds,avg_val,foo")
    assert body["items"] == [{"timestamp_seconds": T0, "avg_val": 0}]


# --- order ----------------------------------------------------------------------------------------


async def test_rows_come_by_dataset_unless_sorted(visitor, hold, behave):
    """The default order is by dataset, or none at all; sorting works, or is ignored, or refused."""
    points = [(one, T0 + i, float(-i)) for one in (PULSE, BATTERY) for i in range(50)]
    session = hold(DataSession.of(points, start=T0))
    by_time = sorted([T0 + i for i in range(50)] * 2)
    assert await visitor.stamps(of(session)) == [T0 + i for i in range(50)] * 2
    assert await visitor.stamps(f"{of(session)}&sort=timestamp_seconds") == by_time
    assert await visitor.stamps(f"{of(session)}&sort=-timestamp_seconds") == by_time[::-1]
    assert await visitor.stamps(f"{of(session)}&sort=avg_val") == by_time[::-1]
    types = [row["datatype"] for row in await visitor.rows(f"{of(session)}&sort=-datatype")]
    assert types == [6000] * 50 + [5205] * 50
    behave(rows_shuffled=True)
    shuffled = await visitor.stamps(of(session))
    assert sorted(shuffled) == by_time
    assert shuffled not in (by_time, by_time[::-1], [T0 + i for i in range(50)] * 2)
    assert await visitor.stamps(f"{of(session)}&sort=timestamp_seconds") == by_time
    behave(rows_shuffled=True, data_sort=Sorting.IGNORED)
    assert await visitor.stamps(f"{of(session)}&sort=timestamp_seconds") == shuffled
    behave(data_sort=Sorting.REFUSED)
    assert (await visitor.ask(f"{of(session)}&sort=timestamp_seconds"))[0] == 422


async def test_equal_rows_may_change_places_between_answers(visitor, hold, behave):
    """With the switch, rows that sort does not tell apart come in another order every time."""
    session = hold(steady(seconds=50))
    behave(ties_shuffled=True)
    query = f"{of(session)}&sort=count_val"
    first, second = await visitor.stamps(query), await visitor.stamps(query)
    assert first != second
    assert sorted(first) == sorted(second) == await visitor.stamps(f"{of(session)}&sort=timestamp_seconds")


# --- more than a hundred datasets -----------------------------------------------------------------


async def test_more_than_100_datasets_are_not_served(visitor, hold, behave):
    """The limit counts datasets that match without the time: an error, a silent cut, or nothing."""
    sets = [Dataset.of(GROUP, identifier("device", i), 6000) for i in range(101)]
    points = [(one, T0 + i * 10.0, 1.0) for i, one in enumerate(sets)]
    session = hold(DataSession.of(points, start=T0, end=T0 + 1200))
    status, body = await visitor.ask(f"{of(session)}&{between(gte=T0, lt=T0 + 60)}")
    assert (status, body["type"]) == (400, "yii\\web\\BadRequestHttpException")
    behave(datasets_beyond=Excess.TRUNCATED)
    assert len(await visitor.rows(of(session))) == 100
    behave(datasets_beyond=Excess.SERVED)
    assert len(await visitor.rows(of(session))) == 101
    behave(datasets_to=10)
    some = "&".join(
        f"filter[id_container_data_latest][in][]={one.id_container_data_latest}" for one in sets[:10]
    )
    assert len(await visitor.rows(f"{of(session)}&{some}")) == 10


# --- the clock ------------------------------------------------------------------------------------


async def test_rows_appear_when_samples_arrive(visitor, hold, cloud):
    """A sample is answered once its time has come and it has arrived, not before."""
    points = Samples.of([(PULSE, T0 + 10.0, 1), (PULSE, T0 + 20.0, 2)], arrives=T0 + 30)
    session = hold(DataSession.of(points, start=T0, end=T0 + 100))
    clock = {"now": T0 + 29.9}
    cloud._clock = lambda: clock["now"]
    window = {"gte": T0, "lt": T0 + 60}
    assert await visitor.stamps(of(session), **window) == []
    clock["now"] = T0 + 30
    assert await visitor.stamps(of(session), **window) == [T0 + 10, T0 + 20]
    cloud.add_samples(session.id, Samples.of([(PULSE, T0 + 15.0, 3)]), arrive_at=T0 + 40)
    assert await visitor.stamps(of(session), **window) == [T0 + 10, T0 + 20]
    clock["now"] = T0 + 40
    assert await visitor.stamps(of(session), **window) == [T0 + 10, T0 + 15, T0 + 20]
    clock["now"] = T0 + 35
    assert await visitor.stamps(of(session), **window) == [T0 + 10, T0 + 20]


async def test_rows_may_appear_between_pages(visitor, hold, cloud):
    """What a listener adds before a page is answered is on that page already."""
    session = hold(steady(seconds=600))

    async def insert(request):
        if "page" in request.query:
            cloud.add_samples(session.id, Samples.of([(PULSE, T0 + 0.5, 3)]), silently=True)

    _, first = await visitor.ask(of(session))
    cloud.on_request = insert
    _, second = await visitor.ask(f"{of(session)}&page=2")
    assert (first["_meta"]["totalCount"], second["_meta"]["totalCount"]) == (600, 601)
    assert second["items"][0]["timestamp_seconds"] == first["items"][-1]["timestamp_seconds"]


# --- what else may be so --------------------------------------------------------------------------


async def test_equal_instants_are_rows_of_their_own_or_one(visitor, hold, behave):
    """Samples of one dataset that share an instant come apart, or as one row that counts them."""
    points = [(PULSE, T0 + 1.0, 3), (PULSE, T0 + 1.0, 5), (BATTERY, T0 + 1.0, 4), (PULSE, T0 + 2.0, 6)]
    session = hold(DataSession.of(points, start=T0))

    async def seen():
        rows = await visitor.rows(f"{of(session)}&sort=timestamp_seconds&filter[datatype]=6000")
        names = ("timestamp_seconds", "min_val", "max_val", "avg_val", "count_val")
        return [tuple(row[name] for name in names) for row in rows]

    assert await seen() == [(T0 + 1, 3, 3, 3, 1), (T0 + 1, 5, 5, 5, 1), (T0 + 2, 6, 6, 6, 1)]
    behave(equal_instants_joined=True)
    assert await seen() == [(T0 + 1, 3, 5, 4, 2), (T0 + 2, 6, 6, 6, 1)]


async def test_stamps_may_be_whole_seconds(visitor, hold, behave):
    """With the switch raw stamps are cut to seconds, so that instants fall together."""
    session = hold(steady(seconds=3, every=0.5))
    behave(whole_seconds=True)
    assert await visitor.stamps(of(session)) == [T0, T0, T0 + 1, T0 + 1, T0 + 2, T0 + 2]
    behave(whole_seconds=True, equal_instants_joined=True)
    assert [row["count_val"] for row in await visitor.rows(of(session))] == [2, 2, 2]


async def test_buckets_may_count_a_neighbour(visitor, hold, behave):
    """With the switch edge buckets count the neighbouring session of the same dataset; raw rows never do."""
    mine = hold(
        steady(seconds=5400, start=T0 + 30, label="mine"),
        steady(seconds=60, start=T0 + 30 + 5400, label="neighbour"),
    )
    mine = next(s for s in visitor.cloud.sessions() if s.label == "mine")
    window = {"gte": T0, "lt": T0 + 7200}
    alone = [row["count_val"] for row in await visitor.rows(of(mine), **window)]
    assert (alone[0], alone[-1], sum(alone)) == (30, 30, 5400)
    behave(buckets_per_dataset=True)
    both = [row["count_val"] for row in await visitor.rows(of(mine), **window)]
    assert (both[0], both[-1], sum(both)) == (30, 60, 5430)
    stamps = await visitor.stamps(of(mine), gte=T0 + 5400, lt=T0 + 5500)
    assert stamps == list(range(T0 + 5400, T0 + 5430))


async def test_samples_may_lie_outside_their_session(visitor, hold):
    """What a device with a wrong clock measured belongs to its session all the same."""
    session = hold(DataSession.of([(PULSE, T0 - 30.5, 1), (PULSE, T0 + 90.0, 2)], start=T0, end=T0 + 60))
    assert await visitor.stamps(of(session)) == [T0 - 30.5, T0 + 90]


async def test_archived_sessions_may_have_no_data(visitor, hold, behave):
    """With the switch an archived session's rows are gone, though its count is not."""
    session = hold(steady(seconds=10, archived_at=T0 + 100))
    assert len(await visitor.rows(of(session))) == 10
    behave(archived_data=False)
    assert await visitor.rows(of(session)) == []


@pytest.mark.parametrize("odd", list(OddValues))
async def test_some_values_may_be_odd(visitor, hold, behave, odd):
    """With the switch some rows have values that are no numbers, always the same ones."""
    session = hold(steady(seconds=100))
    behave(odd_values=odd, odd_every=5)
    rows = await visitor.rows(of(session))
    strange = [row for row in rows if not isinstance(row["avg_val"], int)]
    assert 5 < len(strange) < 50
    kinds = {OddValues.NULL: type(None), OddValues.TEXT: str, OddValues.NUMERIC_STRING: str}
    assert {type(row["min_val"]) for row in strange} == {kinds[odd]}
    if odd is OddValues.NUMERIC_STRING:
        assert all(float(row["max_val"]).is_integer() and row["count_val"] == "1" for row in strange)
    assert await visitor.rows(of(session)) == rows


async def test_single_values_may_be_missing(visitor, hold):
    """A sample that is not a number is answered as null, and the answer stays JSON."""
    session = hold(DataSession.of([(PULSE, T0, math.nan), (PULSE, T0 + 1, 60.5)], start=T0))
    assert [row["avg_val"] for row in await visitor.rows(of(session))] == [None, 60.5]


async def test_rows_may_have_unknown_fields_and_totals_may_be_wrong(visitor, hold, behave):
    """Switches add a field to rows and let the total say something else than the rows."""
    session = hold(steady(seconds=10))
    behave(extra_fields=True, total_error=3)
    _, body = await visitor.ask(of(session))
    assert body["_meta"]["totalCount"] == 13
    assert len(body["items"]) == 10
    assert all("quality" in row for row in body["items"])


async def test_big_sessions_are_paged_from_what_is_known(visitor, hold, behave):
    """A million samples answer every page alike, though they are computed once only."""
    computed = itertools.count()

    def compute():
        next(computed)
        return steady(seconds=1_000_000).computed()

    template = steady(seconds=1_000_000)
    session = hold(
        DataSession(
            id=template.id,
            group=GROUP,
            label="big",
            start=T0,
            end=T0 + 1_000_000,
            created_at=T0 + 4,
            ingested_at=T0 + 1_000_317,
            samples=compute,
            datasets=(PULSE,),
            total=lambda: 1_000_000,
        )
    )
    behave(raw_up_to=10**9)
    for page in (1, 2000):
        _, body = await visitor.ask(f"{of(session)}&sort=timestamp_seconds&page={page}")
        assert body["_meta"]["totalCount"] == 1_000_000
        assert body["items"][0]["timestamp_seconds"] == T0 + (page - 1) * 500
    behave(raw_up_to=3600)
    assert len(await visitor.rows(of(session), gte=T0, lt=T0 + 20 * DAY)) == 278
    assert next(computed) == 1
