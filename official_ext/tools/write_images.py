"""Writes the images of a split of records as files, with annotations that name them."""
import argparse
from collections.abc import Iterator
import itertools
import json
import pathlib
import re

from google.protobuf import message

from official_ext.datasets import readers
from official_ext.datasets.records import record_folder
from official_ext.datasets.sources import file_names
from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = """\
Writes the images of records that convert_dataset wrote as files, exactly as a model sees them:

  images/           the images: JPEG and PNG files, under their names in the data set
  annotations.json  COCO annotations of these files

The names lose what cannot be part of a file name here (a drive, `..`, a leading /), and get the
suffix of what the file is.  predict and report take both, whatever the layout of the data set was.
"""
_EPILOG = """\
example:
  python -m official_ext.tools.write_images --data=my_records --output_dir=my_val
  python -m official_ext.tools.predict --saved_model=runs/dyfpn_saved_model --evaluate \\
    --images=my_val/images --annotation_file=my_val/annotations.json --output_dir=runs/predictions
"""
_MARKER = 'annotations.json'
_WRITES = ('images',)
_MAX_BYTES = 200  # of one part of a name; file systems allow 255


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.write_images', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--data', type=pathlib.Path, required=True, metavar='DIR',
                      help='folder that convert_dataset wrote')
  parser.add_argument('--split', choices=('train', 'val'), default='val',
                      help='whose images to write (val)')
  parser.add_argument('--output_dir', required=True, metavar='DIR',
                      help='folder to make; replaced if this command has made it')
  return parser.parse_args()


def file_name(name: str, image_id: int, suffix: str, taken: set[str]) -> str:
  """Returns a new relative file name, as near to a given one as can be.

  Args:
    name: of the image in the data set, whatever characters and folders it has.
    image_id: makes the name unique.
    suffix: that the name has to have, `.jpg` or `.png`.
    taken: what `_paths` gives of other images; gets that of the new one.
  """
  parts = [re.sub(r'[\x00-\x1f:]', '_', part).strip().lstrip('.')
           for part in re.split(r'[/\\]+', re.sub(r'^([A-Za-z]+:/|[A-Za-z]:)', '', name))]
  parts = [part for part in parts if part] or [str(image_id)]
  if any(len(part.encode('utf-8', 'replace')) > _MAX_BYTES for part in parts):
    parts = [str(image_id)]
  new = '/'.join(parts).encode('utf-8', 'replace').decode()
  if not new.lower().endswith((suffix, '.jpeg') if suffix == '.jpg' else suffix):
    new += suffix
  # A name of another image may begin with this number too.
  numbered = (f'{image_id}_{number}/' for number in itertools.count(2))
  candidates = (folder + new for folder in itertools.chain(('', f'{image_id}/'), numbered))
  chosen = next(name for name in candidates if not _blocked(name, taken))
  file, folders = _paths(chosen)
  taken.update([file], folders)
  return chosen


def _blocked(name: str, taken: set[str]) -> bool:
  """Returns whether a path is taken, or a file lies where a folder has to, or the other way."""
  file, folders = _paths(name)
  return bool(taken & {file, f'{file}/', *(folder.rstrip('/') for folder in folders)})


def _paths(name: str) -> tuple[str, list[str]]:
  """Returns a path and its folders, which end in /, written alike if a disk may take them for one.

  Some file systems do not tell small letters from capital ones, or composed from decomposed ones,
  or leave out dots at the end.
  """
  parts = [file_names.key(part).rstrip('.') for part in name.split('/')]
  return '/'.join(parts), ['/'.join(parts[:end]) + '/' for end in range(1, len(parts))]


def _encoded_images(folder: pathlib.Path, pattern: str) -> Iterator[tuple[int, bytes]]:
  """Yields the id and the encoded image of every record."""
  import tensorflow as tf  # imported here because it takes seconds

  from official_ext.utils import input_checks
  found = input_checks.matching_files(record_folder.path_pattern(folder, pattern), '--data')
  try:
    for record in tf.data.TFRecordDataset(found).as_numpy_iterator():
      feature = tf.train.Example.FromString(record).features.feature
      yield (int(feature['image/source_id'].bytes_list.value[0]),
             feature['image/encoded'].bytes_list.value[0])
  except (tf.errors.DataLossError, message.DecodeError, ValueError, IndexError) as error:
    raise command_line.CommandError(
        f'--data={folder} has a damaged record ({error}): run convert_dataset again.') from error


def write(data: pathlib.Path, split: str, folder: pathlib.Path) -> int:
  """Writes the images and the annotation file of a split.

  Args:
    data: folder that convert_dataset wrote.
    split: name of the split.
    folder: to write into.

  Returns:
    The number of images.

  Raises:
    CommandError: `data` is no such folder, or is damaged.
  """
  splits = record_folder.read(data).splits
  if split not in splits:
    raise command_line.CommandError(
        f'--data={data} has no split {split}; it has {", ".join(splits) or "none"}.')
  records = splits[split]
  content = readers.load_annotations(data / records.annotation_file)
  entries = {entry.get('id'): entry for entry in content['images']}
  taken: set[str] = set()
  images = command_line.progress(
      _encoded_images(data, records.file_pattern), 'writing images', records.num_images)
  for image_id, encoded in images:
    if 'file_name' not in entries.get(image_id, ()):
      raise command_line.CommandError(
          f'{data / records.annotation_file} names no file of the image {image_id} of the records: '
          'run convert_dataset again.')
    suffix = '.png' if encoded.startswith(b'\x89PNG') else '.jpg'
    name = file_name(str(entries[image_id]['file_name']), image_id, suffix, taken)
    entries[image_id]['file_name'] = name
    path = folder / 'images' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
  (folder / _MARKER).write_text(json.dumps(content), encoding='utf-8')
  return records.num_images


def main() -> None:
  """Runs the command."""
  args = _parse_arguments()
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=[args.data])
  with files.atomic_directory(args.output_dir) as folder:
    number = write(args.data, args.split, folder)
  command_line.say(f'{number} images of {args.split} written to {args.output_dir}')


if __name__ == '__main__':
  command_line.run(main)
