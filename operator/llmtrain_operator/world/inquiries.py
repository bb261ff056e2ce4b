"""What no watch tells: the progress of a run, why a pod does not start, whether a node is lost.

Below: `kube`, `pod_store`, `pod_warnings`, the agents' /progress. Above: `cluster` says which jobs
are of interest, `__main__` runs the rounds. A round is bounded in requests for each second, so that
a thousand running jobs cost no more than their share, and each answer comes less often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus

import aiohttp
from pydantic import ValidationError

from llmtrain_api import LLMTrainingJob, ProgressRecord
from llmtrain_operator.metrics import PROGRESS_PULLS
from llmtrain_operator.plan.types import ProcessState
from llmtrain_operator.world.kube import ApiError, KubeClient
from llmtrain_operator.world.pod_facts import PodFacts
from llmtrain_operator.world.pod_store import PodStore
from llmtrain_operator.world.pod_warnings import PodWarnings

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
"""How long an agent may take to answer."""
PULLS_PER_SECOND = 20
"""Inquiries in a second, over all jobs."""
CONCURRENT_PULLS = 16
LOOK_SECONDS = 2.0
"""Where few jobs run, each is looked at so often, whether it is time to ask for progress or not."""
MAX_PATIENCE = 8
"""A pod that does not answer is asked again after 2, 4, 8 times the usual time only."""
STARTING_SECONDS = 4.0
"""A pod that is bound to a node and does not run after this may lack something."""
LOST_SECONDS = 10.0
"""A pod that is still there so long after its grace ended may be on a lost node."""


@dataclass(slots=True)
class Inquiry:
    """What is asked about one job, and what was answered last."""

    job: LLMTrainingJob
    progress: ProgressRecord | None = None
    hindrance: tuple[str, str] | None = None
    """Name of a pod that does not start, and why."""
    patience: int = 1
    """Times the usual time until the next question; more than 1 where none was answered."""
    ask_at: float = 0.0
    """When its progress is asked for next, on the event loop's clock."""


class Inquiries:
    """Asks about the jobs that it was told of, round by round."""

    def __init__(
        self,
        client: KubeClient,
        agents: aiohttp.ClientSession,
        pods: PodStore,
        *,
        on_news: Callable[[str], None],
        clock: Callable[[], datetime],
        round_seconds: float,
    ) -> None:
        """Tell `on_news` the key of each job of which something new was heard.

        `agents` is a session without credentials: pods must not see the operator's token.
        """
        self._client = client
        self._agents = agents
        self._pods = pods
        self._warnings = PodWarnings(client)
        self._on_news = on_news
        self._clock = clock
        self._round_seconds = round_seconds
        self._inquiries: dict[str, Inquiry] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_PULLS)

    def follow(self, job: LLMTrainingJob) -> Inquiry:
        """Ask about a job from now on; returns what is known."""
        inquiry = self._inquiries.get(job.key)
        if inquiry is None or inquiry.job.metadata.uid != job.metadata.uid:
            inquiry = self._inquiries[job.key] = Inquiry(job)
        inquiry.job = job
        return inquiry

    def forget(self, key: str) -> None:
        """Ask no more about a job."""
        self._inquiries.pop(key, None)

    def is_hindered(self, key: str) -> bool:
        """Tell whether a pod of the job lacks something that it needs to start."""
        inquiry = self._inquiries.get(key)
        return inquiry is not None and inquiry.hindrance is not None

    async def run(self) -> None:
        """Make rounds until cancelled."""
        while True:
            keys = list(self._inquiries)
            began = asyncio.get_running_loop().time()
            shortest = min(LOOK_SECONDS, self._round_seconds)
            seconds = max(shortest, len(keys) / PULLS_PER_SECOND)
            async with asyncio.TaskGroup() as group:
                for position, key in enumerate(keys):
                    await asyncio.sleep(
                        began + seconds * position / len(keys) - asyncio.get_running_loop().time()
                    )
                    if (inquiry := self._inquiries.get(key)) is not None:
                        group.create_task(self._ask(inquiry))
            remaining = began + seconds - asyncio.get_running_loop().time()
            await asyncio.sleep(min(remaining, 1.0) if not keys else remaining)

    async def _ask(self, inquiry: Inquiry) -> None:
        async with self._slots:
            try:
                for facts in list(self._pods.iterate_facts(inquiry.job.metadata.uid)):
                    await self._check_leaving(facts)
                news = await self._ask_progress(inquiry)
                news |= await self._ask_hindrance(inquiry)
            except Exception as error:  # whatever went wrong must not stop the other questions
                logger.warning("%s: asking about its pods: %r", inquiry.job.key, error)
                return
        if news:
            self._on_news(inquiry.job.key)

    async def _ask_progress(self, inquiry: Inquiry) -> bool:
        address = self._find_leader(inquiry.job)
        now = asyncio.get_running_loop().time()
        if address is None or now < inquiry.ask_at:
            return False
        record = await self._pull(address)
        PROGRESS_PULLS.labels("unreachable" if record is None else "answered").inc()
        inquiry.patience = 1 if record is not None else min(2 * inquiry.patience, MAX_PATIENCE)
        # Half a look earlier, so that the look at that time does not just miss it.
        inquiry.ask_at = now + self._round_seconds * inquiry.patience - LOOK_SECONDS / 2
        if record is None:
            return False
        inquiry.progress = record
        return True

    def _find_leader(self, job: LLMTrainingJob) -> str | None:
        for observed in self._pods.list_of(job.metadata.uid):
            is_leader = observed.process.index == 0 and observed.process.stage is job.status.stage
            if is_leader and observed.state is ProcessState.RUNNING and observed.ready:
                return observed.address
        return None

    async def _pull(self, address: str) -> ProgressRecord | None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with self._agents.get(f"http://{address}/progress", timeout=timeout) as answer:
                return ProgressRecord.model_validate_json(await answer.read(), extra="ignore")
        except (aiohttp.ClientError, TimeoutError, ValidationError):
            return None

    async def _ask_hindrance(self, inquiry: Inquiry) -> bool:
        """Look for Warning events of the first pod that should have started by now.

        A Secret or ConfigMap that is missing is told nowhere else: the pod says only that its
        container is being created.
        """
        found = None
        if (stuck := self._find_stuck(inquiry.job)) is not None:
            namespace = inquiry.job.metadata.namespace
            if (warning := await self._warnings.find(namespace, stuck.uid)) is not None:
                found = (stuck.observed.process.name, warning)
        before, inquiry.hindrance = inquiry.hindrance, found
        return before != found

    def _find_stuck(self, job: LLMTrainingJob) -> PodFacts | None:
        limit = self._clock() - timedelta(seconds=STARTING_SECONDS)
        for facts in self._pods.iterate_facts(job.metadata.uid):
            pod = facts.observed
            is_waiting = pod.state is ProcessState.WAITING and not pod.waiting_reason
            if is_waiting and pod.node and pod.created_at and pod.created_at < limit:
                return facts
        return None

    async def _check_leaving(self, facts: PodFacts) -> None:
        """Declare a pod lost that was told to go, where its node is gone or does not answer.

        Its kubelet would have said that it ended; without one nobody ever will. A node that says
        itself that it is not ready may be shutting down: its pods keep their grace.
        """
        node = facts.observed.node
        if facts.deadline is None or facts.observed.state is not ProcessState.LEAVING or not node:
            return
        is_overdue = self._clock() >= facts.deadline + timedelta(seconds=LOST_SECONDS)
        try:
            status = (await self._client.get(f"/api/v1/nodes/{node}")).get("status", {})
            conditions = status.get("conditions") or []
            ready = next((c["status"] for c in conditions if c["type"] == "Ready"), "")
            is_lost = ready == "Unknown" or (is_overdue and ready != "True")
        except ApiError as error:
            if error.status == HTTPStatus.FORBIDDEN:  # as where only some namespaces are watched
                return
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            is_lost = is_overdue
        if is_lost:
            self._pods.declare_lost(facts)
