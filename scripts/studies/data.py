"""Checks of data that studies, comparisons and the quickstart make before they train."""
import hashlib
import json
import pathlib

from official_ext.utils import command_line
from official_ext.utils import files

_SOURCE = 'source.json'
# In the folder of a comparison: what tells its data from others.
_DIGEST = 'data.json'


def check_objects(annotation_file: pathlib.Path, data: str) -> None:
  """Checks that something can be evaluated, which is done after training.

  Args:
    annotation_file: COCO annotations of the images of validation.
    data: the data set, in the words of the command line.

  Raises:
    CommandError: no image has an object, or all are crowds, which evaluation leaves out.
  """
  content = json.loads(annotation_file.read_text(encoding='utf-8'))
  if all(annotation.get('iscrowd') for annotation in content['annotations']):
    raise command_line.CommandError(
        f'{data}: the {len(content["images"])} images of validation have no object, so that '
        'nothing can be evaluated: annotate some, or leave the split out, so that a part of the '
        'other images is held out.')


def keep_source(folder: pathlib.Path, source: str, data: str) -> None:
  """Writes what the records in a folder are made of, unless they are made of something else.

  Args:
    folder: of a data set of a study; `val` in it is written last.
    source: value of `--data`.
    data: the data set, in the words of the command line.

  Raises:
    CommandError: the folder has records of another source.
  """
  path = folder / _SOURCE
  if path.is_file() and (folder / 'val').exists():
    kept = json.loads(path.read_text(encoding='utf-8'))
    if kept != source:
      raise command_line.CommandError(
          f'{data}: {folder} has the records of {kept}: give another --output_dir, or the data '
          'another name.')
  with files.atomic_file(path) as temporary:
    temporary.write_text(json.dumps(source) + '\n', encoding='utf-8')


def check_unchanged(output: pathlib.Path, records: pathlib.Path, data: str) -> None:
  """Checks that data are what they were when the first run of a folder was trained.

  Args:
    output: folder of the runs; what tells the data from others is kept there.
    records: folder of the data, converted anew.
    data: the data set, in the words of the command line.

  Raises:
    CommandError: images or annotations have been added, changed or taken away.
  """
  digest = hashlib.sha256()
  for path in sorted(records.glob('annotations/*.json')):
    digest.update(path.name.encode() + path.read_bytes())
  for path in sorted(records.glob('*.tfrecord')):
    digest.update(f'{path.name} {path.stat().st_size}'.encode())
  kept, found = output / _DIGEST, digest.hexdigest()
  if kept.is_file() and json.loads(kept.read_text(encoding='utf-8')) != found:
    raise command_line.CommandError(
        f'{data} has changed since runs in {output} were trained, which are to be compared on the '
        'same images and annotations: give another --output_dir.')
  with files.atomic_file(kept) as temporary:
    temporary.write_text(json.dumps(found) + '\n', encoding='utf-8')
