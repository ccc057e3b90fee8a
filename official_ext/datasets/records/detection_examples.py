"""Makes the `tf.train.Example` of an image with boxes: that of Model Garden's COCO converter.

`create_coco_tf_record` hands each message to the constructor of another one, which copies it with
the image in it; here the features are filled where they are.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Entry = Mapping[str, Any]


class Image(NamedTuple):
  """An image that goes into a record.

  Attributes:
    entry: its COCO entry: `id`, `file_name`, `width` and `height` in pixels.
    content: the encoded image.
    encoding: `jpg` or `png`.
    digest: SHA-256 of `content` as hexadecimal digits.
  """
  entry: Entry
  content: bytes
  encoding: str
  digest: str


def make(image: Image, annotations: Sequence[Entry], names: Mapping[int, str],
         masks: Sequence[bytes] = ()) -> tf.train.Example:
  """Makes an example.

  Args:
    image: the image.
    annotations: its COCO annotations with `bbox` inside the image, `category_id`, `area` and
      `iscrowd`.
    names: category id -> name.
    masks: the mask of each annotation as a PNG file; empty if masks are not written.
  """
  example = tf.train.Example()
  features = example.features.feature
  entry = image.entry
  for name, text in (('filename', entry['file_name']), ('source_id', str(entry['id'])),
                     ('key/sha256', image.digest), ('format', image.encoding)):
    features[f'image/{name}'].bytes_list.value.append(text.encode())
  features['image/encoded'].bytes_list.value.append(image.content)
  for side in ('height', 'width'):
    features[f'image/{side}'].int64_list.value.append(entry[side])
  if annotations:
    _add_objects(features, entry, annotations, names)
    if masks:
      features['image/object/mask'].bytes_list.value.extend(masks)
  return example


def _add_objects(features: Any, entry: Entry, annotations: Sequence[Entry],
                 names: Mapping[int, str]) -> None:
  """Adds the features of the annotations of an image."""
  boxes = [annotation['bbox'] for annotation in annotations]
  for axis, size in enumerate((entry['width'], entry['height'])):
    starts = features[f'image/object/bbox/{"xy"[axis]}min'].float_list.value
    starts.extend([box[axis] / size for box in boxes])
    ends = features[f'image/object/bbox/{"xy"[axis]}max'].float_list.value
    ends.extend([(box[axis] + box[axis + 2]) / size for box in boxes])
  numbers = [annotation['category_id'] for annotation in annotations]
  features['image/object/class/label'].int64_list.value.extend(numbers)
  features['image/object/class/text'].bytes_list.value.extend(
      [names[number].encode() for number in numbers])
  features['image/object/is_crowd'].int64_list.value.extend(
      [annotation['iscrowd'] for annotation in annotations])
  features['image/object/area'].float_list.value.extend(
      [annotation['area'] for annotation in annotations])
