"""Any order of changes, work and accidents ends with the truth, and breaks no promise on the way."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.bace import BaceMachine
from tests.model.beddit import BedditMachine
from tests.model.house import House
from tests.model.joint import JointMachine
from tests.model.machine import PipelineMachine

CAMPAIGN = int(os.environ.get("NIGHTSHIFT_MODEL_EXAMPLES", "0"))
"""Examples of each machine for a long campaign; else a short one, always the same."""

SEED = int(os.environ.get("NIGHTSHIFT_MODEL_SEED", "0"))

SHRINK = "NIGHTSHIFT_MODEL_SHRINK" in os.environ
"""Whether a failure is made small, which takes minutes."""


def profile(examples: int, steps: int) -> settings:
    """How long a machine runs."""
    return settings(
        max_examples=CAMPAIGN or examples,
        stateful_step_count=3 * steps if CAMPAIGN else steps,
        derandomize=not CAMPAIGN,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
    )


def run(machine: type[PipelineMachine], house: House, examples: int, steps: int) -> None:
    """Run a machine."""

    def factory() -> PipelineMachine:
        return machine(house)

    if CAMPAIGN:
        seed(SEED)(factory)
    try:
        run_state_machine_as_test(factory, settings=profile(examples, steps))
    finally:
        print(machine.__name__, dict(+house.happened))  # noqa: T201 - pytest shows it for a campaign (-s)


@pytest.mark.timeout(0 if CAMPAIGN else 120)
def test_beddit(house: House) -> None:
    """Nights that change in every way, under two processes that are frozen, killed and cut off."""
    run(BedditMachine, house, examples=9, steps=25)


@pytest.mark.timeout(0 if CAMPAIGN else 120)
def test_bace(house: House) -> None:
    """Sessions that live, change and vanish, of two accounts that share some, under two such processes."""
    run(BaceMachine, house, examples=6, steps=25)


@pytest.mark.timeout(0 if CAMPAIGN else 120)
def test_both(house: House) -> None:
    """Both vendors in one warehouse."""
    run(JointMachine, house, examples=3, steps=20)
