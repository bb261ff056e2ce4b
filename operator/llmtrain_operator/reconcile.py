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


async def reconcile(key: str, world: World, clock: Callable[[], datetime]) -> float | None:
    """Bring the job `namespace/name` one step closer to what it asks for.

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
