"""LabelMe layout: a JSON file of shapes for each image."""
import base64
import io
import math
import posixpath
from typing import Any

import numpy as np
from PIL import Image

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import image_lists
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import json_files
from official_ext.datasets.readers import shapes
from official_ext.datasets.readers import split_builder
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names
from official_ext.utils import command_line

_WITHOUT_AREA = ('point', 'points', 'line', 'linestrip')


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the JSON files, if one of the first has shapes."""
  names = data.with_suffix('.json')
  return names if any('"shapes"' in data.head(name, 2000) for name in names[:20]) else []


def _outlines(shape: dict[str, Any]) -> list[list[float]]:
  """Returns the outlines of a shape as polygons `[x1, y1, x2, y2, ...]` in pixels.

  Raises:
    ValueError: it has no outline, with the reason.
  """
  kind = shape.get('shape_type') or 'polygon'
  try:
    points = [(float(x), float(y)) for x, y in shape['points']]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError('no list of pairs') from error
  if kind == 'mask':
    return _around_mask(shape.get('mask'), points)
  if kind == 'rectangle' and len(points) == 2:
    (x1, y1), (x2, y2) = points
    points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
  elif kind == 'circle' and len(points) == 2:
    return [shapes.ellipse(points[0], [math.dist(*points)] * 2)]
  elif len(points) < 3:
    raise ValueError(f'{kind} has {len(points)} points')
  return [[value for point in points for value in point]]


def _around_mask(encoded: Any, points: list[tuple[float, float]]) -> list[list[float]]:
  """Returns the polygons along the pixel sides of a mask; raises ValueError.

  Args:
    encoded: a PNG file of the mask's pixels, nonzero inside the object, in base 64.
    points: `(x, y)` of two corners; the first is the upper left pixel of the mask.
  """
  from official_ext.datasets import masks  # imported here: it loads OpenCV and SciPy
  try:
    with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
      pixels = np.asarray(image)
  except (TypeError, ValueError, OSError, Image.DecompressionBombError) as error:
    raise ValueError('its mask is not an image') from error
  is_inside = np.asarray(pixels if pixels.ndim == 2 else pixels.any(axis=-1), bool)
  polygons = masks.mask_to_polygons(is_inside)
  if not polygons or not points:
    raise ValueError('its mask is empty' if points else 'mask has no points')
  corner = [math.floor(value) for value in points[0]]
  return [[value + corner[index % 2] for index, value in enumerate(polygon)]
          for polygon in polygons]


def _add_shapes(builder: split_builder.SplitBuilder, image_id: int, name: str,
                items: list[Any], findings: findings_lib.Findings) -> None:
  """Adds the objects of a file; shapes of one class and `group_id` are one object."""
  groups: dict[Any, list[list[float]]] = {}
  for number, shape in enumerate(items, 1):
    shape = shape if isinstance(shape, dict) else {}
    if shape.get('shape_type') in _WITHOUT_AREA:
      findings.add('all', 'noted', f'shape {shape["shape_type"]} has no area: not read', name,
                   f'shape {number}')
      continue
    try:
      outlines = _outlines(shape)
    except (TypeError, ValueError) as error:
      findings.add('all', 'noted', 'shape has no points that can be read', name,
                   f'shape {number}: {error}')
      builder.add_object(image_id, f'{name} shape {number}', str(shape.get('label') or ''), None)
      continue
    group = shape.get('group_id')
    key = (str(shape.get('label') or '').strip(), number if group is None else f'group {group}')
    groups.setdefault(key, []).extend(outlines)
  for (label, place), polygons in groups.items():
    box = shapes.box_around([value for polygon in polygons for value in polygon])
    builder.add_object(image_id, f'{name} shape {place}', label, box, segmentation=polygons)


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the JSON file of each image."""
  names = data.with_suffix('.json')
  images = file_names.partners(names, data.images)
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for split, listed in (image_lists.by_lists(data, names, findings) or
                        image_lists.by_folder(names, images)).items():
    builder = builders[split] = split_builder.SplitBuilder(
        data.shown(), [data.path(folder) for folder in
                         dict.fromkeys(map(posixpath.dirname, listed.files))])
    for name in listed.files:
      try:
        content = json_files.load(data.path(name), findings)
      except command_line.CommandError as error:
        findings.add('all', 'dropped', 'annotation file is broken or missing', name, str(error))
        continue
      if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        findings.add('all', 'noted', 'JSON file has no list of shapes: not read', name)
        continue
      size = content.get('imageWidth'), content.get('imageHeight')
      if name in images:
        image_id = builder.add_file(images[name], *size)
      elif content.get('imageData'):
        try:
          encoded = base64.b64decode(content['imageData'], validate=True)
        except (TypeError, ValueError) as error:
          findings.add('all', 'dropped', 'imageData is not an image', name, str(error))
          continue
        image_id = builder.add_content(data, encoded, str(content.get('imagePath') or name), *size)
      else:
        image_id = builder.add_image(str(content.get('imagePath') or name), *size)
      _add_shapes(builder, image_id, name, content['shapes'], findings)
  return split_builder.build_splits(data, builders, findings)


LAYOUT = interface.Layout('labelme', 'LabelMe', 'JSON files with shapes', """\
*.json beside *.jpg                    or  annotations/*.json, images/*.jpg; also train/, val/
rectangles, polygons, circles and masks; shapes of one group are one object""",
                          _matches, _read, rank=30)
