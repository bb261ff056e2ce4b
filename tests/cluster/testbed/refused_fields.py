"""Bad values of one field or part of a job, whatever the other parts say."""

from __future__ import annotations

from typing import Any

from testbed.refusal import Refusal

SUITE: dict[str, Any] = {"name": "qa", "uri": "s3://corpus/qa.jsonl"}

FIELDS = {
    "replicas -1": Refusal(
        changes={"spec__workers__replicas": -1},
        field="spec.workers.replicas",
        server_says="should be greater than or equal to 1",
    ),
    "no steps": Refusal(
        changes={"spec__training__steps": 0},
        field="spec.training.steps",
        server_says="should be greater than or equal to 1",
    ),
    "too many replicas": Refusal(
        changes={"spec__workers__replicas": 10_001},
        field="spec.workers.replicas",
        server_says="should be less than or equal to 10000",
    ),
    "nothing held out": Refusal(
        changes={"spec__data__split": {"validationFraction": 0.0}},
        field="spec.data.split.validationFraction",
        server_says="should be greater than 0",
    ),
    "relabelled without labels": Refusal(
        changes={"spec__data__relabel": [{"uri": "s3://corpus/labels.jsonl"}]},
        field="spec.data",
        server_says="relabel needs fields.label",
    ),
    "dropout 1": Refusal(
        changes={"spec__model__dropout": 1.0},
        field="spec.model.dropout",
        server_says="should be less than 1",
    ),
    "a number that is text": Refusal(
        changes={"spec__training__steps": "many"},
        field="spec.training.steps",
        server_says="must be of type integer",
        pydantic_says="should be a valid integer",
    ),
    "uri of another scheme": Refusal(
        changes={"spec__data__sources": [{"uri": "gs://corpus/books"}]},
        field="spec.data.sources[0].uri",
        server_says="should match '^s3://",
        pydantic_says="should match pattern '^s3://",
    ),
    "uri with a space": Refusal(
        changes={"spec__storage__uri": "s3://models/my run"},
        field="spec.storage.uri",
        server_says="should match '^s3://",
        pydantic_says="should match pattern '^s3://",
    ),
    "endpoint without a scheme": Refusal(
        changes={"spec__storage__endpoint": "minio:9000"},
        field="spec.storage.endpoint",
        server_says="should match '^https?://",
        pydantic_says="should match pattern '^https?://",
    ),
    "no sources": Refusal(
        changes={"spec__data__sources": []},
        field="spec.data.sources",
        server_says="should have at least 1 items",
        pydantic_says="should have at least 1 item",
    ),
    "unknown architecture": Refusal(
        changes={"spec__model__architecture": "gpt5"},
        field="spec.model.architecture",
        server_says='supported values: "gpt2", "llama"',
        pydantic_says="should be 'gpt2', 'llama', 'bert', 't5' or 'lstm'",
    ),
    "name of 64 characters": Refusal(
        changes={"metadata__name": "n" * 64},
        field="metadata.name",
        server_says="may not be more than 52",
        pydantic_says="should have at most 52 characters",
    ),
    "name that starts with a digit": Refusal(
        changes={"metadata__name": "7b"},
        field="metadata.name",
        server_says="should match '^[a-z]",
        pydantic_says="should match pattern '^[a-z]",
    ),
    "pretrained tokenizer from nowhere": Refusal(
        changes={"spec__data__tokenizer": {"kind": "pretrained"}},
        field="spec.data.tokenizer",
        server_says="uri names the model directory of kind: pretrained",
    ),
    "time of documents that have none": Refusal(
        changes={"spec__data__split": {"method": "time"}},
        field="spec.data",
        server_says="every source needs a splitField",
    ),
    "vocabulary without room for words": Refusal(
        changes={"spec__data__tokenizer": {"kind": "wordpiece", "vocabularySize": 400}},
        field="spec.data.tokenizer",
        server_says="vocabularySize must be at least 600 for kind: wordpiece",
    ),
    "trained tokenizer from somewhere": Refusal(
        changes={"spec__data__tokenizer": {"kind": "bpe", "uri": "s3://models/tokenizer/"}},
        field="spec.data.tokenizer",
        server_says="only of that kind",
    ),
    "digest of many objects": Refusal(
        changes={"spec__data__sources": [{"uri": "s3://corpus/*.txt", "sha256": "0" * 64}]},
        field="spec.data.sources",
        server_says="sha256 is the digest of one object",
    ),
    "split of no dataset": Refusal(
        changes={"spec__data__sources": [{"uri": "s3://corpus/a/", "split": "train"}]},
        field="spec.data.sources",
        server_says="split is for format: huggingface",
    ),
    "dataset that is no directory": Refusal(
        changes={"spec__data__sources": [{"uri": "s3://corpus/a", "format": "huggingface"}]},
        field="spec.data.sources",
        server_says="format: huggingface needs a uri that ends in /",
    ),
    "longest document below the shortest": Refusal(
        changes={"spec__data__clean": {"minCharacters": 10, "maxCharacters": 9}},
        field="spec.data.clean",
        server_says="maxCharacters must be at least minCharacters",
    ),
    "two kinds of conversation": Refusal(
        changes={
            "spec__data__sources": [
                {
                    "uri": "s3://corpus/a.jsonl",
                    "fields": {"messages": "m", "prompt": "p", "response": "r"},
                }
            ]
        },
        field="spec.data.sources",
        server_says="give one of messages, prompt with response",
    ),
    "prompt without a response": Refusal(
        changes={
            "spec__data__sources": [{"uri": "s3://corpus/a.jsonl", "fields": {"prompt": "p"}}]
        },
        field="spec.data.sources",
        server_says="prompt and response go together",
    ),
    "conversation by a template": Refusal(
        changes={
            "spec__data__sources": [
                {"uri": "s3://corpus/a.jsonl", "template": "{a}", "fields": {"messages": "m"}}
            ]
        },
        field="spec.data.sources",
        server_says="template is for records that are not read as turns",
    ),
    "conversations cut by the tail split": Refusal(
        changes={
            "spec__data": {
                "sources": [{"uri": "s3://corpus/a.jsonl", "fields": {"messages": "m"}}],
                "split": {"method": "tail"},
            }
        },
        field="spec.data",
        server_says="are not for sources whose fields make conversations",
    ),
    "nothing left to train on": Refusal(
        changes={"spec__data__split": {"validationFraction": 0.5, "testFraction": 0.5}},
        field="spec.data.split",
        server_says="together must be less than 1",
    ),
    "checkpoint of no step": Refusal(
        changes={"spec__evaluation": {"checkpoints": ["best", "step-0"]}},
        field="spec.evaluation.checkpoints[1]",
        server_says="should match '^(final|best|step-",
        pydantic_says="should match pattern '^(final|best|step-",
    ),
    "a checkpoint twice": Refusal(
        changes={"spec__evaluation": {"checkpoints": ["best", "best"]}},
        field="spec.evaluation",
        server_says="names a checkpoint twice",
    ),
    "typo in a gate's metric": Refusal(
        changes={"spec__evaluation": {"gates": ["loss < 4", "perplexty < 40"]}},
        field="spec.evaluation.gates[1]",
        server_says="a metric that there is not; known here: loss, perplexity",
        pydantic_says="unknown metric perplexty; known here: loss, perplexity",
    ),
    "gate on a suite that there is not": Refusal(
        changes={"spec__evaluation": {"gates": ["qa.bleu > 4"]}},
        field="spec.evaluation",
        server_says="a metric of a suite that evaluation.suites has not",
        pydantic_says="gates[0]: unknown metric qa.bleu",
    ),
    "gate on what the unigram has not": Refusal(
        changes={"spec__evaluation": {"gates": ["unigram.accuracy > 4"]}},
        field="spec.evaluation",
        server_says="a metric of a suite that evaluation.suites has not",
        pydantic_says="gates[0]: unknown metric unigram.accuracy",
    ),
    "suite with the name of a baseline": Refusal(
        changes={"spec__evaluation": {"suites": [SUITE | {"name": "unigram"}]}},
        field="spec.evaluation.suites[0].name",
        server_says="a suite cannot be named baseline, majority, tfidf or unigram",
    ),
    "two suites of one name": Refusal(
        changes={"spec__evaluation": {"suites": [SUITE, SUITE]}},
        field="spec.evaluation",
        server_says="every suite needs a name of its own",
    ),
    "suite of many objects": Refusal(
        changes={"spec__evaluation": {"suites": [SUITE | {"uri": "s3://corpus/qa/"}]}},
        field="spec.evaluation.suites[0].uri",
        server_says="should match '^s3://",
        pydantic_says="should match pattern '^s3://",
    ),
    "gate that compares nothing": Refusal(
        changes={"spec__evaluation": {"gates": ["loss"]}},
        field="spec.evaluation.gates[0]",
        server_says="a gate compares metrics with numbers",
    ),
    "gate against no baseline": Refusal(
        changes={"spec__evaluation": {"gates": ["loss < baseline.loss"]}},
        field="spec.evaluation",
        server_says="needs evaluation.baseline",
    ),
    "width that heads do not divide": Refusal(
        changes={"spec__model": {"heads": 6, "hiddenSize": 100}},
        field="spec.model",
        server_says="hiddenSize must be a multiple of heads",
    ),
    "grouped heads for gpt2": Refusal(
        changes={"spec__model": {"keyValueHeads": 2}},
        field="spec.model",
        server_says="keyValueHeads is for architecture: llama only",
    ),
    "heads of an lstm": Refusal(
        changes={"spec__model": {"architecture": "lstm", "heads": 2}},
        field="spec.model",
        server_says="heads is not for architecture: lstm",
    ),
    "grouped heads of a number that is not known": Refusal(
        changes={"spec__model": {"architecture": "llama", "size": 10**7, "keyValueHeads": 2}},
        field="spec.model",
        server_says="size with keyValueHeads needs heads",
    ),
    "objective of another architecture": Refusal(
        changes={"spec__training__objective": "masked"},
        field="spec",
        server_says="causal for gpt2, llama and lstm, masked for bert",
    ),
    "a pretrained model with a shape": Refusal(
        changes={"spec__model": {"from": "s3://models/gpt2", "layers": 2}},
        field="spec.model",
        server_says="from brings its own shape",
    ),
    "a pretrained model with a tokenizer of bytes": Refusal(
        changes={
            "spec__model": {"from": "s3://models/gpt2"},
            "spec__data__tokenizer": {"kind": "byte"},
        },
        field="spec",
        server_says="with model.from the tokenizer is the model's own",
    ),
    "adapters without a pretrained model": Refusal(
        changes={"spec__training": {"steps": 1, "lora": {}}},
        field="spec",
        server_says="training.lora and training.freeze need model.from",
    ),
    "adapters and frozen layers": Refusal(
        changes={
            "spec__model": {"from": "s3://models/gpt2"},
            "spec__training": {"steps": 1, "lora": {}, "freeze": {"layers": 2}},
        },
        field="spec.training",
        server_says="give either lora or freeze",
    ),
    "classification of an lstm": Refusal(
        changes={
            "spec__model": {"architecture": "lstm"},
            "spec__training": {"steps": 1, "objective": "classification"},
        },
        field="spec",
        server_says="or classification for gpt2, llama and bert",
    ),
    "answers without pairs": Refusal(
        changes={
            "spec__model": {"architecture": "t5"},
            "spec__training": {"steps": 1, "objective": "sequence-to-sequence"},
        },
        field="spec",
        server_says="sequence-to-sequence needs fields.source and target",
    ),
    "classification without labels": Refusal(
        changes={"spec__training": {"steps": 1, "objective": "classification"}},
        field="spec",
        server_says="classification needs fields.label",
    ),
    "classification by one label here and several there": Refusal(
        changes={
            "spec__training": {"steps": 1, "objective": "classification"},
            "spec__data__sources": [
                {"uri": "s3://corpus/a.jsonl", "fields": {"label": "kind"}},
                {"uri": "s3://corpus/b.jsonl", "fields": {"labels": "kinds"}},
            ],
        },
        field="spec",
        server_says="or fields.labels in every one",
    ),
    "a batch in sequences and in tokens": Refusal(
        changes={"spec__training__batchSize": 8, "spec__training__batchTokens": 4096},
        field="spec.training",
        server_says="give either batchSize, in sequences, or batchTokens",
    ),
    "a batch of parts of sequences": Refusal(
        changes={"spec__training__batchTokens": 1000},
        field="spec.training",
        server_says="batchTokens must be a multiple of sequenceLength",
    ),
    "a micro-batch that is given and found": Refusal(
        changes={"spec__training__microBatchSize": 8, "spec__training__autoMicroBatch": True},
        field="spec.training",
        server_says="give either microBatchSize, or autoMicroBatch",
    ),
    "both a label and labels": Refusal(
        changes={
            "spec__data__sources": [
                {"uri": "s3://corpus/a.jsonl", "fields": {"label": "a", "labels": "b"}}
            ]
        },
        field="spec.data.sources[0].fields",
        server_says="give either label, one class, or labels",
    ),
    "more spans than there are tokens for": Refusal(
        changes={
            "spec__model": {"architecture": "t5"},
            "spec__training__sequenceLength": 4096,
        },
        field="spec",
        server_says="must be at most 100 (spans of a sequence)",
    ),
    "vocabulary without room for spans": Refusal(
        changes={
            "spec__model": {"architecture": "t5"},
            "spec__data__tokenizer": {"vocabularySize": 500},
        },
        field="spec",
        server_says="vocabularySize must be at least 1000 for architecture: t5",
    ),
    "a precision that is not offered": Refusal(
        changes={"spec__training__precision": "fp8"},
        field="spec.training.precision",
        server_says='supported values: "auto", "fp32", "bf16", "fp16"',
        pydantic_says="Input should be 'auto', 'fp32', 'bf16' or 'fp16'",
    ),
    "micro batch that does not divide": Refusal(
        changes={"spec__training": {"steps": 1, "batchSize": 32, "microBatchSize": 5}},
        field="spec.training",
        server_says="batchSize must be a multiple of microBatchSize",
    ),
    "ranks that groups do not divide": Refusal(
        changes={"spec__workers": {"processesPerWorker": 3, "tensorParallel": 2}},
        field="spec.workers",
        server_says="processesPerWorker must be a multiple of tensorParallel",
    ),
    "fewer than the least": Refusal(
        changes={"spec__workers": {"replicas": 2, "elastic": {"minReplicas": 4}}},
        field="spec.workers",
        server_says="replicas must be at least elastic.minReplicas",
    ),
    "no grace": Refusal(
        changes={"spec__workers__elastic": {"graceSeconds": 0}},
        field="spec.workers.elastic.graceSeconds",
        server_says="should be greater than or equal to 1",
    ),
    "negative memory": Refusal(
        changes={"spec__workers__resources": {"memory": "-1Gi"}},
        field="spec.workers.resources.memory",
        server_says="should match '^[0-9]+",
        pydantic_says="should match pattern '^[0-9]+",
    ),
    "negative cores": Refusal(
        changes={"spec__workers__resources": {"cpu": -1}},
        field="spec.workers.resources.cpu",
        server_says="should be greater than or equal to 0",
        pydantic_says="should match pattern '^[0-9]+",
    ),
    "a run of two lengths": Refusal(
        changes={"spec__training": {"steps": 1, "epochs": 2}},
        field="spec.training",
        server_says="give exactly one of steps, tokens and epochs",
    ),
    "a run of no length": Refusal(
        changes={"spec__training": {}},
        field="spec.training",
        server_says="give exactly one of steps, tokens and epochs",
    ),
    "misspelt field": Refusal(
        changes={"spec__training__stpes": 5},
        field="spec.training.stpes",
        server_says="unknown field",
        pydantic_says="Extra inputs are not permitted",
    ),
    "nothing to train on": Refusal(
        changes={"spec__data": {}},
        field="spec.data.sources",
        server_says="Required value",
        pydantic_says="Field required",
    ),
}
