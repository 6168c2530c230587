"""Breaks each promise on purpose, in a copy of the code, and expects the tests that hold it to fail.

    make mutations

A mutation that survives means that a promise rests on nothing: the exit code is 1 then. What each one breaks
and which test catches it is the table in docs/promises.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_ONCE = 2
PATIENCE_S = 300


@dataclass(frozen=True, slots=True)
class Mutation:
    """One break.

    Attributes:
        promise: Which promise it breaks, by its number in the README.
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


SINK = "tests/integration/storage/test_sink.py"

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
        "the overlap of a pass points forward",
        "sync/sources/beddit/cursor.py",
        "self.updated_after - overlap.total_seconds(), sweeps",
        "self.updated_after + overlap.total_seconds(), sweeps",
        "tests/integration/beddit/test_table_b6.py",
    ),
    Mutation(
        1,
        "a process that lost its account still commits",
        "sync/storage/sink.py",
        "        WHERE run_id = $1 AND outcome = 'running'\n",
        "        WHERE run_id = $1\n",
        f"{SINK}::test_a_run_that_has_ended_stores_nothing_more",
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
        "the end of a replaced stretch is inclusive",
        "sync/storage/statements.py",
        "AND {series.time} < $3",
        "AND {series.time} <= $3",
        "tests/integration/storage/test_series.py",
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
        "equal stamps are taken for equal content",
        "sync/storage/versions.py",
        "        if self.digest != stored.digest:\n",
        "        if self.digest != stored.digest and mine != theirs:\n",
        "tests/integration/beddit/test_incremental.py::test_an_equal_stamp_with_other_content_replaces",
    ),
    Mutation(
        4,
        "a damaged blob replaces a whole one",
        "sync/sources/beddit/blob_unit.py",
        '        if self.due.has_complete and status != "complete":\n',
        "        if False:\n",
        "tests/integration/beddit/test_blobs.py",
    ),
    Mutation(
        5,
        "one account's failure ends the others",
        "sync/engine/runner.py",
        "        except SyncError as error:\n            return error\n",
        "        except SyncError:\n            raise\n",
        "tests/unit/engine/test_runner.py",
    ),
    Mutation(
        6,
        "rejected items are not counted",
        "sync/storage/sink.py",
        "rejected=sum(reject.counts for reject in batch.all_rejects)",
        "rejected=0",
        "tests/integration/beddit/test_bad_input.py::test_a_bad_item_among_good_ones",
    ),
    Mutation(
        7,
        "an answer is collected whole before anything is stored",
        "sync/sources/beddit/reading.py",
        "if size >= self.context.settings.batch_bytes:",
        "if size >= 1 << 60:",
        "tests/integration/beddit/test_memory.py",
    ),
    Mutation(
        8,
        "Retry-After is not heard",
        "sync/transport/client.py",
        "self._pause.extend(error.retry_after or 0.0)",
        "self._pause.extend(0.0)",
        "tests/integration/test_transport.py::test_the_vendors_wish_for_a_pause_is_kept",
    ),
    Mutation(
        9,
        "errors are kept as they come",
        "sync/engine/runner.py",
        "return storable(self._engine.redact(text))",
        "return storable(text)",
        "tests/integration/beddit/test_secrecy.py",
    ),
    Mutation(
        9,
        "a redirect is followed with the token",
        "sync/transport/client.py",
        "if self._base is not None or raw.status not in REDIRECTS or not location:",
        "if raw.status not in REDIRECTS or not location:",
        "tests/integration/test_transport.py::test_a_token_does_not_follow_redirects",
    ),
)


def main() -> int:
    """Try all mutations; the exit code is 1 if one survives."""
    print(f"{len(MUTATIONS)} mutations; each must be caught\n")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(_try, MUTATIONS))
    print(f"\n{sum(verdicts)} of {len(verdicts)} were caught")
    return 0 if all(verdicts) else 1


def _try(mutation: Mutation) -> bool:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nightshift-mutation-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        for part in ("sync", "tests", "migrations", "config"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md", "alembic.ini"):
            shutil.copy(ROOT / part, tree / part)
        place = tree / mutation.file
        code = place.read_text()
        if code.count(mutation.before) != 1:
            print(f"LOST    {mutation.promise}. {mutation.what}: the code to break is not in {mutation.file}")
            return False
        place.write_text(code.replace(mutation.before, mutation.after))
        verdict = _verdict(tree, mutation.test)
    caught = verdict == 1  # tests ran and failed; anything else (2: none could be collected) proves nothing
    word = "caught" if caught else "SURVIVED" if verdict == 0 else f"BROKEN ({verdict})"
    print(f"{word:<8}{mutation.promise}. {mutation.what}  [{time.monotonic() - began:.0f} s]", flush=True)
    return caught


def _verdict(tree: Path, test: str) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    try:
        return subprocess.run(  # noqa: S603 - our own tests
            command, cwd=tree, capture_output=True, timeout=PATIENCE_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 1  # it hangs: whoever runs the tests sees that


if __name__ == "__main__":
    sys.exit(main())
