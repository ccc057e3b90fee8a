"""Reads what `tools.predict` wrote, with the annotations of the same images."""
import collections
from collections.abc import Iterator
import json
import pathlib
from typing import Any

import numpy as np

from official_ext.datasets import findings
from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets.images import image_orientation
from official_ext.datasets.images import image_reading
from official_ext.datasets import normal_values
from official_ext.datasets import truth as truth_lib
from official_ext.utils import command_line
from official_ext.visualization import boxes

Id = normal_values.Id


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file of an earlier step, or says that it is missing."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(
        f'{path} cannot be read ({error}): give the folders that the commands wrote.') from error


class Predictions:
  """Predictions, with the annotations of the same images if they are given.

  Attributes:
    names: category id of a prediction -> name.
    evaluation: average precision, as `evaluation.json` has it; empty without that file.
    costs: cost and gates of every image, as `costs.json` has them, cheapest image first.
    budget: what the network was given to spend; None if it was given none.
    has_truth: whether there are annotations.
  """

  def __init__(self, folder: pathlib.Path, annotation_file: pathlib.Path | None,
               images: pathlib.Path):
    """Reads all files.

    Args:
      folder: folder that `tools.predict` wrote.
      annotation_file: COCO annotations of the images, under whose ids they were predicted; or
        None.
      images: folder of the images.

    Raises:
      CommandError: a file is missing or damaged, or the ids are those of another annotation file.
    """
    self._images = images
    try:
      self._read(folder)
    except (KeyError, TypeError, AttributeError) as error:
      raise command_line.CommandError(
          f'{folder} holds damaged predictions ({error!r}): predict again.') from error
    self.has_truth = annotation_file is not None
    self._truth: dict[Id, list[dict[str, Any]]] = {}
    self._truth_names: dict[Id, str] = {}
    self._listed: dict[Id, image_orientation.Listed] = {}
    # These images were predicted, so none is too large to read.
    self._reader = image_reading.ImageReader(image_files.LARGEST, self._all_listed)
    if annotation_file is not None:
      self._add_truth(truth_lib.Truth(annotation_file), folder)

  def _read(self, folder: pathlib.Path) -> None:
    """Reads what `tools.predict` wrote."""
    written = read_json(folder / 'costs.json')
    costs = written['images']
    self.budget: float | None = written.get('budget')
    if not costs or not all('multiply_adds' in cost for cost in costs):
      raise command_line.CommandError(
          f'{folder} has no multiply-adds of images: export with --outputs=all, and predict again.')
    self.costs = sorted(costs, key=lambda cost: cost['multiply_adds'])
    self._files = {cost['image_id']: cost['file'] for cost in self.costs}
    self._detections = _by_image(read_json(folder / 'predictions.json'))
    has_evaluation = (folder / 'evaluation.json').is_file()
    self.evaluation = {**read_json(folder / 'evaluation.json')} if has_evaluation else {}
    has_names = (folder / 'categories.json').is_file()
    categories = read_json(folder / 'categories.json') if has_names else []
    self.names: dict[Id, str] = {entry['id']: entry['name'] for entry in categories}

  def _add_truth(self, truth: truth_lib.Truth, folder: pathlib.Path) -> None:
    """Adds annotations; raises CommandError if the predictions are not under their ids."""
    found = image_ids.assign([pathlib.Path(file) for file in self._files.values()], truth).paths
    for image_id, file in self._files.items():
      if found.get(image_id) != pathlib.Path(file):
        raise command_line.CommandError(
            f'--annotation_file={truth.path} does not give {file} the id {image_id!r}, under which '
            f'{folder} has it: predict again with this --annotation_file.')
    self._truth = truth.annotations
    self._truth_names = truth.names
    self._listed = {image_id: image_orientation.listed(entry)
                    for image_id, entry in truth.image_entries.items()}

  def name(self, item: dict[str, Any]) -> str:
    """Returns the class name of an annotation or a detection."""
    names = self.names if 'score' in item else self._truth_names
    return names.get(item['category_id'], f'class {item["category_id"]}')

  def size(self, image_id: Id) -> tuple[float, float]:
    """Returns height and width of an image in pixels."""
    width, height = (normal_values.positive(side)
                     for side in self._listed.get(image_id, image_orientation.NOT_LISTED).size)
    return (height, width) if height and width else self.image(image_id).shape[:2]

  def gates(self) -> dict[str, np.ndarray]:
    """Returns gate -> `[images]`; empty if nothing is routed."""
    gates: dict[str, np.ndarray] = {}
    for name in self.costs[0].get('gates', {}):
      values = np.array([cost['gates'][name] for cost in self.costs])
      # A choice between paths becomes one entry per path.
      gates.update({name: values} if values.ndim == 1 else {
          f'{name} path {path}': values[:, path] for path in range(values.shape[1])})
    return gates

  def objects(self, image_id: Id) -> np.ndarray:
    """Returns the boxes of an image's objects, without crowds, `[objects, 4]` in its pixels."""
    return _corners([item for item in self._truth.get(image_id, []) if not item['iscrowd']])

  def image(self, image_id: Id) -> np.ndarray:
    """Reads an image as `tools.predict` did, uint8 `[height, width, 3]`.

    Raises:
      CommandError: the image is not there any more or cannot be read.
    """
    path = self._path(image_id)
    listed = self._listed.get(image_id, image_orientation.NOT_LISTED)
    try:
      return self._reader.read(path, listed).pixels
    except findings.UnusableError as error:
      raise command_line.CommandError(f'--images: {path}: {error}.') from error

  def _all_listed(self) -> Iterator[tuple[pathlib.Path, image_orientation.Listed]]:
    """Yields the file of each predicted image, with what the annotation file says of it."""
    for image_id, listed in self._listed.items():
      if image_id in self._files:
        yield self._path(image_id), listed

  def _path(self, image_id: Id) -> pathlib.Path:
    """Returns the file of an image: where it was predicted, or below the folder of the images."""
    path = pathlib.Path(self._files[image_id])
    if path.is_file():
      return path
    found = next((file for file in self._images.rglob(path.name) if file.is_file()), None)
    if found is None:
      raise command_line.CommandError(
          f'{path} was predicted and is gone, and --images={self._images} has no file of its name.')
    return found

  def pictures(self, image_id: Id, threshold: float = 0.4) -> list[np.ndarray]:
    """Draws the ground truth, if there is any, and the detections of an image.

    Args:
      image_id: id of the image.
      threshold: least score of a detection that is drawn.

    Returns:
      Two images or one, uint8 `[height, width, 3]`, enlarged so that labels are legible.
    """
    image, factor = boxes.enlarge(self.image(image_id), 320)
    truth = self._truth.get(image_id, [])
    found = [d for d in self._detections.get(image_id, []) if d['score'] >= threshold]

    def draw(objects, **options):
      return boxes.draw_boxes(image, _corners(objects) * factor,
                              [self.name(item) for item in objects], **options)

    detected = draw(found, scores=[d['score'] for d in found])
    return [draw(truth), detected] if self.has_truth else [detected]


def _corners(objects: list[dict[str, Any]]) -> np.ndarray:
  """Returns boxes `[objects, 4]`, `[y1, x1, y2, x2]`, of annotations or detections."""
  corners = [[y, x, y + h, x + w] for x, y, w, h in (item['bbox'] for item in objects)]
  return np.array(corners).reshape(-1, 4)


def _by_image(objects: list[dict[str, Any]]) -> dict[Id, list[dict[str, Any]]]:
  grouped = collections.defaultdict(list)
  for item in objects:
    grouped[item['image_id']].append(item)
  return grouped
