"""`python -m llmtrain_api [--check]`: writes the CRD, or fails where the files are out of date.

Run from the root of the repository. Below: `schema`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from llmtrain_api.schema import build_crd

CRD_FILES = (
    Path("crds/llmtrainingjobs.yaml"),
    Path("helm/llmtrain/files/llmtrainingjobs.yaml"),
)
"""The CRD and the chart's copy of it: Helm reads nothing outside a chart."""

HEADER = "# Generated from the models in crds/llmtrain_api by `python -m llmtrain_api`.\n"


class _Dumper(yaml.SafeDumper):
    """Writes repeated values in full: aliases are legal YAML that people do not read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render_crd() -> str:
    """Return the CRD as YAML text."""
    document = yaml.dump(
        build_crd(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return HEADER + document


def main(arguments: list[str] | None = None) -> int:
    """Write or check the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llmtrain_api", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a file differs"
    )
    check = parser.parse_args(arguments).check
    text = render_crd()
    stale = [path for path in CRD_FILES if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path} is not what the models say; run: python -m llmtrain_api")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
