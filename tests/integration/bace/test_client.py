"""The client against the emulated cloud: pages, records, counts, long questions, and wrong answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from sync.emulators.bace import HTML_PAGE, BaceCloud, Behaviour, Fault, Fleet
from sync.errors import AnswerBroken, RateLimited, RequestRefused, SourceContractError
from sync.sources.bace.client import BaceClient, open_client
from sync.sources.bace.query import Query, and_, eq, gte, in_, like, lt, lte, or_
from sync.sources.bace.settings import Account, BaceSettings
from sync.transport import HostGates, Limits

NOW = 1_700_000_000.0
QUICK = Limits(backoff_initial_s=0, backoff_max_s=0, attempts=3, requests_per_second=10_000)


@pytest.fixture
async def cloud() -> AsyncIterator[BaceCloud]:
    """An account of 45 sessions, most of them over."""
    fleet = Fleet(sessions=45, first_start=1_696_118_400, hours=(0.2, 0.5))
    async with BaceCloud(fleet, behaviour=Behaviour(), clock=lambda: NOW) as cloud:
        yield cloud


@pytest.fixture
async def client(cloud, tmp_path) -> AsyncIterator[BaceClient]:
    """The default account's client."""
    given = cloud.account()
    account = Account(given.client_id, given.client_secret, given.username, given.password)
    settings = BaceSettings(cloud.base_url, {"lab": account}, tmp_path / "tokens")
    client = open_client(settings, "lab", gates=HostGates(), limits=QUICK, user_agent="nightshift/1")
    yield client
    await client.aclose()


# --- pages ----------------------------------------------------------------------------------------


async def test_a_page_says_where_it_stands(client, cloud):
    """Items, counts, the size in force, the vendor's clock, and whether there is more."""
    page = await client.sessions(Query(sort="-start", page=2))
    assert len(page.items) == 20
    assert (page.total, page.page, page.page_count, page.per_page, page.has_next) == (45, 2, 3, 20, True)
    assert page.server_time == datetime.fromtimestamp(NOW, UTC)
    starts = [item["start"] for item in page.items]
    assert starts == sorted(starts, reverse=True)
    last = await client.sessions(Query(sort="-start", page=99, per_page=1000))
    assert (last.page, last.page_count, last.per_page, last.has_next) == (1, 1, 50, False)
    assert cloud.requests[-1].headers["user-agent"] == "nightshift/1"


async def test_the_headers_count_when_the_body_does_not(client, cloud):
    """Where ``_meta`` and ``_links`` are missing or empty arrays, the pagination headers are used."""
    numbers = {"Total-Count": "45", "Page-Count": "3", "Current-Page": "2", "Per-Page": "20"}
    headers = {f"X-Pagination-{name}": text for name, text in numbers.items()}
    for body in (b'{"items": [1]}', b'{"items": [1], "_meta": [], "_links": []}'):
        cloud.faults.add(Fault(status=200, body=body, more_headers=headers), path="data-session")
        page = await client.sessions(Query())
        assert page.items == (1,)
        assert (page.total, page.page, page.page_count, page.per_page) == (45, 2, 3, 20)
        assert not page.has_next


@pytest.mark.parametrize("times", [1, 2])
async def test_measurements_that_come_twice_are_asked_for_once_more(client, cloud, times):
    """More items than there are in all may be one answer's fault; a vendor that insists is believed."""
    body = b'{"items": [1, 1], "_meta": {"totalCount": 1}}'
    cloud.faults.add(Fault(status=200, body=body), path="data-downsampled", times=times)
    cloud.faults.add(Fault(status=200, body=body.replace(b"1, 1", b"1")), path="data-downsampled", times=9)
    page = await client.data(Query())
    assert page.items == ((1,) if times == 1 else (1, 1))
    assert len([request for request in cloud.requests if "data-downsampled" in request.path]) == 2


@pytest.mark.parametrize(("said", "total"), [('"45"', 45), ("true", None), ("-1", None), ("{}", None)])
async def test_a_count_that_is_none_is_none(client, cloud, said, total):
    """Numbers as text are read; what cannot be a count is no count."""
    body = b'{"items": [], "_meta": {"totalCount": %s}}' % said.encode()
    cloud.faults.add(Fault(status=200, body=body), path="data-session")
    assert (await client.sessions(Query())).total == total


async def test_filters_fields_and_expansions_reach_the_vendor(client, cloud):
    """What was asked for is what comes, and nothing else."""
    some = cloud.sessions()[3]
    query = Query(
        filter=or_(
            eq("id_data_session", some.id), and_(gte("start", some.start), lt("start", some.start + 1))
        ),
        fields=("id_data_session", "group.label"),
        expand=("group",),
    )
    (item,) = (await client.sessions(query)).items
    assert item["id_data_session"] == some.id
    assert set(item) == {"id_data_session", "group", "_links"}
    assert item["group"]["label"]


async def test_data_comes_with_its_fractions(client, cloud):
    """The rows of a session, asked for between two instants, are its samples."""
    some = cloud.sessions()[0]
    samples = cloud.samples(some.id)
    end = some.start + 300
    part = and_(
        eq("id_data_session", some.id), gte("timestamp_seconds", some.start), lt("timestamp_seconds", end)
    )
    page = await client.data(Query(filter=part, per_page=1000))
    wanted = sorted(t / 1000 for t in samples.time_ms.tolist() if some.start * 1000 <= t < end * 1000)
    assert sorted(row["timestamp_seconds"] for row in page.items) == wanted
    assert page.total == len(wanted) > 0


async def test_a_list_that_is_too_long_for_an_address_travels_as_a_body(client, cloud):
    """Beyond what servers take in a URL the filter is sent as JSON, and means the same."""
    ids = [session.id for session in cloud.sessions()]
    short = Query(filter=in_("id_data_session", ids[:20]), per_page=50, sort="start")
    long = Query(filter=in_("id_data_session", ids[:20] + ids[:1] * 80), per_page=50, sort="start")
    in_url, in_body = await client.sessions(short), await client.sessions(long)
    assert in_url.items == in_body.items
    assert len(in_body.items) == 20
    by_url, by_body = cloud.requests[-2:]
    assert "filter[id_data_session][in][19]" in by_url.query
    assert by_url.body == b""
    assert dict(by_body.query) == {"sort": "start", "per-page": "50"}
    assert len(json.loads(by_body.body)["filter"]["id_data_session"]["in"]) == 100


async def test_a_hundred_datasets_can_be_asked_for(client, cloud):
    """The most that one request may be about is one request."""
    some = cloud.sessions()[0]
    ids = [dataset.id_container_data_latest for dataset in some.datasets]
    ids += [str(UUID(int=number)) for number in range(100 - len(ids))]
    part = and_(
        in_("id_container_data_latest", ids),
        gte("timestamp_seconds", some.start + 0.5),
        lt("timestamp_seconds", some.start + 300.5),
    )
    page = await client.data(Query(filter=part, sort="timestamp_seconds", per_page=1000))
    assert page.total == len(page.items) > 0
    assert len(cloud.requests) == 2


async def test_a_body_that_is_ignored_is_noticed(client, cloud):
    """Where items come that were not asked for, the filter goes into the address after all, and stays."""
    ids = [session.id for session in cloud.sessions()[:30]]
    query = Query(filter=in_("id_data_session", ids), per_page=50)
    everything = json.dumps({"items": [{"id_data_session": str(UUID(int=1))}]}).encode()
    cloud.faults.add(Fault(status=200, body=everything), path="data-session")
    assert len((await client.sessions(query)).items) == 30
    assert len((await client.sessions(query)).items) == 30
    assert [bool(request.body) for request in cloud.requests[-3:]] == [True, False, False]


# --- records and counts ---------------------------------------------------------------------------


async def test_one_session_is_asked_for_by_its_id(client, cloud):
    """The record, restricted as asked; None where there is none."""
    some = cloud.sessions()[5]
    record = await client.session(some.id)
    assert record is not None
    assert (record["id_data_session"], record["start"]) == (some.id, some.start)
    fewer = await client.session(some.id, Query(fields=("label",)))
    assert fewer is not None
    assert "start" not in fewer
    assert await client.session("86d70a1b-0000-4000-8000-000000000000") is None
    assert await client.session("../group") is None


async def test_a_session_that_cannot_be_had_is_not_missing(client, cloud):
    """Only a 404 says that there is none."""
    cloud.faults.add(Fault(status=400), path="data-session")
    with pytest.raises(RequestRefused):
        await client.session(cloud.sessions()[0].id)


async def test_counting_brings_no_item(client, cloud):
    """HEAD asks every collection for its count, with filters too."""
    assert await client.count("data-session") == 45
    starts = sorted(session.start for session in cloud.sessions())
    assert await client.count("data-session", Query(filter=lte("start", starts[9]))) == 10
    assert await client.count("group") > 0
    assert {request.method for request in cloud.requests[1:]} == {"HEAD"}


async def test_a_count_without_its_header_is_a_broken_contract(client, cloud):
    """A server that answers HEAD without the documented headers does not have zero items."""
    cloud.faults.add(Fault(status=200, body=b""), path="data-session")
    with pytest.raises(SourceContractError, match="without a count"):
        await client.count("data-session")


async def test_the_vendors_clock_costs_one_request(client, cloud):
    """The clock comes with a request that needs the token and brings no data."""
    assert await client.server_time() == datetime.fromtimestamp(NOW, UTC)
    assert [request.method for request in cloud.requests] == ["POST", "HEAD"]


async def test_all_that_the_account_costs_is_counted(client, cloud):
    """Requests for tokens count like any other."""
    await client.server_time()
    await client.sessions(Query())
    assert client.traffic.requests == len(cloud.requests) == 3
    assert client.traffic.received_bytes > 1000


# --- answers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (HTML_PAGE, SourceContractError, "web page"),
        (Fault(status=200, body=b"<p>"), SourceContractError, "web page"),
        (Fault(status=200, body=b'{"items": [{"start": 1}, {"st'), AnswerBroken, "broken JSON"),
        (Fault(status=200, body=b'{"items": ["\xff"]}'), AnswerBroken, "broken JSON"),
        (Fault(status=200, body=b'{"items": [NaN]}'), AnswerBroken, "broken JSON"),
        (Fault(status=200, body=b""), AnswerBroken, "broken JSON"),
        (Fault(status=200, body=b'{"items":' + b"[" * 100_000), AnswerBroken, "broken JSON"),
        (Fault(status=200, body=b"[]"), SourceContractError, "without items"),
        (Fault(status=200, body=b"{}"), SourceContractError, "without items"),
        (Fault(status=200, body=b'{"items": {"0": 1}}'), SourceContractError, "without items"),
    ],
)
async def test_an_answer_that_is_no_page_says_so(client, cloud, fault, error, said):
    """Whatever comes in place of a page: a sentence with the place, and none of its content."""
    cloud.faults.add(fault, path="data-session")
    with pytest.raises(SourceContractError, match=said) as caught:
        await client.sessions(Query(filter=eq("label", "geheim")))
    assert type(caught.value) is error
    assert str(caught.value).startswith("GET /api/v2/data-session was answered ")
    assert "geheim" not in str(caught.value)


async def test_an_element_may_be_anything(client, cloud):
    """What is in a page is not the client's to judge."""
    cloud.faults.add(Fault(status=200, body=b'{"items": [null, 1, "x", [], {"start": "1"}]}'), path="data-")
    assert (await client.sessions(Query())).items == (None, 1, "x", [], {"start": "1"})


async def test_a_filter_mistake_is_refused_in_the_vendors_words(client):
    """The array of a 422 is understood, and is no reason to ask again."""
    with pytest.raises(RequestRefused, match="nonsense") as caught:
        await client.sessions(Query(filter=like("nonsense", "x")))
    assert caught.value.status == 422


async def test_a_rate_limiter_is_obeyed(client, cloud):
    """Yii2's own header for a pause counts where there is no Retry-After."""
    fault = Fault(status=429, more_headers={"X-Rate-Limit-Reset": "0"})
    cloud.faults.add(fault, times=2, path="data-session")
    assert (await client.sessions(Query())).total == 45
    waiting = Fault(status=429, more_headers={"X-Rate-Limit-Reset": "0.01"})
    cloud.faults.add(waiting, times=3, path="data-session")
    with pytest.raises(RateLimited) as caught:
        await client.sessions(Query())
    assert caught.value.retry_after == 0.01
