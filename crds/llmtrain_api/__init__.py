"""The contract that every part of llmtrain shares.

`job` and `status` are the custom resource, `run` is what the operator tells a pod, `records`
are what a pod tells the operator. Nothing here imports another package of the project.
"""

from llmtrain_api.base import API_VERSION, GROUP, KIND, PLURAL, VERSION
from llmtrain_api.job import JobSpec, LLMTrainingJob
from llmtrain_api.records import ExitCode, ExitRecord, ProgressRecord
from llmtrain_api.run import RunConfig
from llmtrain_api.status import JobStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "ExitCode",
    "ExitRecord",
    "JobSpec",
    "JobStatus",
    "LLMTrainingJob",
    "ProgressRecord",
    "RunConfig",
]
