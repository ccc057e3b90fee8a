"""Writes small data sets for tests, and converts them without the command."""
import collections
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from official.vision.dataloaders import tf_example_decoder
from PIL import Image
import tensorflow as tf

from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import conversion
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import readers
from official_ext.datasets.sources import data_folder

_RNG = np.random.default_rng(0)


def write_image(path: pathlib.Path, size=(40, 30), mode='RGB', **options) -> None:
  """Writes random pixels; `size` is (width, height), `options` go to Pillow's `save`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = _RNG.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
  Image.fromarray(pixels).convert(mode).save(path, **options)


def coco_image(number, name, size=(40, 30)) -> annotations_lib.Entry:
  """Returns a COCO image entry."""
  return dict(id=number, file_name=name, width=size[0], height=size[1])


def coco_annotation(number, image, box, category=1, **more) -> annotations_lib.Entry:
  """Returns a COCO annotation entry."""
  return dict(id=number, image_id=image, bbox=box, category_id=category, **more)


def write_coco(folder, images, annotations, categories=None, splits=('train', 'val')) -> None:
  """Writes annotations/SPLIT.json with the same entries for each split."""
  categories = categories or [dict(id=1, name='cat'), dict(id=7, name='dog')]
  for split in splits:
    path = folder / 'annotations' / f'{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))


def by_reason(findings: list[dict[str, Any]], outcome: str, split: str | None = None
              ) -> dict[str, list[str]]:
  """Returns reason -> files with their details.

  Args:
    findings: from `Findings.to_json`, or the `findings` of a report.
    outcome: of the findings to return.
    split: of the findings to return; None for all.
  """
  result = collections.defaultdict(list)
  for item in findings:
    if item['outcome'] == outcome and split in (None, item['split']):
      result[item['reason']] += [f'{entry["file"]} {entry["detail"]}'.strip()
                                 for entry in item['items']]
  return dict(result)


def decode(records) -> dict[int, dict[str, np.ndarray]]:
  """Returns image id -> what Model Garden's decoder gives for it.

  Args:
    records: serialized examples.
  """
  decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
  decoded = [decoder.decode(tf.convert_to_tensor(record)) for record in records]
  result = {int(record['source_id'].numpy()): {key: value.numpy() for key, value in record.items()}
            for record in decoded}
  assert len(result) == len(decoded), 'an image id is there twice'
  return result


class Converted(NamedTuple):
  """What `convert` returns; `records` and `coco` are by split, `records` then by image id."""
  records: dict[str, dict[int, dict[str, np.ndarray]]]
  coco: dict[str, dict[str, Any]]
  categories: categories_lib.Categories
  findings: list[dict[str, Any]]


def convert(folder: pathlib.Path, include_masks: bool = False, **options) -> Converted:
  """Reads and converts a data set in memory; `options` go to `SplitConverter`."""
  findings = findings_lib.Findings()
  records, coco = {}, {}
  with data_folder.open_input(folder) as data:
    splits = readers.read(data, readers.choose(data).layout, findings)
    categories = categories_lib.merge(splits, findings)
    for name, split in splits.items():
      converter = conversion.SplitConverter(split, categories, include_masks, findings, **options)
      records[name] = decode(example.SerializeToString() for example in converter.convert())
      coco[name] = converter.coco
  return Converted(records, coco, categories, findings.to_json())
