"""One pass over one job: observe, decide, carry out, say so.

Below: `plan` decides, a `World` observes and applies. Above: the work queue calls `reconcile`
with a key; so does `llmtrain run`. A pass may be cut off at any instruction and repeated: names
are deterministic, the status is written after the processes, and nothing is remembered here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from llmtrain_operator.plan import explain_refusals, plan_job
from llmtrain_operator.plan.writes import can_wait, is_worth_writing
from llmtrain_operator.world import World

REFUSED_RETRY_SECONDS = 10.0
"""Until creations that the platform refused are tried again."""

SAY_LATER_SECONDS = 10.0
"""Until a job without a status is looked at again, where a crowd of others comes first. Whatever
happens to its processes wakes it before that."""


async def reconcile(
    key: str,
    world: World,
    clock: Callable[[], datetime],
    is_crowded: Callable[[], bool] = lambda: False,
) -> float | None:
    """Bring the job `namespace/name` one step closer to what it asks for.

    Args:
        key: of the job.
        world: where it is observed and carried out.
        clock: gives the time in UTC.
        is_crowded: tells whether many jobs have just come. Their processes come before the words
            on a job whose processes only start.

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
    if not refusals and can_wait(job.status, plan.status, observed, now) and is_crowded():
        return SAY_LATER_SECONDS
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
