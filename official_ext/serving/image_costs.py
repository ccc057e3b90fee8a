"""Counts the multiply-adds of a detector for each image, at the size of that image."""
from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
from typing import NamedTuple

import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf, tf_keras

from official_ext.modeling import network_cost
from official_ext.modeling.layers import routed
from official_ext.ops import routing

# A figure counts the backbone alone, the backbone and the neck, or all parts.
SCOPES = ('backbone', 'backbone and neck', 'whole network')
FIELDS = ('executed', 'static', 'minimum', 'maximum')
STATISTICS = ('mean', 'min', 'max', 'std')
# Papers pad images to multiples of this, the largest stride of a ResNet.
_MULTIPLE = 32


class InputSize(NamedTuple):
  """How large an image becomes for the network; heights and widths in pixels.

  Attributes:
    content: of the resized image.
    padded: of the network's input, which has zeros to the right and below.
  """
  content: tuple[int, int]
  padded: tuple[int, int]


SizeRule = Callable[[int, int], InputSize]


def own_size(height: int, width: int, sides: Sequence[int]) -> InputSize:
  """Returns the size that papers give an image: the same for either orientation.

  Args:
    height: of the image, in pixels.
    width: of the image, in pixels.
    sides: `(short, long)`: the short side of the image becomes the first, unless the long side
      would then be above the second; it then becomes the second.
  """
  scale = min(min(sides) / min(height, width), max(sides) / max(height, width))
  content = tuple(max(1, round(side * scale)) for side in (height, width))
  padded = tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in content)
  return InputSize((content[0], content[1]), (padded[0], padded[1]))


def canvas_size(height: int, width: int, canvas: Sequence[int]) -> InputSize:
  """Returns the size of an image that is fitted into a canvas, which is padded.

  Args:
    height: of the image, in pixels.
    width: of the image, in pixels.
    canvas: height and width of the network's input.
  """
  scale = min(canvas[0] / height, canvas[1] / width)
  return InputSize((max(1, round(height * scale)), max(1, round(width * scale))),
                   (canvas[0], canvas[1]))


class ImageCost(NamedTuple):
  """The multiply-adds of one image.

  Attributes:
    size: height and width of the network's input, in pixels.
    costs: `(scope, field)` -> multiply-adds, for `SCOPES` and `FIELDS`: what was executed, what no
      gate can save, and what every gate shut and every gate open would cost.  `executed` is
      missing if gates decide and the network did not run.
    uncounted: field -> multiply-adds of the whole network that `costs` leave out.
    metrics: what layers recorded of the image beside its cost.
  """
  size: tuple[int, int]
  costs: dict[tuple[str, str], float]
  uncounted: dict[str, float]
  metrics: dict[str, float]


class CostMeter:
  """Counts the multiply-adds of a detector for images of any size.

  Attributes:
    left_out: in words, what is left out of the cost; empty for nothing.
  """

  def __init__(self, model: tf_keras.Model, size_of: SizeRule, as_paper: bool = False,
               runs: bool = True, diagnose: bool = False):
    """Initializes the meter.

    Args:
      model: a detector that was built for images of unknown size, `[None, None, 3]`.
      size_of: maps height and width of an image to its size for the network.
      as_paper: whether to leave out what the papers of the layers do not count.
      runs: whether to run the network, for `executed` and the metrics.
      diagnose: whether metrics include those that cost as much as the network.
    """
    self._model, self._size_of = model, size_of
    self._as_paper, self._diagnose = as_paper, diagnose
    self._parts = {part: [layer.name for layer in layers]
                   for part, layers in routed.layers_by_part(model).items()}
    texts = {layer.uncounted_parts for layer in routed.routed_layers(model)} if as_paper else ()
    self.left_out = '; '.join(sorted(filter(None, texts)))
    self._runs = runs and any(self._parts.values())
    self._is_known = not any(self._parts.values())
    self._static = functools.cache(functools.partial(network_cost.whole_network_cost, model))
    self._bounds = functools.cache(self._count_bounds)
    self._record = tf.function(self._run, autograph=False)

  def measure(self, image: np.ndarray) -> ImageCost:
    """Returns what an image costs.

    Args:
      image: uint8 `[height, width, 3]`.
    """
    size = self._size_of(*image.shape[:2])
    cost = self._static(size.padded)
    fields: dict[str, Mapping[str, float]] = {
        'static': cost.static_by_part, 'minimum': cost.minimum_by_part,
        'maximum': cost.maximum_by_part}
    nothing = dict.fromkeys(routed.PARTS, 0.0)
    left_out = {**dict.fromkeys(fields, nothing), **self._bounds(size.padded)}
    metrics: dict[str, float] = {}
    if self._runs:
      records = self._decide(image, size)
      fields['executed'] = {
          part: static + float(records[part].executed[0] if part in records else 0)
          for part, static in cost.static_by_part.items()}
      left_out['executed'] = {
          part: _uncounted(records.get(part), 'executed') for part in routed.PARTS}
      metrics = {name: float(value[0]) for record in records.values()
                 for name, value in record.metrics.items()}
    elif self._is_known:
      fields['executed'], left_out['executed'] = cost.static_by_part, nothing
    return self._image_cost(size.padded, fields, left_out, metrics)

  def _image_cost(self, size: tuple[int, int], fields: Mapping[str, Mapping[str, float]],
                  left_out: Mapping[str, Mapping[str, float]], metrics: dict[str, float]
                  ) -> ImageCost:
    """Sums parts up to scopes, without what is left out if papers are followed."""
    costs = {}
    for field, by_part in fields.items():
      total = 0.0
      for scope, part in zip(SCOPES, routed.PARTS):
        total += by_part[part] - (left_out[field][part] if self._as_paper else 0.0)
        costs[scope, field] = total
    uncounted = {field: sum(left_out[field].values()) if self._as_paper else 0.0
                 for field in fields}
    return ImageCost(size, costs, uncounted, metrics)

  def _run(self, inputs: tf.Tensor, image_shape: tf.Tensor) -> dict[str, routing.Routing]:
    """Returns what the layers of each routed part record."""
    with routing.RoutingTape(diagnose=self._diagnose) as tape:
      self._model(inputs, image_shape=image_shape, training=False)
    routed.check_complete(tape, self._model)
    return {part: routing.merge({name: tape.records()[name] for name in names})
            for part, names in self._parts.items() if names}

  def _decide(self, image: np.ndarray, size: InputSize) -> dict[str, routing.Routing]:
    """Runs the network on an image; returns records of NumPy arrays by part."""
    pixels = preprocess_ops.normalize_image(
        tf.cast(image, tf.float32), offset=preprocess_ops.MEAN_RGB,
        scale=preprocess_ops.STDDEV_RGB)
    pixels, info = preprocess_ops.resize_and_crop_image(
        pixels, size.content, padded_size=size.padded, aug_scale_min=1.0, aug_scale_max=1.0)
    inputs = tf.ensure_shape(pixels, [*size.padded, 3])[None]
    records = self._record(inputs, info[None, 1])
    return tf.nest.map_structure(
        lambda value: None if value is None else value.numpy(), records)

  def _count_bounds(self, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Returns what the papers leave out of minimum and maximum, by part."""
    if not (self._as_paper and any(self._parts.values())):
      return {}

    def bounds(inputs):
      records = self._run(inputs, tf.constant([[*size]], tf.float32))
      return {part: record.uncounted and record.uncounted[1:] for part, record in records.items()}

    # The network does not run: these values follow from shapes.
    with routed.inference_as(self._model, 'mask'):
      function = tf.function(bounds, autograph=False).get_concrete_function(
          tf.TensorSpec([1, *size, 3], tf.float32))
    found = function(tf.zeros([1, *size, 3]))
    return {field: {part: float(found[part][index]) if found.get(part) else 0.0
                    for part in routed.PARTS}
            for index, field in enumerate(('minimum', 'maximum'))}


def _uncounted(record: routing.Routing | None, field: str) -> float:
  """Returns a field of what a record of one image leaves out."""
  if record is None or record.uncounted is None:
    return 0.0
  return float(np.ravel(getattr(record.uncounted, field))[0])


def statistics(costs: Iterable[ImageCost]) -> dict[str, dict[str, dict[str, float]]]:
  """Returns mean, minimum, maximum and standard deviation over images.

  Args:
    costs: of one or more images.

  Returns:
    Scope -> field -> one of `STATISTICS` -> multiply-adds.
  """
  costs, found = list(costs), {}
  for scope in SCOPES:
    values = {field: [cost.costs[scope, field] for cost in costs]
              for field in FIELDS if (scope, field) in costs[0].costs}
    found[scope] = {field: {name: float(getattr(np, name)(own)) for name in STATISTICS}
                    for field, own in values.items()}
  return found
