"""TFRecords with images and relative boxes, as most programs of TensorFlow write them."""
from collections.abc import Iterator
import io
import re
from typing import Any

from google.protobuf import message
import numpy as np
from PIL import Image

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import label_maps
from official_ext.datasets.readers import shapes
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder

_FILE = re.compile(r'.*\.(tfrecords?|tfrec|record)s?(-\d+-of-\d+)?', re.IGNORECASE)
_SHARD = re.compile(r'.*-\d+-of-\d+', re.IGNORECASE)


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the files of records."""
  return [name for name in data.files if _FILE.fullmatch(name) or (
      _SHARD.fullmatch(name) and split_names.of_path(name))]


def _values(features: Any, key: str) -> list[Any]:
  """Returns the values of a feature, an empty list if it is not there."""
  if key not in features:
    return []
  feature = features[key]
  return list(getattr(feature, feature.WhichOneof('kind') or 'int64_list').value)


def _objects(features: Any) -> Iterator[dict[str, Any]]:
  """Yields number, text, relative corners and more of each object."""
  corners = [_values(features, f'image/object/bbox/{key}')
             for key in ('xmin', 'ymin', 'xmax', 'ymax')]
  if len({len(values) for values in corners}) != 1:
    raise ValueError('the lists of corners have different lengths')
  more = {key: _values(features, f'image/object/{name}')
          for key, name in (('number', 'class/label'), ('text', 'class/text'), ('mask', 'mask'),
                            ('iscrowd', 'is_crowd'))}
  for index, box in enumerate(zip(*corners)):
    yield {'box': box, **{key: values[index] for key, values in more.items()
                          if index < len(values)}}


def _add_example(builder: split_builder.SplitBuilder, data: data_folder.DataFolder, place: str,
                 features: Any, names: dict[int, str]) -> None:
  """Adds the image and the objects of a record; raises ValueError if it has no image."""
  encoded = _values(features, 'image/encoded')
  if not encoded:
    raise ValueError('it has no image/encoded')
  with Image.open(io.BytesIO(encoded[0])) as image:
    width, height = image.size
  objects = list(_objects(features))
  name = (_values(features, 'image/filename') or _values(features, 'image/source_id') or
          [place.encode()])[0].decode('utf-8', 'replace')
  image_id = builder.add_content(data, encoded[0], name, width, height)
  for number, item in enumerate(objects, 1):
    text = item.get('text', b'').decode('utf-8', 'replace')
    label = names.get(item['number']) if item.get('number') in names else text or (
        str(item.get('number', '')))
    x1, y1, x2, y2 = item['box']
    box = shapes.corner_box([x1 * width, y1 * height, x2 * width, y2 * height])
    extra: dict[str, Any] = {'iscrowd': int(item.get('iscrowd', 0))}
    if 'mask' in item:
      with Image.open(io.BytesIO(item['mask'])) as mask:
        extra['segmentation'] = shapes.mask_segmentation(np.asarray(mask), 0, 0, width, height)
    builder.add_object(image_id, f'{place} object {number}', label, box, **extra)


def _records(data: data_folder.DataFolder, file: str, split: str,
             findings: findings_lib.Findings) -> Iterator[bytes]:
  """Yields the records of a file as far as they can be read."""
  # Imported here because it loads TensorFlow.
  from official_ext.datasets.records import record_decoding
  try:
    yield from record_decoding.read_records(str(data.path(file)))
  except findings_lib.UnusableError as error:
    findings.add(split, 'dropped', error.reason, file, error.detail)


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads all files; their images are copied to a temporary folder."""
  import tensorflow as tf  # imported here because it takes long to load
  by_split: dict[str | None, list[str]] = {}
  for name in _matches(data):
    by_split.setdefault(split_names.of_path(name), []).append(name)
  names = label_maps.read(data, findings)
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for split, files in split_names.choose(by_split, 'file', findings).items():
    builder = builders[split] = split_builder.SplitBuilder(', '.join(map(data.shown, files)))
    for file in files:
      for number, record in enumerate(_records(data, file, split, findings), 1):
        place = f'{file} record {number}'
        try:
          features = tf.train.Example.FromString(record).features.feature
          _add_example(builder, data, place, features, names)
        except (message.DecodeError, ValueError, TypeError, AttributeError, OSError,
                Image.DecompressionBombError) as error:
          findings.add(split, 'dropped', 'record cannot be read', place, str(error))
  labels = set().union(*(builder.labels for builder in builders.values()))
  known = {name: number for number, name in names.items()}
  if names and labels <= set(known):
    # The label map numbers the classes, also those that no object has.
    categories = [dict(id=number, name=name) for number, name in names.items()]
    return split_builder.build_splits(data, builders, findings, categories)
  return split_builder.build_splits(data, builders, findings)


LAYOUT = interface.Layout('tfrecord', 'TFRecords of the TensorFlow Object Detection API and others',
                          'TFRecord files', """\
train.record, val.record, *.pbtxt      or  train-00000-of-00010.tfrecord ..., val-...,
                                           or train/*.tfrecord, valid/*.tfrecord""",
                          _matches, _read, rank=90, has_images=True)
