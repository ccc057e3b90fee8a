"""Cuts the objects out of a converted detection data set, to pre-train a backbone on them."""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import io
import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from official_ext.datasets.records import record_folder
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import files

if TYPE_CHECKING:  # at run time imported in functions, because it takes seconds
  import tensorflow as tf

_DESCRIPTION = """\
Cuts the objects out of a detection data set that convert_dataset wrote, a square around each,
and writes them as TFRecords of image classification into --output_dir:

  train-00000-of-00004.tfrecord ... val-...  JPEG images, and the number of the class from 0
  crops.json                                 class names and counts
  overrides.yaml                             --config_file of a classification experiment

Crowds and objects whose longer side is below --min_size are left out.
"""
_EPILOG = """\
example:
  python -m official_ext.tools.make_crops --data=my_records --output_dir=my_crops
  python -m official_ext.train --experiment=caddet_crops --config_file=my_crops/overrides.yaml \\
    --mode=train_and_eval --model_dir=runs/pretraining
"""
_MARKER = 'crops.json'
_WRITES = ('*.tfrecord', 'overrides.yaml')
_NUM_SHARDS = 4
_JPEG_QUALITY = 92
_MOST_CONTEXT = 10


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.make_crops', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--data', type=pathlib.Path, required=True, metavar='DIR',
                      help='folder that convert_dataset wrote')
  parser.add_argument('--output_dir', required=True, metavar='DIR',
                      help='folder to make; replaced if this command has made it')
  parser.add_argument('--min_size', type=argument_types.number_from_0, default=8.0,
                      metavar='PIXELS',
                      help='least longer side of an object (8)')
  parser.add_argument('--context', type=argument_types.positive_number, default=1.2,
                      metavar='FACTOR',
                      help='side of the square, in longer sides of the object (1.2)')
  return parser.parse_args()


def crop(image: np.ndarray, box: Sequence[float], context: float) -> np.ndarray:
  """Returns the square around a box; pixels beyond the image repeat its edge.

  Args:
    image: uint8 `[height, width, 3]`.
    box: `y1, x1, y2, x2` in pixels.
    context: side of the square, in longer sides of the box.

  Returns:
    uint8 `[side, side, 3]`.
  """
  y1, x1, y2, x2 = box
  side = max(1, round(context * max(y2 - y1, x2 - x1)))
  rows, columns = (np.round((low + high - side) / 2).astype(int) + np.arange(side)
                   for low, high in ((y1, y2), (x1, x2)))
  height, width = image.shape[:2]
  return image[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)]


def crops(records: Sequence[str], min_size: float, context: float
          ) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the class id and the crop of every object that is no crowd.

  Args:
    records: TFRecord files of a detection data set.
    min_size: least longer side of an object in pixels.
    context: side of the square, in longer sides of the object.

  Yields:
    The class id, at least 1, and the crop from `crop`.

  Raises:
    CommandError: a file is damaged.
  """
  import tensorflow as tf  # imported here because it takes seconds
  from official.vision.dataloaders import tf_example_decoder
  decoder = tf_example_decoder.TfExampleDecoder()
  try:
    for decoded in tf.data.TFRecordDataset(records).map(decoder.decode):
      image = decoded['image'].numpy()
      boxes = decoded['groundtruth_boxes'].numpy() * np.tile(image.shape[:2], 2)
      class_ids, crowds = (
          decoded[f'groundtruth_{name}'].numpy() for name in ('classes', 'is_crowd'))
      for box, class_id, is_crowd in zip(boxes, class_ids, crowds):
        if not is_crowd and max(box[2] - box[0], box[3] - box[1]) >= min_size:
          yield int(class_id), crop(image, box, context)
  except tf.errors.OpError as error:
    raise command_line.CommandError(
        f'--data: one of {", ".join(records)} is damaged ({error.message}): run convert_dataset '
        'again.') from error


def _example(image: np.ndarray, label: int) -> tf.train.Example:
  """Returns an example of Model Garden's image classification; `label` counts from 0."""
  import tensorflow as tf  # imported here because it takes seconds
  from official.vision.data import tfrecord_lib
  encoded = io.BytesIO()
  Image.fromarray(image).save(encoded, 'JPEG', quality=_JPEG_QUALITY)
  features = {'image/encoded': tfrecord_lib.convert_to_feature(encoded.getvalue()),
              'image/class/label': tfrecord_lib.convert_to_feature(label)}
  return tf.train.Example(features=tf.train.Features(feature=features))


def _write_split(name: str, records: Sequence[str], labels: Mapping[int, int],
                 folder: pathlib.Path, args: argparse.Namespace) -> list[int]:
  """Writes the crops of a split; returns the number of crops of each label.

  Args:
    name: of the split.
    records: TFRecord files of the split.
    labels: class id -> label, from 0.
    folder: to write into.
    args: the command's arguments.
  """
  from official_ext.datasets.records import shards  # imported here because it loads TensorFlow
  counts = [0] * len(labels)

  def examples() -> Iterator[tf.train.Example]:
    for class_id, image in crops(records, args.min_size, args.context):
      if class_id not in labels:
        raise command_line.CommandError(
            f'--data={args.data}: a record of {name} has the class id {class_id}, which '
            f'{record_folder.MARKER} does not name: run convert_dataset again.')
      counts[labels[class_id]] += 1
      yield _example(image, labels[class_id])

  shards.write(examples(), folder, name, _NUM_SHARDS)
  if not sum(counts):
    raise command_line.CommandError(
        f'{args.data} has no object of {name} with a side of {args.min_size:g} pixels or more: '
        'give a smaller --min_size.')
  return counts


def _overrides(output_dir: str, num_classes: int, num_train: int) -> str:
  """Returns the YAML that makes a classification experiment use the crops."""
  text = record_folder.overrides('Makes a classification experiment use these crops', {
      'model': {'num_classes': num_classes},
      'evaluation': {'top_k': min(5, num_classes)},
      'train_data': {'input_path': record_folder.path_pattern(output_dir, 'train-*.tfrecord')},
      'validation_data': {'input_path': record_folder.path_pattern(output_dir, 'val-*.tfrecord')}})
  return f'{text}# Images to train on: {num_train}.\n'


def main() -> None:
  """Runs the command."""
  args = _parse_arguments()
  if args.context > _MOST_CONTEXT:
    raise command_line.CommandError(
        f'--context={args.context:g} is above {_MOST_CONTEXT}, so that little of a crop would be '
        'its object: give a smaller one, such as 1.2.')
  from official_ext.utils import input_checks  # imported here: it loads TensorFlow
  dataset = record_folder.read(args.data)
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=[args.data])
  class_ids = sorted(dataset.class_names)
  labels = {class_id: label for label, class_id in enumerate(class_ids)}
  patterns = {name: record_folder.path_pattern(args.data, split.file_pattern)
              for name, split in dataset.splits.items()}
  with files.atomic_directory(args.output_dir) as folder:
    counts = {
        name: _write_split(name, input_checks.matching_files(pattern, '--data'), labels, folder,
                           args)
        for name, pattern in patterns.items()}
    (folder / 'overrides.yaml').write_text(
        _overrides(args.output_dir, len(class_ids), sum(counts['train'])), encoding='utf-8')
    (folder / _MARKER).write_text(json.dumps(
        {'class_names': [dataset.class_names[class_id] for class_id in class_ids],
         'counts': counts}, indent=2))
  for name, numbers in counts.items():
    command_line.say(f'{name}: {sum(numbers)} crops of {len(class_ids)} classes')
  command_line.say(f'written to {args.output_dir}')


if __name__ == '__main__':
  command_line.run(main)
