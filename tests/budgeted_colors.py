"""A detector of colored rectangles that finds green ones at budgets from 0.5 only."""
import json
import pathlib

import tensorflow as tf

import colored_detector
from official_ext.datasets import categories as categories_lib
from official_ext.serving import signatures


class BudgetedColors(tf.Module):
  """Has the signatures of an export that takes a budget."""

  def __init__(self, base: float):
    super().__init__()
    self._colors, self._base = colored_detector.ColoredDetector(), base

  def _serve(self, images, budget):
    outputs = self._colors._detect(images)
    budget = tf.broadcast_to(tf.reshape(budget, [-1]), tf.shape(images)[:1])
    is_right = tf.stack([tf.ones_like(budget), tf.cast(budget >= 0.5, tf.float32)], 1)
    has_green = tf.cast(outputs['detection_scores'][:, 1] > 0, tf.float32)
    return {**outputs, 'detection_boxes': outputs['detection_boxes'] * is_right[:, :, None],
            'multiply_adds': 1e9 * (self._base + budget * has_green)}

  def functions(self):
    """Returns the signatures by name."""
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')
    return {
        signatures.DEFAULT: signatures.with_names(lambda x: self._serve(x, 1.0), [images]),
        signatures.WITH_BUDGET: signatures.with_names(
            self._serve, [images, tf.TensorSpec(None, tf.float32, 'budget')])}


def save(path: pathlib.Path, base: float = 1.0) -> pathlib.Path:
  """Exports the detector; an image costs `base` GMAC, one with green also the budget."""
  module = BudgetedColors(base)
  tf.saved_model.save(module, str(path), module.functions())
  classes = categories_lib.from_coco(
      [{'id': number, 'name': name} for number, name in enumerate(colored_detector.COLORS, 1)])
  (path / 'export.json').write_text(json.dumps({
      'input_type': 'image_tensor', 'input_image_size': [48, 64], 'outputs': 'all',
      'gmac': {'static': base}, 'max_abs_diff': base, 'categories': classes.to_coco()}))
  return path


def write_data(folder: pathlib.Path, count: int = 3) -> pathlib.Path:
  """Writes images and annotations as `write_images` does; the last image has no green."""
  drawn = colored_detector.write_images(folder / 'images', count)
  numbers = {name: number for number, name in enumerate(colored_detector.COLORS, 1)}
  found = [(image, color, box) for image, boxes in enumerate(drawn.values(), 1)
           for color, box in boxes]
  (folder / 'annotations.json').write_text(json.dumps({
      'images': [{'id': number, 'file_name': name, 'width': 64, 'height': 48}
                 for number, name in enumerate(drawn, 1)],
      'categories': [{'id': number, 'name': name} for name, number in numbers.items()],
      'annotations': [
          {'id': number, 'image_id': image, 'category_id': numbers[color], 'bbox': box,
           'area': box[2] * box[3], 'iscrowd': 0}
          for number, (image, color, box) in enumerate(found, 1)]}))
  return folder
