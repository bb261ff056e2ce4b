"""Every metric of the operator, in one place. Names and labels are an interface.

Below: prometheus_client. Above: whoever counts something, and `__main__`, which serves them.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS = Histogram(
    "llmtrain_operator_reconcile_seconds",
    "Duration of one pass over one job, by how it ended (done, conflict, error).",
    ["outcome"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
QUEUE_DEPTH = Gauge("llmtrain_operator_queue_depth", "Jobs that wait for a worker of the queue.")
LEADING = Gauge("llmtrain_operator_leading", "1 while this replica holds the Lease.")
API_REQUESTS = Counter(
    "llmtrain_operator_api_requests_total",
    "Requests answered by the apiserver, watches aside, by HTTP method and status code.",
    ["method", "code"],
)
WATCH_RESTARTS = Counter(
    "llmtrain_operator_watch_restarts_total",
    "Watches of pods that ended and were begun anew, by why (ended, gone, error).",
    ["cause"],
)
PODS = Gauge("llmtrain_operator_pods", "Worker pods that the operator knows.")
JOBS = Gauge("llmtrain_jobs", "Jobs by namespace and phase.", ["namespace", "phase"])
ATTEMPTS = Counter(
    "llmtrain_attempts_ended_total",
    "Processes that ended without success, by namespace, stage and reason.",
    ["namespace", "stage", "reason"],
)
PROGRESS_PULLS = Counter(
    "llmtrain_operator_progress_pulls_total",
    "Requests for the progress of a job, by outcome (answered, unreachable).",
    ["outcome"],
)
