"""Cuts the objects out of a converted detection data set, to pre-train a backbone on them."""
import argparse
import io
import json
import pathlib
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
from PIL import Image

from official_ext.utils import command_line
from official_ext.utils import files

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
_NUM_SHARDS = 4
_JPEG_QUALITY = 92


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.make_crops', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--data', type=pathlib.Path, required=True, metavar='DIR',
                      help='folder that convert_dataset wrote')
  parser.add_argument('--output_dir', required=True, metavar='DIR',
                      help='folder to make; replaced if this command has made it')
  parser.add_argument('--min_size', type=float, default=8.0, metavar='PIXELS',
                      help='least longer side of an object (8)')
  parser.add_argument('--context', type=float, default=1.2, metavar='FACTOR',
                      help='side of the square, in longer sides of the object (1.2)')
  return parser.parse_args()


def crop(image: np.ndarray, box: Tuple[float, float, float, float], context: float) -> np.ndarray:
  """Returns the square around a box; what lies beyond the image repeats its edge.

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


def _encoded(image: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'JPEG', quality=_JPEG_QUALITY)
  return buffer.getvalue()


def crops(records: List[str], min_size: float, context: float
          ) -> Iterator[Tuple[int, np.ndarray]]:
  """Yields the category and the crop of every object of TFRecords of a detection data set."""
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  from official.vision.dataloaders import tf_example_decoder  # pylint: disable=g-import-not-at-top
  decoder = tf_example_decoder.TfExampleDecoder()
  for data in tf.data.TFRecordDataset(records).map(decoder.decode):
    image = data['image'].numpy()
    boxes = data['groundtruth_boxes'].numpy() * np.tile(image.shape[:2], 2)
    labels, crowds = (data[f'groundtruth_{name}'].numpy() for name in ('classes', 'is_crowd'))
    for box, label, is_crowd in zip(boxes, labels, crowds):
      if not is_crowd and max(box[2] - box[0], box[3] - box[1]) >= min_size:
        yield int(label), crop(image, tuple(box), context)


def _write_split(name: str, records: List[str], numbers: Dict[int, int], folder: pathlib.Path,
                 args: argparse.Namespace) -> Dict[int, int]:
  """Writes the crops of a split; returns how many there are of each class."""
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  from official.vision.data import tfrecord_lib  # pylint: disable=g-import-not-at-top
  counts = dict.fromkeys(numbers.values(), 0)
  writers = [tf.io.TFRecordWriter(str(folder / f'{name}-{i:05d}-of-{_NUM_SHARDS:05d}.tfrecord'))
             for i in range(_NUM_SHARDS)]
  for index, (label, image) in enumerate(crops(records, args.min_size, args.context)):
    number = numbers[label]
    feature = {'image/encoded': tfrecord_lib.convert_to_feature(_encoded(image)),
               'image/class/label': tfrecord_lib.convert_to_feature(number)}
    writers[index % _NUM_SHARDS].write(
        tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    counts[number] += 1
  for writer in writers:
    writer.close()
  if not sum(counts.values()):
    raise command_line.CommandError(
        f'{args.data} has no object of {name} with a side of {args.min_size:g} pixels or more: '
        'give a smaller --min_size.')
  return counts


def _overrides(output_dir: str, num_classes: int, count: int) -> str:
  """Returns the YAML that makes a classification experiment use the crops."""
  return '\n'.join([
      '# Makes a classification experiment use these crops: --config_file=<this file>',
      'task:',
      f'  model: {{num_classes: {num_classes}}}',
      f'  evaluation: {{top_k: {min(5, num_classes)}}}',
      f"  train_data: {{input_path: '{output_dir}/train-*.tfrecord'}}",
      f"  validation_data: {{input_path: '{output_dir}/val-*.tfrecord'}}",
      f'# Images to train on: {count}.',
  ]) + '\n'


def _read_dataset(folder: pathlib.Path) -> Dict[str, Any]:
  try:
    return json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(
        f'--data={folder} holds no data set ({error}): convert it first '
        '(python -m official_ext.tools.convert_dataset --help).') from error


def main() -> None:
  """Runs the command."""
  args = _parse_arguments()
  dataset = _read_dataset(args.data)
  files.check_own_output(args.output_dir, _MARKER)
  names = {int(label): name for label, name in dataset['class_names'].items()}
  numbers = {label: number for number, label in enumerate(sorted(names))}
  counts = {}
  with files.atomic_directory(args.output_dir) as folder:
    for split, description in dataset['splits'].items():
      records = sorted(map(str, args.data.glob(description['file_pattern'])))
      counts[split] = _write_split(split, records, numbers, folder, args)
    (folder / 'overrides.yaml').write_text(
        _overrides(args.output_dir, len(names), sum(counts['train'].values())))
    (folder / _MARKER).write_text(json.dumps(
        {'class_names': [names[label] for label in sorted(names)],
         'counts': {split: list(count.values()) for split, count in counts.items()}}, indent=2))
  for split, count in counts.items():
    command_line.say(f'{split}: {sum(count.values())} crops of {len(names)} classes')
  command_line.say(f'written to {args.output_dir}')


if __name__ == '__main__':
  command_line.run(main)
