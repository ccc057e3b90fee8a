"""Finds what is wrong in one `tf.train.Example`, in plain Python.

No TensorFlow operation runs, so that a training can look at its records before it makes its
distribution strategy, which must be the first to start TensorFlow's devices.
"""
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

_TOLERANCE = 1e-5  # of normalized coordinates
_LONG = 100  # sides with this ratio leave 5 pixels of 512, none at a random scale of 0.1
_PIXELS = 2.0  # normalized coordinates above this are pixels, no box a little over the edge

_COORDINATES = tuple(f'image/object/bbox/{side}' for side in ('ymin', 'xmin', 'ymax', 'xmax'))
_LABEL = 'image/object/class/label'
_MASK = 'image/object/mask'
_IMAGE = 'image/encoded'
_ID = 'image/source_id'
# The lists of values that Model Garden's decoder asks for, by feature name.
_KINDS = {
    _IMAGE: 'bytes', _ID: 'bytes', 'image/height': 'int64', 'image/width': 'int64',
    **dict.fromkeys(_COORDINATES, 'float'), _LABEL: 'int64', 'image/object/area': 'float',
    'image/object/is_crowd': 'int64', _MASK: 'bytes'}
_DECODABLE = ('JPEG', 'MPO', 'PNG', 'GIF', 'BMP', 'WEBP')  # by TensorFlow; names of Pillow

ID_ADVICE = "set regenerate_source_id of the experiment's decoder, or convert the data anew"
LONG_IMAGE = (f'image is more than {_LONG} times as long as wide, so that a resize leaves little '
              'or nothing of it: cut it into tiles')

Features = Mapping[str, Any]  # `tf.train.Example().features.feature`


class Problem(NamedTuple):
  """A problem of one record.

  Attributes:
    reason: one phrase, the same for all problems of its kind.
    detail: what is wrong in this record; empty if the reason says it all.
    is_fatal: whether training or evaluation fails or learns nonsense; otherwise Model Garden
      clips or skips what is wrong.
  """
  reason: str
  detail: str = ''
  is_fatal: bool = True


@dataclasses.dataclass(frozen=True)
class Needs:
  """What an experiment needs of each record.

  Attributes:
    masks: a mask for each box.
    num_classes: class ids below this number; None if it is unknown.
    source_id: whether the decoder reads `image/source_id` (it does unless the experiment sets
      `regenerate_source_id`).
    input_size: (height, width) in pixels to which images are resized; None if it is unknown.
    smallest_scale: the smallest random scale of that resize.
  """
  masks: bool = False
  num_classes: int | None = None
  source_id: bool = True
  input_size: Sequence[int] | None = None
  smallest_scale: float = 1.0

  @classmethod
  def of_task(cls, task: Any, is_training: bool) -> 'Needs':
    """Returns what a detection task needs.

    Args:
      task: the task config of an experiment.
      is_training: whether the records are for training or for evaluation.
    """
    data = task.train_data if is_training else task.validation_data
    choice: Any = getattr(data, 'decoder', None)
    parser: Any = getattr(data, 'parser', None)
    # A label map gives classes their numbers by name.
    maps_labels = getattr(choice, 'type', '') == 'label_map_decoder'
    decoder = choice.get() if hasattr(choice, 'get') else choice
    return cls(
        masks=bool(getattr(task.model, 'include_mask', False)),
        num_classes=None if maps_labels else task.model.num_classes,
        source_id=not getattr(decoder, 'regenerate_source_id', False),
        input_size=_input_size(task, parser),
        smallest_scale=getattr(parser, 'aug_scale_min', 1.0) if is_training else 1.0)


def _input_size(task: Any, parser: Any) -> tuple[int, int] | None:
  """Returns the (height, width) that the longest images are fitted into."""
  from official_ext.dataloaders import image_sizes
  if image_sizes.is_paper(task):
    # The long side alone limits images of which little is left.
    return (task.resize.long_side,) * 2
  # A resize to the input's own shape leaves something of every image.
  return tuple(task.model.input_size[:2]) if getattr(parser, 'keep_aspect_ratio', True) else None


def _values(features: Features, name: str) -> Sequence[Any]:
  """Returns the values of a feature; empty if the record does not have it."""
  return getattr(features[name], f'{_KINDS[name]}_list').value if name in features else ()


def image_name(features: Features) -> str:
  """Returns `image/filename`, empty if the record has none."""
  if 'image/filename' not in features:
    return ''
  return b''.join(features['image/filename'].bytes_list.value).decode(errors='replace')


def encoded_image(features: Features) -> bytes:
  """Returns `image/encoded`, empty if the record has none."""
  return next(iter(_values(features, _IMAGE)), b'')


def image_id(features: Features) -> str:
  """Returns `image/source_id` as text, empty if the record has none."""
  return b''.join(_values(features, _ID)).decode(errors='replace')


def _structure_problems(features: Features) -> Iterator[Problem]:
  """Finds missing features, and features that hold another kind of values than is read."""
  for name, kind in _KINDS.items():
    held = features[name].WhichOneof('kind') if name in features else None
    if held and held != f'{kind}_list':
      yield Problem(f'{name} holds {held.removesuffix("_list")} values, {kind} values are read')
  if not _values(features, _IMAGE):
    yield Problem('record has no image in image/encoded',
                  f'it has {", ".join(sorted(features)[:12]) or "nothing"}')


def _id_problems(features: Features, needs: Needs) -> Iterator[Problem]:
  if not needs.source_id:
    return
  if not _values(features, _ID):
    yield Problem(f'record has no image/source_id: {ID_ADVICE}')
    return
  text = image_id(features)
  # Model Garden makes an id from the image if the text is empty.
  if text and not (text.removeprefix('-').isdecimal() and -2**63 <= int(text) < 2**63):
    yield Problem(f'image id is not a whole number, which evaluation needs: {ID_ADVICE}',
                  f'id {text!r}')


def _image_problems(features: Features, needs: Needs) -> Iterator[Problem]:
  """Reads the header of the image and compares it with the sizes in the record."""
  try:
    with Image.open(io.BytesIO(_values(features, _IMAGE)[0])) as image:
      size, form, frames = image.size, image.format, getattr(image, 'n_frames', 1)
  except Image.DecompressionBombError:
    return
  except UnidentifiedImageError:
    yield Problem('image cannot be decoded', 'its bytes are of no known format')
    return
  except (OSError, ValueError, SyntaxError) as error:
    yield Problem('image cannot be decoded', str(error))
    return
  if form not in _DECODABLE:
    yield Problem(f'image is {form}; only JPEG, PNG, GIF, BMP and WebP can be decoded')
  elif form in ('GIF', 'WEBP') and frames > 1:
    yield Problem('image is an animation, not one picture')
  said = tuple(next(iter(_values(features, f'image/{side}')), -1) for side in ('width', 'height'))
  if -1 not in said and said != size:
    yield Problem('image size is not what the record says',
                  f'{said[0]} x {said[1]}, is {size[0]} x {size[1]}', is_fatal=False)
  yield from _shape_problems(size, needs)


def is_long(size: Sequence[int]) -> bool:
  """Returns whether the sides (width, height) of an image differ so much as `LONG_IMAGE` says."""
  return max(size) > _LONG * min(size)


def _shape_problems(size: Sequence[int], needs: Needs) -> Iterator[Problem]:
  """Finds an image that has no pixels left when an experiment resizes it.

  Args:
    size: (width, height) of the image in pixels.
    needs: of the experiment.
  """
  if needs.input_size is None:
    return
  height, width = needs.input_size[:2]
  scale = min(width / size[0], height / size[1]) * needs.smallest_scale
  if min(size) * scale < 1:
    yield Problem(f'image is so long that nothing is left of it at {height} x {width}: '
                  'cut it into tiles', f'{size[0]} x {size[1]}')


def box_problem(boxes: np.ndarray) -> Problem | None:
  """Returns what is wrong with normalized boxes `[num_boxes, 4]`; None if nothing is."""
  if not np.isfinite(boxes).all():
    return Problem('box is not finite')
  if (boxes > _PIXELS).any():
    return Problem('box is in pixels: coordinates must be parts of the image, 0 to 1')
  if (boxes < -_TOLERANCE).any() or (boxes > 1 + _TOLERANCE).any():
    return Problem('box is outside the image', is_fatal=False)
  if (boxes[:, 2:] <= boxes[:, :2]).any():
    return Problem('box has no area', is_fatal=False)
  return None


def _object_problems(features: Features, needs: Needs) -> Iterator[Problem]:
  """Checks numbers and values of boxes and classes."""
  sides = [np.array(_values(features, name), np.float64) for name in _COORDINATES]
  if len({len(side) for side in sides}) > 1:
    yield Problem('record has not four coordinates for each box')
    return
  problem = box_problem(np.stack(sides, axis=-1))
  if problem:
    yield problem
  labels = list(_values(features, _LABEL))
  if len(labels) != len(sides[0]):
    named = ': names in image/object/class/text alone are not read' if not labels else ''
    yield Problem(f'record has not one class for each box{named}')
  limit = needs.num_classes or 2**31
  wrong = sorted({label for label in labels if not 0 < label < limit})
  if wrong and wrong[0] == 0:
    yield Problem('class id is below 1: 0 stands for background, so raise all ids by one',
                  f'ids {wrong}')
  elif wrong:
    yield Problem(f'class id is not in 1 to num_classes - 1 = {limit - 1}' if needs.num_classes
                  else 'class id is below 1 or above 2147483647', f'ids {wrong}')


def _mask_problems(features: Features, needs: Needs) -> Iterator[Problem]:
  """Checks the number, the form and the sizes of the masks."""
  masks, num_boxes = _values(features, _MASK), len(_values(features, _COORDINATES[0]))
  if needs.masks and num_boxes and not masks:
    yield Problem('record has no masks, which the model needs: convert the data with '
                  '--include_masks')
  elif masks and len(masks) != num_boxes:
    yield Problem('record has not one mask for each box')
  said = tuple(next(iter(_values(features, f'image/{side}')), -1) for side in ('width', 'height'))
  for number, mask in enumerate(masks, 1):
    try:
      with Image.open(io.BytesIO(mask)) as image:
        size, form = image.size, image.format
    except (OSError, ValueError, SyntaxError):
      yield Problem('mask is broken', f'mask {number}')
      continue
    if form != 'PNG':
      yield Problem('mask is no PNG', f'mask {number} is {form}')
    elif -1 not in said and size != said:
      yield Problem("mask is not of the image's size", f'mask {number}')


def problems(features: Features, needs: Needs) -> Iterator[Problem]:
  """Finds what is wrong in a record.

  Args:
    features: of the example.
    needs: of the experiment.

  Yields:
    The problems; only those of its structure if there are any, because no value can be read.
  """
  structure = list(_structure_problems(features))
  yield from structure
  if structure:
    return
  yield from _id_problems(features, needs)
  yield from _image_problems(features, needs)
  yield from _object_problems(features, needs)
  yield from _mask_problems(features, needs)
