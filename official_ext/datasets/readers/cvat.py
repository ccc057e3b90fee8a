"""CVAT layout: one XML file for all images ("CVAT for images 1.1")."""
import contextlib
from typing import Any
from xml.etree import ElementTree

import numpy as np

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import shapes
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line

_MAX_PIXELS = 10**9  # of an image with masks


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the XML files whose root is `annotations`."""
  return [name for name in data.with_suffix('.xml')[:1000]
          if '<annotations>' in data.head(name, 1024)]


def _outline(element: ElementTree.Element) -> list[float]:
  """Returns the outline of a shape, `[x1, y1, x2, y2, ...]` in pixels; raises ValueError."""
  if element.tag == 'polygon':
    points = [point.split(',') for point in (element.get('points') or '').split(';') if point]
    if len(points) < 3 or any(len(point) != 2 for point in points):
      raise ValueError('polygon has less than three points')
    return [float(value) for point in points for value in point]
  degrees = float(element.get('rotation') or 0)
  keys = ('cx', 'cy', 'rx', 'ry') if element.tag == 'ellipse' else ('xtl', 'ytl', 'xbr', 'ybr')
  values = [float(element.get(key) or 'none') for key in keys]
  return (shapes.ellipse(values[:2], values[2:], degrees) if element.tag == 'ellipse' else
          shapes.turned_box(values, degrees))


def _pixels(text: str | None) -> int:
  """Returns a number of pixels, 0 if it is not given as one."""
  return int(text) if text and text.isdecimal() else 0


def _mask(element: ElementTree.Element, width: int, height: int
          ) -> tuple[list[float], dict[str, list[int]]]:
  """Returns box and COCO run lengths of a mask; raises ValueError."""
  left, top, columns, rows = (int(element.get(key) or 'none')
                              for key in ('left', 'top', 'width', 'height'))
  runs = [int(value) for value in (element.get('rle') or '').split(',')]
  if sum(runs) != rows * columns or min(runs) < 0 or not 0 < width * height < _MAX_PIXELS:
    raise ValueError('run lengths do not add up')
  region = np.repeat(np.arange(len(runs)) % 2, runs).reshape(rows, columns)
  return [left, top, columns, rows], shapes.mask_segmentation(region, left, top, width, height)


def _add_shapes(builder: split_builder.SplitBuilder, image: ElementTree.Element, image_id: int,
                findings: findings_lib.Findings) -> None:
  """Adds the objects of an image."""
  name = image.get('name') or ''
  for number, element in enumerate(image, 1):
    place = f'{name} {element.tag} {number}'
    label = (element.get('label') or '').strip()
    if element.tag not in ('box', 'polygon', 'ellipse', 'mask'):
      if element.tag != 'tag':
        findings.add('all', 'noted', f'shape {element.tag} has no area: not read', place)
      continue
    box: list[float] | None = None
    segmentation: Any = None
    with contextlib.suppress(ValueError, OverflowError):
      if element.tag == 'mask':
        box, segmentation = _mask(element, *map(_pixels, (image.get('width'), image.get('height'))))
      else:
        segmentation = [_outline(element)]
        box = shapes.box_around(segmentation[0])
    builder.add_object(image_id, place, label, box, segmentation=segmentation)


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the images of all files; `subset` says the split."""
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for name in _matches(data):
    try:
      root = text_files.parse_xml(data.path(name).read_bytes())
    except ValueError as error:
      raise command_line.CommandError(f'{data.path(name)} is not XML: {error}.') from error
    if root.find('image') is None:
      kind = ('no image' if root.find('track') is None else
              'a video: export the task as "CVAT for images 1.1"')
      raise command_line.CommandError(f'{data.path(name)} has {kind}.')
    for image in root.iter('image'):
      said = split_names.of_name(image.get('subset')) or split_names.of_path(name)
      split = said or split_names.of_path(f'{(image.get("name") or "").rpartition("/")[0]}/_')
      if split not in builders:
        builders[split] = split_builder.SplitBuilder(data.shown(name), [data.path(name).parent])
      image_id = builders[split].add_image((image.get('name') or '').strip(),
                                           *map(_pixels, (image.get('width'), image.get('height'))))
      _add_shapes(builders[split], image, image_id, findings)
  return split_builder.build_splits(data, builders, findings)


LAYOUT = interface.Layout('cvat', 'CVAT for images 1.1', 'XML files with <annotations>', """\
annotations.xml, images/*.jpg              boxes, polygons, ellipses and masks; subsets are splits
""".rstrip(), _matches, _read, rank=40)
