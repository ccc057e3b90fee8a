"""Reads what `tools.predict` wrote, with the annotations of the same images."""
import collections
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from official_ext.utils import command_line
from official_ext.visualization import boxes


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file of an earlier step, or says that it is missing."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(
        f'{path} cannot be read ({error}): predict with --evaluate, and give the folders that the '
        'commands wrote.') from error


class Predictions:
  """Predictions, with the annotations of the same images.

  Attributes:
    names: category id -> name.
    files: image id -> file name in the annotations.
    sizes: image id -> height and width in pixels.
    evaluation: average precision, as `evaluation.json` has it.
    costs: cost and gates of every image, as `costs.json` has them, cheapest image first.
  """

  def __init__(self, folder: pathlib.Path, annotation_file: pathlib.Path, images: pathlib.Path):
    """Reads all files.

    Args:
      folder: folder that `tools.predict` wrote.
      annotation_file: COCO annotations of the images.
      images: folder of the images.

    Raises:
      CommandError: a file is missing or is no JSON.
    """
    self._images = images
    truth = read_json(annotation_file)
    self.names = {category['id']: category['name'] for category in truth['categories']}
    self.files = {image['id']: image['file_name'] for image in truth['images']}
    self.sizes = {image['id']: (image['height'], image['width']) for image in truth['images']}
    self._truth = _by_image(truth['annotations'])
    self._detections = _by_image(read_json(folder / 'predictions.json'))
    self.evaluation = read_json(folder / 'evaluation.json')
    self.costs = sorted(read_json(folder / 'costs.json')['images'],
                        key=lambda cost: cost['multiply_adds'])

  def gates(self) -> dict[str, np.ndarray]:
    """Returns gate -> `[images]`; empty if nothing is routed."""
    gates: dict[str, np.ndarray] = {}
    for name in self.costs[0].get('gates', {}):
      values = np.array([cost['gates'][name] for cost in self.costs])
      # A choice between paths becomes one entry per path.
      gates.update({name: values} if values.ndim == 1 else {
          f'{name} path {path}': values[:, path] for path in range(values.shape[1])})
    return gates

  def objects(self, image_id: int) -> np.ndarray:
    """Returns the boxes of an image's objects, without crowds, `[objects, 4]` in its pixels."""
    return _corners([item for item in self._truth.get(image_id, []) if not item.get('iscrowd')])

  def image(self, image_id: int) -> np.ndarray:
    """Reads an image, uint8 `[height, width, 3]`."""
    name = self.files[image_id]
    path = next((path for path in (self._images / name, self._images / pathlib.Path(name).name)
                 if path.is_file()), None) or next(self._images.rglob(pathlib.Path(name).name))
    return np.asarray(Image.open(path).convert('RGB'))

  def pair(self, image_id: int, threshold: float = 0.4) -> list[np.ndarray]:
    """Draws the ground truth and the detections of an image.

    Args:
      image_id: COCO id of the image.
      threshold: least score of a detection that is drawn.

    Returns:
      Two images, uint8 `[height, width, 3]`, enlarged so that labels are legible.
    """
    image, factor = boxes.enlarge(self.image(image_id), 320)
    truth = self._truth.get(image_id, [])
    found = [d for d in self._detections.get(image_id, []) if d['score'] >= threshold]

    def draw(objects, **options):
      return boxes.draw_boxes(image, _corners(objects) * factor,
                              [self.names[item['category_id']] for item in objects], **options)

    return [draw(truth), draw(found, scores=[d['score'] for d in found])]


def _corners(objects: list[dict[str, Any]]) -> np.ndarray:
  """Returns boxes `[objects, 4]`, `[y1, x1, y2, x2]`, of annotations or detections."""
  corners = [[y, x, y + h, x + w] for x, y, w, h in (item['bbox'] for item in objects)]
  return np.array(corners).reshape(-1, 4)


def _by_image(objects: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
  grouped = collections.defaultdict(list)
  for item in objects:
    grouped[item['image_id']].append(item)
  return grouped
