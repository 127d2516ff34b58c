"""``dsvl schema``: the JSON schema of a job file."""

from __future__ import annotations

import argparse
import json

from dsvl_pipeline.cli.output import Output

EXAMPLES = "dsvl schema > job.schema.json"
NOTES = """\
Editors with a YAML language server complete and check a job file that has this line:
# yaml-language-server: $schema=job.schema.json
The path is relative to the job file. `dsvl init` writes the schema beside its examples. A run
checks more than a schema can say."""
EXIT_CODES = {0: "printed"}
OPTIONS = ()


def execute(args: argparse.Namespace, output: Output) -> int:
    """Print the schema."""
    from dsvl_pipeline.job.schema import job_schema

    schema = job_schema()
    output.result(schema, json.dumps(schema, indent=2))
    return 0
