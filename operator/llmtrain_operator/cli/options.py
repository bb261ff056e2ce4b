"""Options that several commands of the command line share.

Below: click. Above: the words of the command line. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

DEFAULT_STORE = Path("llmtrain-store")
DEFAULT_NAMESPACE = "default"

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

Command = Callable[..., Any]

store_option = click.option(
    "--store",
    type=FOLDER,
    default=DEFAULT_STORE,
    show_default=True,
    help="Folder that takes the place of the object store: s3://bucket/key is STORE/bucket/key.",
)
namespace_option = click.option(
    "--namespace", "-n", default=None, help="Namespace of the job, as in a cluster."
)


def s3_options(command: Command) -> Command:
    """Add the options that say how an S3 server is reached."""
    for option in (
        click.option("--ca-file", type=FILE, default=None, help="The authority of --endpoint."),
        click.option(
            "--credentials", type=FOLDER, default=None, help="Folder: accessKey, secretKey."
        ),
        click.option("--endpoint", default=None, help="The S3 server of URIs.  [default: AWS]"),
    ):
        command = option(command)
    return command
