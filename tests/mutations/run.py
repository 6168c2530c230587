"""Breaks each promise on purpose, in a copy of the code, and expects the tests that hold it to fail.

    make mutations                                     # all of them, after a look that the tests hold at all
    python tests/mutations/run.py "ledger" "verify"    # those with such a word in what they break

A mutation that survives means that a promise rests on nothing: the exit code is 1 then, as it is when the
code to break is not there any more. What each one breaks and which test catches it is told by the tables in
docs/promises.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_ONCE = 2
PATIENCE_S = 300


@dataclass(frozen=True, slots=True)
class Mutation:
    """One break.

    Attributes:
        promise: Which promise it breaks, by its number in the README; 0: that a broken one is found out.
        what: In a few words.
        file: Where.
        before: The code, which must be there exactly once.
        after: What takes its place.
        test: What has to fail, as pytest selects it.
    """

    promise: int
    what: str
    file: str
    before: str
    after: str
    test: str

    def applied_to(self, code: str) -> str | None:
        """The code broken; None where what has to be broken is not in it, or more than once."""
        return code.replace(self.before, self.after) if code.count(self.before) == 1 else None


BEDDIT, BACE, STORAGE = "tests/integration/beddit", "tests/integration/bace", "tests/integration/storage"
SINK = f"{STORAGE}/test_sink.py"
TRANSPORT = "tests/integration/test_transport.py"
FOUND_AND_MENDED = "test_verify.py::test_exactly_the_planted_differences_are_found_and_mended"

MUTATIONS = (
    Mutation(
        1,
        "rows and progress are not one transaction",
        "sync/storage/sink.py",
        "                connection.transaction(),\n",
        "",
        f"{SINK}::test_a_killed_back_end_leaves_nothing",
    ),
    Mutation(
        1,
        "progress is committed before its rows",
        "sync/storage/sink.py",
        (
            "                connection.transaction(),\n"
            "            ):\n"
            "                return await _write(connection, run, batch)"
        ),
        (
            "            ):\n"
            "                if batch.progress is not None:\n"
            "                    await _write_progress(connection, batch.stream, batch.progress)\n"
            "                async with connection.transaction():\n"
            "                    return await _write(connection, run, batch)"
        ),
        f"{SINK}::test_a_value_that_is_refused_leaves_nothing",
    ),
    Mutation(
        1,
        "a window counts as read before it is read",
        "sync/sources/beddit/units.py",
        "            part = pending.pop()\n            reading = Reading(self.context)\n",
        (
            "            part = pending.pop()\n"
            "            yield Batch(self.stream, progress=Progress(covered=(part,)))\n"
            "            reading = Reading(self.context)\n"
        ),
        f"{BEDDIT}/test_interruption.py::test_a_run_is_cancelled_at_any_request",
    ),
    Mutation(
        1,
        "a cut answer of Beddit is taken for a whole one",
        "sync/sources/beddit/units.py",
        "                if self.course.lengths.doubts(len(reading.seen)):\n",
        "                if False:\n",
        f"{BEDDIT}/test_left_over.py::test_an_answer_that_is_cut_without_a_word",
    ),
    Mutation(
        1,
        "the bound of Beddit's changes is taken to be inclusive",
        "sync/sources/beddit/cursor.py",
        "return self.updated_after - overlap.total_seconds(), sweeps",
        "return self.updated_after, sweeps",
        f"{BEDDIT}/test_table_b6.py::test_row_4_updated_after_bound",
    ),
    Mutation(
        1,
        "Beddit's pages go on behind the last stamp seen",
        "sync/sources/beddit/paging.py",
        "for stamp in stamps if stamp is not None) - paging.overlap",
        "for stamp in stamps if stamp is not None) + paging.overlap",
        "tests/unit/sources/beddit/test_paging.py::test_done_means_that_every_change_was_seen",
    ),
    Mutation(
        1,
        "BACE's list goes on behind the last stamp seen",
        "sync/sources/bace/listing.py",
        "self._begin(replace(self.ask, bound=stamp))",
        "self._begin(replace(self.ask, bound=stamp - 1 if self._order.descending else stamp + 1))",
        "tests/unit/sources/bace/test_listing.py::test_sessions_that_share_a_stamp_are_all_seen",
    ),
    Mutation(
        1,
        "the start of a stretch of BACE's data is exclusive",
        "sync/sources/bace/walk.py",
        "takes |= (readings.stamps >= span.start)",
        "takes |= (readings.stamps > span.start)",
        f"{BACE}/test_data.py::test_samples_of_one_instant_are_rows_of_their_own",
    ),
    Mutation(
        1,
        "minute buckets with a count of 1 are taken for samples",
        "sync/sources/bace/lengths.py",
        "if length <= FLOOR or (single and not on_minutes):",
        "if length <= FLOOR or single:",
        "tests/unit/sources/bace/test_lengths.py::test_one_row_is_judged_by_stamp_count_and_length",
    ),
    Mutation(
        1,
        "what was proved of a length holds for ever",
        "sync/sources/bace/resolution/answers.py",
        "    if length > FLOOR and not scan.vouched and not bool((reply.stamps % MINUTE).any()):\n",
        "    if False:\n",
        "tests/unit/sources/bace/test_resolution.py::test_minute_buckets_are_not_believed_for_what_was_proved_once",
    ),
    Mutation(
        1,
        "half a bucket is taken for empty",
        "sync/sources/bace/resolution/emptiness.py",
        "known = span(ceil(asked.start, grain), end)",
        "known = span(asked.start, end)",
        "tests/unit/sources/bace/test_resolution.py::test_every_sample_arrives_exactly_once_with_its_own_instant",
    ),
    Mutation(
        1,
        "coverage is claimed before the order of pages is proved",
        "sync/sources/bace/walk.py",
        "promise = None if step.lengths.ordered else step.scan.promise",
        "promise = None",
        f"{BACE}/test_data_trust.py::test_a_crash_leaves_no_coverage_that_rests_on_an_order_nobody_has_proven",
    ),
    Mutation(
        1,
        "what an answer doubts stays covered by one that is committed with it",
        "sync/storage/series.py",
        "kept = () if stretch.reset else difference(covered, stretch.uncovered)",
        "kept = covered",
        f"{STORAGE}/test_series.py::test_answers_in_one_batch_leave_what_they_leave_one_by_one",
    ),
    Mutation(
        1,
        "coverage of an open session reaches up to now",
        "sync/sources/bace/walk.py",
        "return _before(read, self.newest - self.settle)",
        "return read",
        f"{BACE}/test_data_growing.py::test_a_growing_session_costs_what_its_news_cost",
    ),
    Mutation(
        1,
        "a run that was taken over still commits",
        "sync/storage/sink.py",
        "        WHERE run_id = $1 AND outcome = 'running'\n        RETURNING",
        "        WHERE run_id = $1\n        RETURNING",
        f"{SINK}::test_a_run_that_has_ended_stores_nothing_more",
    ),
    Mutation(
        1,
        "a run begins without its account's lease",
        "sync/storage/ledger.py",
        "WHERE $4 IS NULL OR EXISTS (SELECT FROM lease)",
        "WHERE true",
        f"{STORAGE}/test_ledger.py::test_a_worker_begins_a_run_only_under_its_lease",
    ),
    Mutation(
        1,
        "an account that somebody holds can be claimed",
        "sync/storage/leases.py",
        "    l.worker_id IS NULL AND (\n",
        "    (\n",
        f"{STORAGE}/test_leases.py::test_an_account_is_held_by_one",
    ),
    Mutation(
        2,
        "a newer version leaves the old one's details",
        "sync/storage/sink.py",
        "    for table in head.owns:\n",
        "    for table in ():\n",
        f"{SINK}::test_a_newer_version_leaves_nothing_stale",
    ),
    Mutation(
        2,
        "what is stored already is taken for new",
        "sync/storage/series.py",
        "is_new = not spans or not await _holds_any(connection, alike[0], spans)",
        "is_new = True",
        f"{STORAGE}/test_series.py::test_what_is_read_again_replaces_what_was_there",
    ),
    Mutation(
        2,
        "the end of a replaced stretch is inclusive",
        "sync/storage/statements.py",
        "AND {series.time} < $3",
        "AND {series.time} <= $3",
        f"{STORAGE}/test_series.py::test_an_interval_s_end_is_not_in_it",
    ),
    Mutation(
        2,
        "the start of a replaced stretch is exclusive",
        "sync/storage/statements.py",
        "AND {series.time} >= $2",
        "AND {series.time} > $2",
        f"{STORAGE}/test_series.py::test_any_history_ends_where_a_dictionary_does",
    ),
    Mutation(
        2,
        "two writers of a session do not wait for each other",
        "sync/storage/statements.py",
        "ORDER BY {series.key}, part FOR UPDATE",
        "ORDER BY {series.key}, part",
        f"{STORAGE}/test_series.py::test_two_writers_that_know_other_groups",
    ),
    Mutation(
        2,
        "what comes twice in an answer is stored twice",
        "sync/storage/versions.py",
        "        if verdict is Verdict.UNCHANGED:\n            duplicate += record.size\n",
        (
            "        if verdict is Verdict.UNCHANGED:\n"
            "            standing[*record.key, len(standing)] = record\n"
        ),
        f"{SINK}::test_duplicates_inside_one_batch",
    ),
    Mutation(
        3,
        "an older version replaces a newer one",
        "sync/storage/versions.py",
        "        if mine < theirs:\n",
        "        if mine > theirs:\n",
        f"{SINK}::test_newer_wins",
    ),
    Mutation(
        3,
        "an older version replaces one that came in between",
        "sync/storage/statements.py",
        "        WHERE {stamps[0]} > {stamps[1]}\n",
        "        WHERE {stamps[0]} < {stamps[1]}\n",
        f"{SINK}::test_a_key_that_appears_while_a_batch_is_written",
    ),
    Mutation(
        3,
        "equal stamps are taken for equal content",
        "sync/storage/versions.py",
        "if force or self.digest != stored.digest:",
        "if force or (self.digest != stored.digest and mine != theirs):",
        f"{BEDDIT}/test_incremental.py::test_an_equal_stamp_with_other_content_replaces",
    ),
    Mutation(
        3,
        "other content under an equal stamp leaves the old raw signal",
        "sync/sources/beddit/tables.py",
        "AND a.updated IS NOT DISTINCT FROM s.updated AND a.session_digest = s.digest\n    WHERE",
        "AND a.updated IS NOT DISTINCT FROM s.updated\n    WHERE",
        f"{BEDDIT}/test_blobs.py::test_another_content_under_an_equal_stamp_fetches_the_signal_again",
    ),
    Mutation(
        3,
        "an equal version is written again",
        "sync/storage/versions.py",
        "        return Verdict.UNCHANGED if mine == theirs and not stored.missing else Verdict.RESTAMP",
        "        return Verdict.RESTAMP",
        "tests/unit/storage/test_versions.py::test_a_version_is_judged_by_stamp_then_by_content",
    ),
    Mutation(
        3,
        "equal datapoints are written again",
        "sync/storage/series.py",
        "    if not same:\n",
        "    if True:\n",
        f"{STORAGE}/test_series.py::test_an_equal_answer_writes_nothing",
    ),
    Mutation(
        4,
        "what has vanished is deleted",
        "sync/storage/statements.py",
        (
            "        UPDATE {head.table.name} t SET missing_upstream_at = now()\n"
            "        FROM {_unnest(head)} WHERE"
        ),
        "        DELETE FROM {head.table.name} t USING {_unnest(head)} WHERE",
        f"{SINK}::test_what_the_source_holds_no_longer_is_marked_and_stays",
    ),
    Mutation(
        4,
        "what another account still sees is marked as missing",
        "sync/storage/statements.py",
        "AND a.refused_at IS NULL)\n",
        "AND false)\n",
        f"{BACE}/test_listing.py::test_several_accounts_share_a_session",
    ),
    Mutation(
        4,
        "a damaged raw signal replaces a whole one",
        "sync/sources/beddit/blob_unit.py",
        '        if self.due.has_complete and status != "complete":\n',
        "        if False:\n",
        f"{BEDDIT}/test_blobs.py::test_less_signal_replaces_none",
    ),
    Mutation(
        4,
        "datapoints go when their dataset is served no longer",
        "sync/storage/statements.py",
        "AND {series.part_of} = ANY ($4)",
        "AND ($4::uuid[] IS NULL OR true)",
        f"{BACE}/test_data_growing.py::test_a_dataset_that_is_served_no_longer_is_not_deleted",
    ),
    Mutation(
        4,
        "forget leaves a table out",
        "sync/storage/forgetting.py",
        '    "beddit.blob_attempts",\n',
        "",
        f"{STORAGE}/test_forgetting.py::test_nothing_of_a_user_is_left",
    ),
    Mutation(
        4,
        "who was forgotten is read again",
        "sync/storage/leases.py",
        "[account for account in unknown if account not in forgotten]",
        "unknown",
        f"{STORAGE}/test_forgetting.py::test_the_forgotten_cannot_be_worked_on",
    ),
    Mutation(
        4,
        "who reads a forgotten person under another name goes on",
        "sync/storage/forgetting.py",
        "            await connection.execute(_END_RUNS, person.source, list(person.others))\n",
        "",
        f"{STORAGE}/test_forgetting.py::test_who_reads_the_user_under_another_name_stores_nothing_more",
    ),
    Mutation(
        4,
        "forget takes what others keep its proof",
        "sync/storage/forgetting.py",
        "    await connection.execute(_HAND_OVER, accounts)\n",
        "",
        f"{STORAGE}/test_forgetting.py::test_what_others_keep_stays_proved",
    ),
    Mutation(
        5,
        "one account's failure ends the others",
        "sync/engine/runner.py",
        "        except SyncError as error:\n            return error\n",
        "        except SyncError:\n            raise\n",
        "tests/unit/engine/test_runner.py::test_a_failing_account_leaves_the_others_alone",
    ),
    Mutation(
        5,
        "a session that is answered wrongly ends the run",
        "sync/sources/bace/data.py",
        "        except (RequestRefused, SourceContractError, SourceUnavailable) as error:\n",
        "        except (RequestRefused, SourceUnavailable) as error:\n",
        f"{BACE}/test_data_bad.py::test_a_session_that_is_answered_wrongly_stops_no_other",
    ),
    Mutation(
        5,
        "rejects of a session are dropped",
        "sync/storage/sink.py",
        "[*batch.rejects, *_new_rejects(judged)]",
        "[*batch.rejects]",
        f"{BEDDIT}/test_bad_input.py::test_a_bad_item_among_good_ones",
    ),
    Mutation(
        5,
        "rejects of datapoints are dropped",
        "sync/storage/series.py",
        "    await write_rejects(connection, stream, stretch.rejects, part=stretch.part)\n",
        "",
        f"{STORAGE}/test_series.py::test_rejects_of_a_stretch_are_logged_and_counted",
    ),
    Mutation(
        5,
        "rejects of Beddit are never asked for again",
        "sync/sources/beddit/cursor.py",
        "if start not in after and tried < len(RETRY_AFTER):",
        "if start not in after and tried < 0:",
        f"{BEDDIT}/test_rejects_again.py::test_a_mended_item_is_fetched_without_a_new_stamp",
    ),
    Mutation(
        5,
        "rejects of BACE are never asked for again",
        "sync/sources/bace/proof.py",
        "_retry(attempts, now) if hopeful else late",
        "late",
        f"{BACE}/test_rejects_again.py::test_mended_values_are_read_after_a_day",
    ),
    Mutation(
        6,
        "rejected items are not counted",
        "sync/storage/sink.py",
        "rejected=sum(reject.counts for reject in batch.all_rejects)",
        "rejected=0",
        f"{BEDDIT}/test_bad_input.py::test_a_bad_item_among_good_ones",
    ),
    Mutation(
        6,
        "duplicates are not counted",
        "sync/storage/versions.py",
        "            duplicate += record.size\n",
        "            pass\n",
        f"{SINK}::test_duplicates_inside_one_batch",
    ),
    Mutation(
        6,
        "a ledger that does not add up is not noticed",
        "sync/engine/runner.py",
        "if tally.read != tally.accounted_for:",
        "if False:",
        "tests/unit/engine/test_runner.py::test_a_batch_that_does_not_add_up_is_a_defect",
    ),
    Mutation(
        6,
        "a session is complete whatever its counts say",
        "sync/sources/bace/proof.py",
        "    if expected == loaded + rejected:\n",
        "    if True:\n",
        f"{BACE}/test_data_growing.py::test_a_wrong_count_is_told_and_not_asked_about_for_ever",
    ),
    Mutation(
        6,
        "a session whose counts agree is not compared again",
        "sync/sources/bace/data.py",
        "return self.due.datapoint_count != loaded + rejected or not asked",
        "return self.due.datapoint_count != loaded + rejected",
        f"{BACE}/test_data_growing.py::test_a_correction_with_an_equal_count_is_found",
    ),
    Mutation(
        7,
        "an answer is collected whole before anything is stored",
        "sync/sources/beddit/reading.py",
        "if size >= self.context.settings.batch_bytes:",
        "if size >= 1 << 60:",
        f"{BEDDIT}/test_memory.py::test_memory_does_not_grow_with_an_answer",
    ),
    Mutation(
        7,
        "a body may be as long as it likes",
        "sync/transport/response.py",
        "                self._check(size, self._limit)\n",
        "",
        f"{TRANSPORT}::test_a_bomb_is_stopped_at_the_limit",
    ),
    Mutation(
        7,
        "a compressed body is unpacked in one piece",
        "sync/transport/body.py",
        "self._member.decompress(data, PIECE)",
        "self._member.decompress(data)",
        "tests/unit/transport/test_body.py::test_a_bomb_comes_in_small_pieces",
    ),
    Mutation(
        8,
        "Retry-After is not heard",
        "sync/transport/client.py",
        "self._pause.extend(error.retry_after or 0.0)",
        "self._pause.extend(0.0)",
        f"{TRANSPORT}::test_the_vendors_wish_for_a_pause_is_kept",
    ),
    Mutation(
        8,
        "Retry-After has no cap",
        "sync/transport/retry_after.py",
        "min(max(seconds, 0.0), cap)",
        "max(seconds, 0.0)",
        "tests/unit/transport/test_retry_after.py::test_every_spelling_is_understood",
    ),
    Mutation(
        8,
        "back-off has no jitter",
        "sync/transport/client.py",
        "            wait_jitter=self._limits.backoff_initial_s,\n",
        "            wait_jitter=0,\n",
        f"{TRANSPORT}::test_waits_are_spread",
    ),
    Mutation(
        8,
        "each account has a pace of its own at a host",
        "sync/transport/gates.py",
        "        if key not in self._gates:\n",
        "        if True:\n",
        "tests/unit/transport/test_gates.py::test_accounts_of_one_host_share_its_gate",
    ),
    Mutation(
        8,
        "requests leave as fast as they come",
        "sync/transport/gates.py",
        "        if start > now:\n",
        "        if False:\n",
        "tests/unit/transport/test_gates.py::test_a_gate_keeps_the_pace",
    ),
    Mutation(
        8,
        "an open session is asked for in every cycle",
        "sync/sources/bace/proof.py",
        'return Verdict("open", None, 0, now + wait)',
        'return Verdict("open", None, 0, now)',
        "tests/unit/sources/bace/test_proof.py::test_an_open_session_is_asked_for_the_rarer_the_longer_it_is_silent",
    ),
    Mutation(
        8,
        "every pass of Beddit looks far back",
        "sync/sources/beddit/cursor.py",
        "return now - self.swept_at >= settings.sweep_every.total_seconds()",
        "return True",
        f"{BEDDIT}/test_incremental.py::test_once_a_day_a_pass_looks_seven_days_back",
    ),
    Mutation(
        9,
        "errors are kept as they come",
        "sync/engine/runner.py",
        "return storable(self._engine.redact(text))",
        "return storable(text)",
        f"{BEDDIT}/test_secrecy.py::test_an_error_body_that_repeats_secrets",
    ),
    Mutation(
        9,
        "rejects are kept as they come",
        "sync/engine/runner.py",
        "        batch = self._redacted(batch)\n",
        "",
        f"{BEDDIT}/test_secrecy.py::test_a_malformed_session_that_repeats_secrets",
    ),
    Mutation(
        9,
        "log lines are written as they come",
        "sync/observe/logging.py",
        "        text = self._without_secrets(text)\n        for shape",
        "        for shape",
        "tests/unit/observe/test_logging.py::test_no_event_shows_a_secret",
    ),
    Mutation(
        9,
        "addresses are named with their signatures",
        "sync/transport/address.py",
        'return f"{method} {host_of(url)}{url.raw_path[:SHOWN_PATH]}"',
        'return f"{method} {url}"',
        "tests/unit/transport/test_address.py::test_messages_never_show_a_query",
    ),
    Mutation(
        9,
        "a redirect is followed with the token",
        "sync/transport/client.py",
        "if self._base is not None or raw.status not in REDIRECTS or not location:",
        "if raw.status not in REDIRECTS or not location:",
        f"{TRANSPORT}::test_a_token_does_not_follow_redirects",
    ),
    Mutation(
        9,
        "a link to another host is followed with the token",
        "sync/transport/address.py",
        "    if origin(url) != origin(base):\n",
        "    if False:\n",
        "tests/unit/transport/test_address.py::test_a_token_never_leaves_its_origin",
    ),
    Mutation(
        9,
        "the first answer of DNS is trusted",
        "sync/transport/client.py",
        "            self._policy.check(url)\n",
        (
            "            self._policy.check(url)\n"
            "            import socket\n"
            "            from sync.transport.policy import not_public\n"
            "            if reason := not_public(socket.getaddrinfo(url.host, url.port)[0][4][0]):\n"
            "                raise self._policy.refusal(url, reason)\n"
            "            self._wire._policy = None\n"
        ),
        "tests/security/test_addresses.py::test_no_look_before_the_connection_is_trusted",
    ),
    Mutation(
        9,
        "any certificate will do",
        "sync/transport/wire.py",
        "return aiohttp.TCPConnector(limit=0, ssl=self._tls)",
        "return aiohttp.TCPConnector(limit=0, ssl=False)",
        f"{TRANSPORT}::test_an_untrusted_certificate_is_refused",
    ),
    Mutation(
        9,
        "any certificate of a blob host will do",
        "sync/transport/wire.py",
        "            limit=0,\n            ssl=self._tls,\n",
        "            limit=0,\n            ssl=False,\n",
        f"{TRANSPORT}::test_an_untrusted_certificate_of_a_blob_host_is_refused",
    ),
    Mutation(
        9,
        "tokens are written for everybody to read",
        "sync/sources/bace/oauth.py",
        "            file.write(content)\n            file.flush()\n",
        (
            "            file.write(content)\n"
            "            os.fchmod(file.fileno(), 0o644)\n"
            "            file.flush()\n"
        ),
        "tests/security/test_files.py::test_tokens",
    ),
    Mutation(
        0,
        "verify does not descend where buckets differ",
        "sync/sources/bace/verification/narrowing.py",
        "        for stretch in _joined(wrong, self._reach):\n",
        "        for stretch in ():\n",
        f"{BACE}/{FOUND_AND_MENDED}",
    ),
    Mutation(
        0,
        "verify of BACE compares counts, least and most alone",
        "sync/sources/bace/proof.py",
        "            and isclose(\n                self.total,\n                other.total,",
        "            and isclose(\n                self.total,\n                self.total,",
        f"{BACE}/{FOUND_AND_MENDED}",
    ),
    Mutation(
        0,
        "verify of BACE does not look for what is not listed",
        "sync/sources/bace/verification/listing.py",
        "if key not in paging.ids and self.verification.looks_at(session.began)",
        "if False",
        f"{BACE}/{FOUND_AND_MENDED}",
    ),
    Mutation(
        0,
        "a repair of BACE does not force",
        "sync/sources/bace/verification/listing.py",
        "tuple(replace(record, force=True) for record in batch.records)",
        "batch.records",
        f"{BACE}/test_verify.py::test_damage_to_a_session_s_own_row_is_mended",
    ),
    Mutation(
        0,
        "a repair of Beddit does not force",
        "sync/sources/beddit/verification.py",
        "offered.append(replace(record, force=True))",
        "offered.append(record)",
        f"{BEDDIT}/{FOUND_AND_MENDED}",
    ),
    Mutation(
        0,
        "verify of Beddit trusts stamps and digests",
        "sync/storage/differences.py",
        "        if fault is None:\n            of_key",
        "        if False:\n            of_key",
        f"{BEDDIT}/{FOUND_AND_MENDED}",
    ),
    Mutation(
        0,
        "verify does not count the samples of a raw signal",
        "sync/sources/beddit/verification.py",
        "fault = self._fault_in_chunks() or await self._fault_in_length()",
        "fault = await self._fault_in_length()",
        f"{BEDDIT}/{FOUND_AND_MENDED}",
    ),
    Mutation(
        0,
        "verify does not ask how long a raw signal is",
        "sync/sources/beddit/verification.py",
        "fault = self._fault_in_chunks() or await self._fault_in_length()",
        "fault = self._fault_in_chunks()",
        f"{BEDDIT}/test_verify.py::test_a_signal_that_grew_is_found_by_its_length",
    ),
    Mutation(
        0,
        "verify takes a night that nobody could be asked about for looked at",
        "sync/sources/beddit/verification.py",
        "                unknown.append(moment)",
        "                continue",
        f"{BEDDIT}/test_verify.py::test_a_night_that_nobody_could_be_asked_about_is_no_equality",
    ),
)


def main(words: Sequence[str]) -> int:
    """Try the mutations; the exit code is 1 if one survives."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.what for word in words)]
    if not chosen:
        print(f"No mutation's name holds {' or '.join(words)}. Without words all are tried")
        return 2
    tests = sorted({mutation.test for mutation in chosen})
    began = time.monotonic()
    with _copy() as tree:
        verdict, said = _verdict(tree, "-n", str(AT_ONCE), *tests)
    if verdict != 0:
        print(f"Nothing can be shown by tests that fail before anything is broken:\n{said}")
        return 1
    print(f"{len(tests)} tests hold; {len(chosen)} mutations must be caught by them\n", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(_try, chosen))
    print(f"\n{sum(verdicts)} of {len(verdicts)} were caught  [{time.monotonic() - began:.0f} s]")
    return 0 if all(verdicts) else 1


def _try(mutation: Mutation) -> bool:
    began = time.monotonic()
    with _copy() as tree:
        place = tree / mutation.file
        broken = mutation.applied_to(place.read_text())
        if broken is None:
            print(f"LOST      {mutation.promise}  {mutation.what}: that code is not in {mutation.file}")
            return False
        place.write_text(broken)
        verdict, said = _verdict(tree, "-x", mutation.test)
    # The test ran and failed; that it could not be collected, or prepared, proves nothing.
    caught = verdict == 1 and f"FAILED {mutation.test}" in said
    word = "caught" if caught else "SURVIVED" if verdict == 0 else f"BROKEN {verdict}"
    print(f"{word:<10}{mutation.promise}  {mutation.what}  [{time.monotonic() - began:.0f} s]", flush=True)
    return caught


@contextmanager
def _copy() -> Iterator[Path]:
    """The code and its tests, to be broken."""
    with tempfile.TemporaryDirectory(prefix="nightshift-mutation-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        for part in ("sync", "tests", "migrations", "config", "docs"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md", "alembic.ini"):
            shutil.copy(ROOT / part, tree / part)
        yield tree


def _verdict(tree: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of pytest, and the end of what it says."""
    plugins = ("-p", "no:cacheprovider", "-p", "tests.mutations.unshrunk")
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own tests
            command, cwd=tree, capture_output=True, timeout=PATIENCE_S, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        return 1, f"FAILED {arguments[-1]}: it hangs"
    return done.returncode, done.stdout[-2_000:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
