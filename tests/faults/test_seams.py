"""A process may be killed at any seam: another one brings its flow to the same end, and no step ends twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.faults.busy import Job, Told
from tests.foreman.conftest import url_of
from tests.long import LONG
from tests.process import ROOT

SAMPLE = 20
"""Passages in a usual run; all of them in a long one."""


def done(jobs: Sequence[Job]) -> list[Told]:
    """What became of the jobs, each in processes of its own."""
    given = "".join(json.dumps(job) + "\n" for job in jobs)
    command = [sys.executable, "-m", "tests.faults.busy"]
    ran = subprocess.run(command, input=given, capture_output=True, text=True, check=True, cwd=ROOT)
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1800 if LONG else 300)
@pytest.mark.parametrize("kind", ["file", "postgres"])
def test_a_flow_ends_alike_wherever_its_process_was_killed(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    def job(seam: str = "", at: int = 0) -> Job:
        folder = tmp_path_factory.mktemp("job")
        return Job(url=url_of(kind, folder, request), journal=str(folder / "journal"), seam=seam, at=at)

    (usual,) = done([job()])
    assert not usual["error"]
    assert usual["outcome"][0] == "completed"
    passages = [(seam, at) for seam, count in usual["passed"].items() for at in range(1, count + 1)]
    seed = random.randrange(10**6)
    chosen = passages if LONG else random.Random(seed).sample(passages, SAMPLE)
    print(f"seed {seed}: {len(chosen)} of {len(passages)} passages of {len(usual['passed'])} seams")
    told = done([job(*passage) for passage in chosen])
    assert len(told) == len(chosen)
    for one in told:
        where = f"killed at passage {one['job']['at']} of {one['job']['seam']}: {one['error']}"
        assert (one["outcome"], one["steps"]) == (usual["outcome"], usual["steps"]), where
        # The call of a workflow has no task that would write its key down.
        assert len(set(one["keys"]) - set(one["ran"])) == 1, where
        assert set(one["ran"]) < set(one["keys"]), where
    # How often the clock has its way differs from run to run: a few passages are not reached.
    assert sum(one["killed"] for one in told) > 0.5 * len(told)
