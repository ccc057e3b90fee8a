"""Data sets that tensorflow_datasets has prepared: a folder with dataset_info.json."""
from collections.abc import Mapping
import io
import posixpath
from typing import Any

from google.protobuf import json_format
import numpy as np
from PIL import Image

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import shapes
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder
from official_ext.utils import command_line


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the folders of data sets, as their file dataset_info.json."""
  files = set(data.files)
  return [name for name in data.files if posixpath.basename(name) == 'dataset_info.json' and
          posixpath.join(posixpath.dirname(name), 'features.json') in files]


def _feature_names(features: Any, path: str) -> tuple[str, str, str, str]:
  """Returns the names of the image, the objects, their box and their class.

  Raises:
    CommandError: the data set has no boxes.
  """
  import tensorflow_datasets as tfds  # imported here because it takes long to load
  images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
  for name, feature in features.items():
    inner = getattr(feature, 'feature', None)
    if isinstance(inner, tfds.features.FeaturesDict):
      boxes = [key for key, value in inner.items() if isinstance(value, tfds.features.BBoxFeature)]
      labels = [key for key, value in inner.items() if isinstance(value, tfds.features.ClassLabel)]
      if images and boxes and labels:
        label = 'label' if 'label' in labels else labels[0]
        return images[0], name, boxes[0], label
  raise command_line.CommandError(
      f'{path} has no image with a sequence of boxes and classes; its features are '
      f'{", ".join(features)}.')


def _add_example(builder: split_builder.SplitBuilder, data: data_folder.DataFolder, place: str,
                 example: Mapping[str, Any], names: tuple[str, str, str, str]) -> None:
  """Adds the image and the objects of an example."""
  image_name, objects_name, box_name, label_name = names
  content = example[image_name]
  with Image.open(io.BytesIO(content)) as image:
    width, height = image.size
  file = next((example[key].decode('utf-8', 'replace') for key in example
               if key.endswith('filename')), place)
  image_id = builder.add_content(data, content, file, width, height)
  objects = example[objects_name]
  crowds = objects.get('is_crowd', np.zeros(len(objects[box_name]), bool))
  for number, (box, label, crowd) in enumerate(
      zip(objects[box_name], objects[label_name], crowds), 1):
    y1, x1, y2, x2 = map(float, box)
    builder.add_object(
        image_id, f'{place} object {number}', int(label),
        shapes.corner_box([x1 * width, y1 * height, x2 * width, y2 * height]),
        iscrowd=int(crowd))


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the examples of all splits; their images are copied to a temporary folder."""
  import tensorflow as tf
  import tensorflow_datasets as tfds
  found = _matches(data)
  if len(found) != 1:
    raise command_line.CommandError(
        f'--input {data.root} holds {len(found)} data sets of tensorflow_datasets '
        f'({", ".join(map(posixpath.dirname, found))}): give the folder of one version.')
  folder = str(data.path(posixpath.dirname(found[0])))
  try:
    builder = tfds.builder_from_directory(folder)
  except (AttributeError, KeyError, OSError, TypeError, ValueError, json_format.Error) as error:
    raise command_line.CommandError(
        f'{folder} cannot be read by tensorflow_datasets: {error!r}.') from error
  names = _feature_names(builder.info.features, folder)
  by_split: dict[str | None, str] = {}
  for name in builder.info.splits:
    if by_split.setdefault(split_names.of_name(name), name) != name:
      findings.add('all', 'noted', 'another split stands for the same: not read', name,
                   f'read is {by_split[split_names.of_name(name)]}')
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for split, name in split_names.choose(by_split, 'split', findings).items():
    builders[split] = split_builder.SplitBuilder(f'{folder} {name}')
    examples = builder.as_dataset(
        split=name, shuffle_files=False, decoders={names[0]: tfds.decode.SkipDecoding()})
    try:
      for number, example in enumerate(tfds.as_numpy(examples), 1):
        _add_example(builders[split], data, f'{name} example {number}', example, names)
    except (tf.errors.OpError, OSError) as error:
      findings.add(split, 'dropped', 'examples cannot be read to the end', name, str(error))
  classes = builder.info.features[names[1]].feature[names[3]].names
  categories = [dict(id=number, name=name) for number, name in enumerate(classes)]
  return split_builder.build_splits(data, builders, findings, categories,
                                {number: number for number in range(len(classes))})


LAYOUT = interface.Layout('tfds', 'TensorFlow Datasets', 'dataset_info.json and features.json', """\
dataset_info.json, features.json, *.tfrecord-*     a version that download_and_prepare has made""",
                          _matches, _read, rank=10, has_images=True)
