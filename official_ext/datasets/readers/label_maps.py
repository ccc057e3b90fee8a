"""Label maps of the TensorFlow Object Detection API: numbers and names of classes."""
import re

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.sources import data_folder
from official_ext.utils import command_line

_ITEM = re.compile(r'item\s*:?\s*\{(.*?)\}', re.DOTALL)
_FIELD = re.compile(r'(id|name|display_name)\s*:\s*(?:(\d+)|"([^"]*)"|\'([^\']*)\')')


def read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> dict[int, str]:
  """Reads all label maps (.pbtxt) of a data set.

  Args:
    data: the data set.
    findings: told if the encoding is a guess.

  Returns:
    Number -> name of each class; empty without a label map.

  Raises:
    CommandError: a number has two names.
  """
  names: dict[int, str] = {}
  for file in data.with_suffix('.pbtxt'):
    for item in _ITEM.findall(data.text(file, findings)):
      fields = {key: number or double or single
                for key, number, double, single in _FIELD.findall(item)}
      if 'id' in fields and ('name' in fields or 'display_name' in fields):
        name = fields.get('display_name') or fields['name']
        if names.setdefault(int(fields['id']), name) != name:
          raise command_line.CommandError(
              f'{data.path(file)}: number {fields["id"]} is {name!r} here and '
              f'{names[int(fields["id"])]!r} elsewhere; keep one label map.')
  return names
