"""One pass over one job: observe, decide, carry out, say so.

Below: `plan` decides, a `World` observes and applies. Above: the work queue calls `reconcile`
with a key; so does `llmtrain run`. A pass may be cut off at any instruction and repeated: names
are deterministic, the status is written after the processes, and nothing is remembered here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from llmtrain_operator.plan import explain_refusals, plan_job
from llmtrain_operator.plan.writes import is_worth_writing
from llmtrain_operator.world import World

REFUSED_RETRY_SECONDS = 10.0
"""Until creations that the platform refused are tried again."""

SAY_LATER_SECONDS = 2.0
"""Until a job whose processes were just started has its first status, where others come first."""


async def reconcile(
    key: str,
    world: World,
    clock: Callable[[], datetime],
    others_wait: Callable[[], bool] = lambda: False,
) -> float | None:
    """Bring the job `namespace/name` one step closer to what it asks for.

    Args:
        key: of the job.
        world: where it is observed and carried out.
        clock: gives the time in UTC.
        others_wait: tells whether jobs that have no process yet wait for their turn. These come
            before the words on a job that has just got its first ones.

    Returns:
        Seconds after which to look again even if nothing happens; None: only when something does.

    Raises:
        ConflictError: the job changed meanwhile; the caller tries again.
    """
    job = await world.read_job(key)
    if job is None:
        return None
    observed = await world.observe(job)
    now = clock()
    plan = plan_job(job, observed, now)
    refusals = await world.apply(job, plan)
    is_first_start = plan.start and not observed.processes
    if is_first_start and not refusals and others_wait():
        return SAY_LATER_SECONDS  # there are no facts of earlier processes that could be lost
    if plan.start:
        # What was started can be seen by now: saying so at once saves a second status.
        plan = plan_job(job, await world.observe(job), now)
    status = explain_refusals(plan.status, refusals, now)
    if is_worth_writing(job.status, status, now):
        await world.write_status(job, status)
        await world.publish(job, plan.events)
    if refusals:
        return REFUSED_RETRY_SECONDS
    return plan.requeue_after_seconds
