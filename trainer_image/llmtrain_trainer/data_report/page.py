"""The report of a dataset as one HTML page that needs nothing else.

Below: `drawing`, the package's templates. Above: `publishing`.
"""

from __future__ import annotations

from itertools import groupby

from llmtrain_trainer.data_report.drawing import draw_counts, draw_flow, draw_lengths, draw_maps
from llmtrain_trainer.data_report.record import DataReport
from llmtrain_trainer.dataset.shards import DatasetManifest
from llmtrain_trainer.rendering import render_template


def render_page(report: DataReport, manifest: DatasetManifest) -> str:
    """Return the page of a report."""
    labels = {part.name: part.labels for part in report.parts if part.labels}
    if "train" not in labels:
        labels = {}
    sources = {f"{i}: {source.uri}": source.documents for i, source in enumerate(report.sources)}
    return render_template(
        "data_report.html.j2",
        report=report,
        manifest=manifest,
        flow_svg=draw_flow(report.steps),
        lengths_svg=draw_lengths(report.parts),
        sources_svg=draw_counts(sources, "documents") if len(sources) > 1 else "",
        languages_svg=draw_counts(report.languages, "documents of the sample"),
        labels_svg=draw_counts(labels["train"], "documents to train on") if labels else "",
        maps_svg=draw_maps(report.points) if report.points else "",
        labels=labels,
        dimensions=[
            (name, list(groups)) for name, groups in groupby(report.groups, lambda g: g.dimension)
        ],
    )
