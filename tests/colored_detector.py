"""A detector without weights that finds red and green rectangles exactly, for tests of results."""
import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.datasets import categories as categories_lib
from official_ext.serving import export_saved_model

COLORS = {'red': (230, 20, 20), 'green': (20, 200, 20)}


class ColoredDetector(tf.Module):
  """Has the signature of an exported detector: a red and a green box, each with score 0.9."""

  def __init__(self, red: int = 1, green: int = 2):
    """Initializes the detector with the class numbers of both colors."""
    super().__init__()
    self._classes = (red, green)
    self.model = tf.Module()  # as an export module has it, here without variables
    self.description = {'batch_size': None}
    self.inference_from_image_tensors = tf.function(self._detect, autograph=False)

  def _detect(self, images):
    found = [self._find(images, color) for color in COLORS.values()]
    boxes, scores = (tf.stack(parts, axis=1) for parts in zip(*found))
    count = tf.shape(images)[0]
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    info = tf.stack([size, size, tf.ones([2]), tf.zeros([2])])
    return {
        'detection_boxes': boxes, 'detection_scores': scores,
        'detection_classes': tf.tile(tf.constant([self._classes], tf.int32), [count, 1]),
        'num_detections': tf.fill([count], 2),
        'image_info': tf.tile(info[None], [count, 1, 1]),
        'multiply_adds': tf.fill([count], 1e9)}

  def _find(self, images, color):
    """Returns boxes `[batch, 4]` around the pixels of a color, and scores `[batch]`."""
    distance = tf.abs(tf.cast(images, tf.float32) - tf.constant(color, tf.float32))
    near = tf.cast(tf.reduce_max(distance, axis=-1) < 60, tf.float32)

    def ends(line):
      positions = tf.range(tf.shape(line)[1], dtype=tf.float32)
      first = tf.reduce_min(tf.where(line > 0, positions, 1e5), axis=1)
      return first, tf.reduce_max(line * (positions + 1), axis=1)

    (y1, y2), (x1, x2) = ends(tf.reduce_max(near, axis=2)), ends(tf.reduce_max(near, axis=1))
    return tf.stack([y1, x1, y2, x2], axis=1), 0.9 * tf.cast(y2 > y1, tf.float32)


def save(path, red: int = 1, green: int = 2,
         categories: categories_lib.Categories = categories_lib.UNKNOWN):
  """Exports the detector with its classes, and returns the path."""
  path.mkdir(parents=True)
  export_saved_model.save(ColoredDetector(red, green), path, 'image_tensor', (48, 64),
                          categories=categories)
  return path


def write_images(folder, count: int = 3) -> dict[str, list[tuple[str, list[int]]]]:
  """Writes `1.png` and so on; returns file name -> color and COCO box of every rectangle."""
  folder.mkdir(parents=True)
  drawn = {}
  for number in range(1, count + 1):
    boxes = {'red': [2 * number, 3, 20, 12 + number], 'green': [32, 20 + number, 9 + number, 10]}
    if number == count:
      del boxes['green']
    pixels = np.full([48, 64, 3], 128, np.uint8)
    for color, (x, y, width, height) in boxes.items():
      pixels[y:y + height, x:x + width] = COLORS[color]
    Image.fromarray(pixels).save(folder / f'{number}.png')
    drawn[f'{number}.png'] = list(boxes.items())
  return drawn
