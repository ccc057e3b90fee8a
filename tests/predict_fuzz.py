"""Random image files, and what must be true of each after predict."""
import json
import os
import pathlib
import random as random_lib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
import tensorflow as tf

import dataset_fuzz
import drawn_data
from official_ext.tools import predict

KINDS = ('image_tensor', 'image_bytes', 'normalized')
_ODD_SIZES = ((1, 1), (1, 300), (900, 2), (3, 3))


class FindsRectangle(tf.Module):
  """Detects the one dark rectangle of each image, as an export of Model Garden would."""

  def __init__(self, kind: str):
    """Makes the signature of one of `KINDS`."""
    super().__init__()
    self._is_normalized = kind == 'normalized'
    is_encoded = kind == 'image_bytes'
    spec = (tf.TensorSpec([None], tf.string, name='inputs') if is_encoded else
            tf.TensorSpec([None, None, None, 3], tf.uint8, name='inputs'))
    self.signature = tf.function(
        self._decode if is_encoded else self._detect).get_concrete_function(spec)

  def _decode(self, encoded):
    return self._detect(tf.map_fn(
        lambda content: tf.io.decode_image(content, channels=3, expand_animations=False), encoded,
        fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8)))

  def _detect(self, images):
    dark = tf.reduce_min(images, axis=-1) < 160

    def ends(line):
      positions = tf.range(tf.shape(line)[1])
      return (tf.reduce_min(tf.where(line, positions, 10**6), axis=1),
              tf.reduce_max(tf.where(line, positions + 1, 0), axis=1))

    (y1, y2), (x1, x2) = ends(tf.reduce_any(dark, axis=2)), ends(tf.reduce_any(dark, axis=1))
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    box = tf.cast(tf.stack([y1, x1, y2, x2], axis=1), tf.float32)
    is_found = tf.reduce_any(dark, axis=[1, 2])
    boxes = box / tf.tile(size, [2]) if self._is_normalized else box
    info = tf.stack([size, size, [1.0, 1.0], [0.0, 0.0]])
    return {
        'detection_boxes': tf.where(is_found[:, None], boxes, 0.0)[:, None],
        'detection_scores': tf.where(is_found, 0.9, 0.0)[:, None],
        'detection_classes': tf.ones_like(y1)[:, None],
        'num_detections': tf.cast(is_found, tf.int32),
        'image_info': tf.tile(info[None], [tf.shape(images)[0], 1, 1])}


def save(kind: str, folder: pathlib.Path) -> pathlib.Path:
  """Saves a detector of a kind, one of `KINDS`, and returns its folder."""
  detector = FindsRectangle(kind)
  tf.saved_model.save(detector, str(folder / kind),
                      signatures={'serving_default': detector.signature})
  if kind == 'normalized':
    (folder / kind / 'export.json').write_text(json.dumps({'normalized_boxes': True}))
  return folder / kind


class Written(NamedTuple):
  """An image file, and what it shows if it is whole."""
  path: pathlib.Path
  image: drawn_data.DrawnImage


def write_images(random: random_lib.Random, number: int, folder: pathlib.Path) -> list[Written]:
  """Writes random image files: kinds, names, sizes, damages, links, equal stems.

  Args:
    random: makes all choices.
    number: of files.
    folder: to write into.

  Returns:
    The files, without folders that are named as images.
  """
  written: list[Written] = []
  for index in range(number):
    encoding = random.choice(sorted(drawn_data.ENCODINGS))
    width, height = random.randint(24, 90), random.randint(24, 90)
    box = drawn_data.Box(random.choice(sorted(drawn_data.COLORS)), random.randint(0, width - 16),
                         random.randint(0, height - 16), 14, 12)
    image = drawn_data.DrawnImage(f'im{index:05d}', '', width, height, [box], encoding)
    if random.random() < 0.05:
      image.width, image.height = random.choice(_ODD_SIZES)
      image.boxes = []
    suffix = drawn_data.ENCODINGS[encoding][0]
    if suffix.lower() in drawn_data.EXIF_SUFFIXES and random.random() < 0.3:
      image.orientation = random.randint(1, 8)
    if random.random() < 0.25:
      image.damage = random.choice(sorted(drawn_data.DAMAGES))
    stem = random.choice(dataset_fuzz.NAMES).format(image.token)
    if written and random.random() < 0.1:  # the stem of another image
      stem = f'other/{written[-1].path.stem}'
    path = folder / (stem + suffix)
    drawn_data.write_image(image, path)
    if path.is_file():
      written.append(Written(path, image))
      if random.random() < 0.05:
        link = folder / 'links' / path.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        os.symlink(path, link)
        written.append(Written(link, image))
  return list({item.path: item for item in written}.values())


def problems_of(written: list[Written], images: pathlib.Path, saved_model: pathlib.Path,
                output: pathlib.Path, batch_size: int, is_drawn: bool) -> list[str]:
  """Predicts on image files, and returns everything that is wrong.

  Args:
    written: the files.
    images: the folder that holds them.
    saved_model: from `save`.
    output: folder that does not exist.
    batch_size: images of one size that are run together.
    is_drawn: whether to draw.
  """
  result = dataset_fuzz.run(
      predict, f'--saved_model={saved_model}', f'--output_dir={output}', f'--images={images}',
      f'--batch_size={batch_size}', *([] if is_drawn else ['--no-draw']))
  if result.status:
    return [f'status {result.status}: {result.output}']
  names = [path.name for path in output.parent.iterdir() if path.name.startswith(f'.{output.name}')]
  problems = [f'left behind: {name}' for name in names]
  content = {path.stem: json.loads(path.read_text(encoding='utf-8'))
             for path in output.glob('*.json')}
  costs = {cost['file']: cost['image_id'] for cost in content['costs']['images']}
  skipped = content['costs']['skipped']
  for path, image in written:
    told = (str(path) in costs) + bool(skipped.get(str(path)))
    if told != 1:
      problems.append(f'{path.name}: told {told} times; {image}')
    elif not image.damage:
      problems += _detection_problems(path, image, costs.get(str(path)), content, skipped)
  drawn = list((output / 'drawn').glob('*')) if is_drawn else []
  if is_drawn and len(drawn) != len(costs):
    problems.append(f'{len(drawn)} pictures of {len(costs)} images')
  for path in drawn:
    with Image.open(path) as picture:
      picture.load()
  return problems


def _detection_problems(path: pathlib.Path, image: drawn_data.DrawnImage, image_id: int | None,
                        content: dict[str, Any], skipped: dict[str, str]) -> list[str]:
  """Compares the detections of a whole file with what was drawn."""
  if image_id is None:
    # A shape that a detector cannot run may be left out with its reason.
    return [] if not image.boxes else [f'{path.name} is whole, but skipped: {skipped[str(path)]}']
  found = [detection['bbox'] for detection in content['predictions']
           if detection['image_id'] == image_id]
  expected = [[box.x, box.y, box.width, box.height] for box in image.boxes]
  if len(found) != len(expected) or (
      found and np.abs(np.array(found) - np.array(expected)).max() > 2):
    return [f'{path.name}: found {found}, drawn {expected}; {image.encoding}']
  return []
