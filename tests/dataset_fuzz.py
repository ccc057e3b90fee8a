"""Random data sets, and what must be true of each after convert_dataset and check_dataset."""
from collections.abc import Iterator, Sequence
import contextlib
import functools
import io
import json
import pathlib
import random as random_lib
import re
import struct
import sys
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image
import tensorflow as tf

import drawn_data
import drawn_layouts  # noqa: F401 (registers its layouts)
from official_ext.datasets.records import record_decoding
from official_ext.tools import check_dataset
from official_ext.tools import convert_dataset
from official_ext.utils import command_line

_CELL = 40  # pixels; an image has at most one rectangle in each cell, so that none covers another
# Patterns of file names without suffix.
NAMES = ('{}', 'a b {}', "o'neil {}", '{}, 2', '{} #1', '\u00fc{}', 'u\u0308 {}', '\u65e5\u672c{}',
          '{}%20', '100% {}', '{}.2024.01', '[{}]', '{}*', 'sub/{}', 'a b/c/{}', '{{{}}}', '-{}')
_ABSENT = ('missing', 'folder')  # damages that leave no file
_IDS = ('whole', 'from 0', 'gaps', 'text', 'floats', 'large')
_CATEGORIES = ('from 1', 'from 0', 'gaps', 'large', 'text', 'floats')
_JUNK: tuple[dict[str, Any], ...] = (
    dict(bbox=[10, 10, 0, 5]), dict(bbox=[10, 10, -5, 5]), dict(bbox=[5000, 10, 10, 10]),
    dict(bbox=[float('nan'), 1, 5, 5]), dict(bbox=[1, 1, float('inf'), 5]), dict(bbox=[1, 2, 3]),
    dict(bbox=None), dict(bbox='1 2 3 4'), dict(bbox=[1e308, 1e308, 1e308, 1e308]),
    dict(bbox=[[1, 2], [3, 4]]), dict(bbox={}), dict(category_id=999), dict(category_id=None),
    dict(image_id=987654), dict(image_id=None), dict(), dict(bbox=[10**400, 1, 1, 1]))


def random_data_set(random: random_lib.Random) -> drawn_data.DataSet:
  """Returns a data set with random oddities.

  Args:
    random: makes all choices; the same state gives the same data set.
  """
  name = random.choice(sorted(drawn_data.LAYOUTS))
  has_entries = drawn_data.LAYOUTS[name].has_entries
  is_calm = random.random() < 0.3  # only what must cost nothing
  ids = random.choice(_IDS) if has_entries else 'whole'
  splits = {'train': random.randint(2, 4), 'val': random.randint(1, 3)}
  if random.random() < 0.15:
    del splits['val']
  data = drawn_data.DataSet(name, {}, _category_ids(random, has_entries and not is_calm))
  number = 0
  for split, count in splits.items():
    data.splits[split] = []
    for _ in range(count):
      number += 1
      data.splits[split].append(_random_image(random, data, number, ids, is_calm))
  if has_entries:
    data.missing = tuple(key for key in ('area', 'iscrowd', 'id') if random.random() < 0.15)
    data.has_polygons = random.random() < 0.4
    if not is_calm:
      _disturb_entries(random, data)
  if not is_calm and random.random() < 0.1 and name != 'voc':
    data.encoding = random.choice(('utf-8-sig', 'utf-16'))
    data.oddities.add(f'encoding {data.encoding}')
  if all(not image.boxes for images in data.splits.values() for image in images):
    data.oddities.add('no boxes')
  return data


def _category_ids(random: random_lib.Random, is_odd: bool) -> dict[str, Any]:
  kind = random.choice(_CATEGORIES if is_odd else _CATEGORIES[:3])
  numbers = {'from 1': (1, 2, 3), 'from 0': (0, 1, 2), 'gaps': (3, 17, 90),
             'large': (74673216, 5, 2**31), 'text': ('1', '2', '3'), 'floats': (1.0, 2.0, 3.0)}
  return dict(zip(drawn_data.COLORS, numbers[kind]))


def _random_boxes(random: random_lib.Random, width: int, height: int) -> list[drawn_data.Box]:
  """Returns rectangles, at most one in each cell of the image."""
  boxes = []
  for left in range(0, width - 15, _CELL):
    for top in range(0, height - 15, _CELL):
      if random.random() < 0.6:
        box_width = random.randint(8, min(_CELL - 6, width - left - 4))
        box_height = random.randint(8, min(_CELL - 6, height - top - 4))
        x = random.randint(left + 2, min(left + _CELL - 4, width - 2) - box_width)
        y = random.randint(top + 2, min(top + _CELL - 4, height - 2) - box_height)
        boxes.append(drawn_data.Box(random.choice(sorted(drawn_data.COLORS)), x, y, box_width,
                                    box_height))
  return boxes


def _random_image(random: random_lib.Random, data: drawn_data.DataSet, number: int, ids: str,
                  is_calm: bool) -> drawn_data.DrawnImage:
  token = f'im{number:03d}'
  width, height = random.randint(24, 120), random.randint(24, 120)
  encoding = random.choice(sorted(drawn_data.ENCODINGS))
  suffix = drawn_data.ENCODINGS[encoding][0]
  has_sizes = drawn_data.LAYOUTS[data.layout].has_sizes
  image = drawn_data.DrawnImage(
      token, random.choice(NAMES).format(token) + suffix,
      width, height, _random_boxes(random, width, height), encoding)
  if suffix.lower() in drawn_data.EXIF_SUFFIXES and random.random() < 0.3:
    image.orientation = random.randint(1, 8)
  image.extra = {'whole': {}, 'from 0': dict(id=number - 1), 'gaps': dict(id=number * 1000),
                 'text': dict(id=f'photo {number}'), 'floats': dict(id=float(number)),
                 'large': dict(id=2**40 + number)}[ids]
  if random.random() < 0.2 and image.boxes:
    box = image.boxes[-1]
    if box.x + box.width > width - 8:
      image.boxes[-1] = box._replace(width=width - box.x, beyond=random.randint(1, 9))
  if is_calm:
    return image
  if random.random() < 0.15:
    image.damage = random.choice(sorted(drawn_data.DAMAGES))
    data.oddities.add(f'{token} {image.damage}')
  elif has_sizes and random.random() < 0.08:
    image.scale = random.choice((0.5, 2, 4))
    data.oddities.add(f'{token} scaled')
  return image


def _disturb_entries(random: random_lib.Random, data: drawn_data.DataSet) -> None:
  """Adds junk annotations and repeated entries to layouts that hold COCO entries."""
  for images in data.splits.values():
    for image in images:
      if random.random() < 0.2:
        image.junk = [dict(bbox=[1, 1, 5, 5]) | random.choice(_JUNK)
                      for _ in range(random.randint(1, 2))]
        data.oddities.add(f'{image.token} junk')
    if len(images) > 1 and random.random() < 0.08:
      first, second = random.sample(images, 2)
      if random.random() < 0.5:
        second.extra = dict(second.extra, id=first.extra.get('id', 1))
        first.extra = dict(first.extra, id=second.extra['id'])
        data.oddities.add(f'{first.token} {second.token} one id')
      else:
        images.append(first)
        data.oddities.add(f'{first.token} twice')


# To trace the decoder takes longer than all else, so that all checks of a process share one.
_shared_decoder = functools.cache(record_decoding.RecordDecoder)


class Result(NamedTuple):
  """What a command did.

  Attributes:
    status: its exit status.
    output: what it printed.
  """
  status: int
  output: str


def run(tool: Any, *arguments: str) -> Result:
  """Runs a command in this process.

  Args:
    tool: its module.
    *arguments: its command line.
  """
  output = io.StringIO()
  with (mock.patch.object(sys, 'argv', [tool.__name__, *arguments]),
        mock.patch.object(record_decoding, 'RecordDecoder', _shared_decoder),
        contextlib.redirect_stdout(output), contextlib.redirect_stderr(output)):
    try:
      tool.main()
      status = 0
    except command_line.CommandError as error:
      status = 2
      output.write(str(error))
    except SystemExit as error:
      status = int(error.code or 0)
  return Result(status, output.getvalue())


class Record(NamedTuple):
  """What a record holds: the image, and (class name, left, top, right, bottom) in pixels."""
  name: str
  pixels: np.ndarray
  boxes: list[tuple[str, np.ndarray]]
  masks: list[np.ndarray]


def read_records(folder: pathlib.Path) -> Iterator[Record]:
  """Yields the records of a folder, read without the code that is tested."""
  for path in sorted(folder.iterdir()):
    if path.suffix != '.tfrecord':
      continue
    content, start = path.read_bytes(), 0
    while start < len(content):
      length, = struct.unpack_from('<Q', content, start)
      yield _record(content[start + 12:start + 12 + length])
      start += length + 16


def _record(serialized: bytes) -> Record:
  feature = tf.train.Example.FromString(serialized).features.feature
  image = Image.open(io.BytesIO(feature['image/encoded'].bytes_list.value[0]))
  sides = [np.array(feature[f'image/object/bbox/{key}'].float_list.value) * size
           for key, size in zip(('xmin', 'ymin', 'xmax', 'ymax'), image.size * 2)]
  texts = [text.decode() for text in feature['image/object/class/text'].bytes_list.value]
  masks = [np.asarray(Image.open(io.BytesIO(mask))) > 0
           for mask in feature['image/object/mask'].bytes_list.value]
  return Record(feature['image/filename'].bytes_list.value[0].decode(),
                np.asarray(image.convert('RGB')), list(zip(texts, np.stack(sides, axis=-1))), masks)


def _has_color(pixels: np.ndarray, color: str, is_gray: bool) -> np.ndarray:
  """Returns which pixels have a color; of a gray image, its gray value."""
  expected = np.array(drawn_data.COLORS[color])
  if is_gray:
    expected = np.full(3, expected @ (0.299, 0.587, 0.114))
  return np.abs(pixels.astype(int) - expected).max(axis=-1) < (15 if is_gray else 60)


def is_on_pixels(pixels: np.ndarray, color: str, box: Sequence[float]) -> bool:
  """Returns whether a box is on a rectangle of a color, to 2 pixels.

  Args:
    pixels: of the image, uint8 `[height, width, 3]`.
    color: of the rectangle.
    box: left, top, right, bottom.
  """
  found = _has_color(pixels, color, bool((np.ptp(pixels.astype(int), axis=-1) < 12).all()))
  left, top, right, bottom = box
  # No other rectangle is so near.
  x, y = max(0, round(left) - 4), max(0, round(top) - 4)
  near = found[y:round(bottom) + 4, x:round(right) + 4]
  rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
  if not rows.size:
    return False
  extent = np.array([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1])
  inner = near[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
  return bool(np.abs(extent - box).max() < 2 and inner.mean() > 0.9)


def _expected_box(box: drawn_data.Box) -> np.ndarray:
  return np.array([box.x, box.y, box.x + box.width, box.y + box.height])


def _record_problems(record: Record, image: drawn_data.DrawnImage) -> list[str]:
  """Returns labels that are on no pixels of theirs, and boxes that nobody has drawn."""
  problems = []
  for color, box in record.boxes:
    drawn = [drawn for drawn in image.boxes if drawn.color == color
             and np.abs(_expected_box(drawn) - box).max() < 2.0]
    junk = [junk for junk in image.junk if junk.get('bbox') == [1, 1, 5, 5]]
    if not drawn and not junk:
      problems.append(f'{record.name}: nobody has drawn {color} at {np.round(box, 1).tolist()}')
    elif not junk and not is_on_pixels(record.pixels, color, box):
      problems.append(f'{record.name}: the pixels of {np.round(box, 1).tolist()} are not {color}')
  for (color, box), mask in zip(record.boxes, record.masks):
    left, top, right, bottom = np.round(box).astype(int)
    if mask.shape != record.pixels.shape[:2] or (
        mask.sum() > mask[max(0, top - 1):bottom + 1, max(0, left - 1):right + 1].sum()):
      problems.append(f'{record.name}: the mask of {color} reaches over its box')
  return problems


def _lost(image: drawn_data.DrawnImage, records: Sequence[Record]) -> list[str]:
  """Returns which boxes of an image no record has; the whole image if there is no record."""
  if not records:
    return ['the image']
  kept = [(color, box) for record in records for color, box in record.boxes]
  return [f'{box.color} at {_expected_box(box).tolist()}' for box in image.boxes
          if not any(color == box.color and np.abs(_expected_box(box) - found).max() < 2.0
                     for color, found in kept)]


def _told(report: dict[str, Any]) -> str:
  """Returns all files and details of what a report says was dropped."""
  return json.dumps([finding['items'] for finding in report['findings']
                     if finding['outcome'] in ('dropped', 'problem')], ensure_ascii=False)


def _content_problems(data: drawn_data.DataSet, target: pathlib.Path) -> list[str]:
  """Compares what was written with what was drawn."""
  report = json.loads((target / 'report.json').read_text(encoding='utf-8'))
  told, problems = _told(report), []
  records: dict[str, list[Record]] = {}
  for record in read_records(target):
    token = re.search(r'im\d{3}', record.name)
    records.setdefault(token[0] if token else '', []).append(record)
  images = {image.token: image for images in data.splits.values() for image in images}
  for token in set(records) - set(images):
    problems.append(f'record of an image that is not there: {records[token][0].name}')
  for token, image in images.items():
    found = records.get(token, [])
    problems += [problem for record in found for problem in _record_problems(record, image)]
    lost = _lost(image, found)
    if lost and not data.oddities:
      problems.append(f'{image.file_name}: lost {lost} though nothing is odd')
    # A layout that lists image files cannot know one that is not there, and has no boxes.
    elif lost and token not in told and (image.boxes or image.damage not in _ABSENT):
      problems.append(f'{image.file_name}: lost {lost}, and no finding names it')
  return problems


def problems_of(data: drawn_data.DataSet, folder: pathlib.Path) -> list[str]:
  """Writes a data set, converts and checks it, and returns everything that is wrong.

  Args:
    data: the data set.
    folder: an empty folder; gets `data` and `records`.

  Returns:
    A sentence for each problem.  An exception of a command is a problem as well, and is raised.
  """
  source, target = folder / 'data', folder / 'records'
  source.mkdir(parents=True)
  drawn_data.LAYOUTS[data.layout].write(data, source)
  options = ['--include_masks'] if data.has_polygons else []
  converted = run(convert_dataset, f'--input={source}', f'--output_dir={target}',
                  '--num_shards=1', *options)
  if not (target / 'dataset.json').exists():
    problems = [f'left behind: {path.name}' for path in folder.iterdir() if path != source]
    if not data.oddities:
      problems.append(f'refused though nothing is odd: {converted.output}')
    if converted.status == 0 or not converted.output.strip():
      problems.append(f'nothing written, status {converted.status}: {converted.output!r}')
    return problems
  problems = _content_problems(data, target)
  if converted.status and not data.oddities:
    problems.append(f'status {converted.status} though nothing is odd: {converted.output}')
  checked = run(check_dataset, f'--data={target}')
  if checked.status and not data.oddities:
    problems.append(f'check finds problems though nothing is odd: {checked.output}')
  return problems
