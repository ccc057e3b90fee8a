"""Reads JSON files of any usual encoding."""
import json
import pathlib
from typing import Any

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line


def load(path: pathlib.Path, findings: findings_lib.Findings | None = None) -> Any:
  """Reads a JSON file in any usual encoding.

  Args:
    path: the file.
    findings: told if the encoding is a guess.

  Raises:
    CommandError: the file is not JSON.
  """
  try:
    return json.loads(text_files.read_text(path, findings or findings_lib.Findings()))
  except (OSError, ValueError, RecursionError) as error:
    raise command_line.CommandError(f'{path} is not a JSON file: {error}.') from error
