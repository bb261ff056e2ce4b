"""Runs a task of lm-evaluation-harness on the model, by the harness itself and without network.

Below: `harness_task`; `lm_eval`, of the extra `harness`, which is imported only where a suite asks
for it. Above: `suites`.
"""

from __future__ import annotations

import copy
import importlib
import math
import tempfile
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.suites import Suite
from llmtrain_trainer.evaluation.answers import SuiteResult
from llmtrain_trainer.evaluation.harness_task import HarnessTask
from llmtrain_trainer.evaluation.suite_data import choose_evenly
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.model.lstm import MODEL_TYPE as LSTM


def run_task(
    suite: Suite,
    task: HarnessTask,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    batch_size: int,
    end_of_text: int,
    seed: int,
) -> SuiteResult:
    """Ask a causal model all that a task has, as text, without a template of turns.

    Args:
        suite: that names the task.
        task: what `read_task` found.
        model: on its own device.
        tokenizer: its own.
        context: tokens that it can read.
        batch_size: at a time; an LSTM, which reads padding, gets one.
        end_of_text: what stands before a text that begins with nothing.
        seed: of the examples that are shown before each question.

    Raises:
        DataError: the harness refuses the task; the message is its own.
    """
    harness = _import_harness()
    language_model = harness.HFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),  # which the harness gives a token for padding
        backend="causal",
        max_length=context,
        batch_size=1 if model.config.model_type == LSTM else batch_size,
        prefix_token_id=end_of_text,
    )
    with tempfile.TemporaryDirectory(prefix="llmtrain-harness-") as name:
        try:
            loaded = harness.TaskManager(include_defaults=False).load([task.download(Path(name))])
            ready = loaded["tasks"][task.name]
            if ready.config.num_fewshot is None:
                ready.set_config(key="num_fewshot", value=0)
            ready.set_fewshot_seed(seed=seed)
            numbers = choose_evenly(range(len(ready.eval_docs)), suite.max_examples)
            said = harness.evaluate(
                lm=language_model,
                task_dict=loaded,
                samples={task.name: numbers},
                bootstrap_iters=0,
                log_samples=False,
            )
        except (jinja2.TemplateError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"suite {suite.name}: lm-evaluation-harness cannot run {suite.uri}: {error!r}",
                reason="SuiteInvalid",
                next_step="run it by lm_eval --include_path where the harness is installed",
            ) from error
    return SuiteResult(
        suite=suite,
        num_examples=len(numbers),
        num_cut=0,
        metrics=_choose_metrics(task, said["results"][task.name]),
        worst=(),
        best=(),
    )


class _Harness:
    """The parts of lm_eval that are used."""

    def __init__(self) -> None:
        self.HFLM = importlib.import_module("lm_eval.models.huggingface").HFLM
        self.TaskManager = importlib.import_module("lm_eval.tasks").TaskManager
        self.evaluate = importlib.import_module("lm_eval.evaluator").evaluate


def _import_harness() -> _Harness:
    """Import lm_eval, with templates that can look at their data and at nothing else."""
    parts: Any = importlib.import_module("lm_eval.utils")
    if not isinstance(parts.env, ImmutableSandboxedEnvironment):
        sandbox = ImmutableSandboxedEnvironment(
            loader=jinja2.BaseLoader(),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        sandbox.filters.update(parts.env.filters)
        parts.env = sandbox
    return _Harness()


def _choose_metrics(task: HarnessTask, results: dict[str, Any]) -> dict[str, float]:
    """Return what was measured and is a number; of several filters the first one counts.

    Args:
        task: what was measured.
        results: by metric and filter, as {"acc,none": 0.5, "acc_stderr,none": "N/A"}.
    """
    found: dict[str, float] = {}
    for key, value in results.items():
        metric = key.partition(",")[0]
        if metric in task.metrics and metric not in found and math.isfinite(value):
            found[metric] = float(value)
    return found
