"""The pods as last heard of: what the watch says, and at once what our own requests answered.

Below: `pod_facts`. Above: `watch` feeds it, `cluster` reads it and feeds it what it created.

Nothing here may be older than what a caller has done itself: a pod that was created a moment ago
is in the store before the watch tells of it. That is what Kubernetes' controllers keep
expectations for, and it spares a large job thousands of creations that would be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from llmtrain_operator.metrics import PODS
from llmtrain_operator.plan.types import ObservedProcess, ProcessState
from llmtrain_operator.world.pod_facts import ENDED_STATES, PodFacts, read_pod

MAX_BURIED = 10_000
"""Pods that are remembered as gone, the newest: longer than any answer is late."""


class PodStore:
    """Facts of all worker pods, by the uid of their job.

    A pod that went without our asking is remembered as ended: its end has to be counted before
    another takes its place, and the API forgets it at once.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        """Tell `on_change` the key of each job of which a pod changed."""
        self._on_change = on_change
        self._pods: dict[str, dict[str, PodFacts]] = {}
        self._gone: dict[str, dict[str, PodFacts]] = {}
        self._dismissed: set[str] = set()
        self._buried: dict[str, None] = {}
        """uids of pods that went, oldest first: an answer about one may come after its end."""

    def list_of(self, owner_uid: str) -> tuple[ObservedProcess, ...]:
        """Return the processes of a job: its pods, and those whose end is not yet counted."""
        return tuple(facts.observed for facts in self.iterate_facts(owner_uid))

    def iterate_facts(self, owner_uid: str) -> Iterator[PodFacts]:
        """Yield what is known of a job's pods, those that are gone first."""
        yield from self._gone.get(owner_uid, {}).values()
        yield from self._pods.get(owner_uid, {}).values()

    def find(self, owner_uid: str, name: str) -> PodFacts | None:
        """Return what is known of a pod that exists, by its name."""
        return self._pods.get(owner_uid, {}).get(name)

    def note(self, pod: dict[str, Any]) -> None:
        """Take in a pod as the API shows it; what is older than what is known is ignored."""
        facts = read_pod(pod)
        if facts is None or facts.uid in self._buried:
            return
        pods = self._pods.setdefault(facts.owner_uid, {})
        name = facts.observed.process.name
        known = pods.get(name)
        if known is not None and known.version >= facts.version:
            return
        if known is None:
            PODS.inc()
        pods[name] = facts
        if known is None or known.observed != facts.observed:
            self._on_change(facts.key)

    def note_gone(self, pod: dict[str, Any]) -> None:
        """Take in that a pod is no more; `pod` is its last state."""
        facts = read_pod(pod)
        if facts is None:
            return
        self._bury(facts.uid)
        known = self.find(facts.owner_uid, facts.observed.process.name)
        if known is not None and known.uid == facts.uid:
            self._drop(facts)
        else:
            self._on_change(facts.key)

    def replace_all(self, pods: Iterable[dict[str, Any]], version: int, namespace: str) -> None:
        """Take in a list of all pods of a namespace ("": of all), as of `version`."""
        listed: set[str] = set()
        for pod in pods:
            listed.add(pod["metadata"]["uid"])
            self.note(pod)
        vanished = [
            facts
            for owned in self._pods.values()
            for facts in owned.values()
            if facts.uid not in listed
            # Younger than the list: created since.
            and facts.version <= version
            and (not namespace or facts.key.startswith(f"{namespace}/"))
        ]
        for facts in vanished:
            self._drop(facts)

    def dismiss(self, owner_uid: str, name: str) -> PodFacts | None:
        """Note that we want a pod gone, so that its going needs no counting; return its facts."""
        self._gone.get(owner_uid, {}).pop(name, None)
        facts = self.find(owner_uid, name)
        if facts is not None:
            self._dismissed.add(facts.uid)
        return facts

    def drop(self, facts: PodFacts) -> None:
        """Note that the API does not know a pod any more."""
        known = self.find(facts.owner_uid, facts.observed.process.name)
        if known is not None and known.uid == facts.uid:
            self._drop(known)

    def declare_lost(self, facts: PodFacts) -> None:
        """Note that a pod that was told to go ended with its node, which cannot say so itself."""
        lost = replace(facts.observed, state=ProcessState.FAILED, ended_by="NodeLost")
        self._pods[facts.owner_uid][lost.process.name] = replace(facts, observed=lost)
        self._on_change(facts.key)

    def forget_job(self, owner_uid: str) -> None:
        """Note that a job is no more: nobody counts the ends of its pods."""
        self._gone.pop(owner_uid, None)
        for facts in self._pods.get(owner_uid, {}).values():
            self._dismissed.add(facts.uid)

    def _bury(self, uid: str) -> None:
        self._buried[uid] = None
        if len(self._buried) > MAX_BURIED:
            del self._buried[next(iter(self._buried))]

    def _drop(self, last: PodFacts) -> None:
        self._bury(last.uid)
        pods = self._pods[last.owner_uid]
        name = last.observed.process.name
        del pods[name]
        PODS.dec()
        if not pods:
            del self._pods[last.owner_uid]
        if last.uid in self._dismissed:
            self._dismissed.discard(last.uid)
        else:
            observed = last.observed
            if observed.state not in ENDED_STATES:
                observed = replace(observed, state=ProcessState.FAILED, ended_by="Deleted")
            gone = self._gone.setdefault(last.owner_uid, {})
            gone[name] = replace(last, observed=observed)
        self._on_change(last.key)
