"""The multiply-adds of a whole detector for one image: unrouted part, bounds, shares of its parts.

The cost of an image is `static + executed`: the multiply-adds of the unrouted parts, counted once
on the graph that computes every branch, plus those that a routing tape recorded.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import multiply_adds
from official_ext.ops import routing


class NetworkCost(NamedTuple):
  """Multiply-adds of one image; exact up to the float32 rounding of recorded costs.

  Attributes:
    static: the unrouted parts; the cost of an image is this plus `Routing.executed`.
    minimum: the whole network, every gate shut.
    maximum: the whole network, every gate open; for a choice, the most expensive path.
    all_branches: the whole network with every branch, as the training graph computes it.
    maximum_by_part: `maximum` of `backbone`, `decoder` and `head`, which add up to it.
    minimum_by_part: `minimum` of the same parts.
    static_by_part: `static` of the same parts.
  """
  static: int
  minimum: int
  maximum: int
  all_branches: int
  maximum_by_part: dict[str, int]
  minimum_by_part: dict[str, int]
  static_by_part: dict[str, int]


def whole_network_cost(model: tf_keras.Model, image_size: Sequence[int]) -> NetworkCost:
  """Counts the multiply-adds that a detector needs for one image at inference.

  The model is traced, not run.  Two-stage detectors are counted with the numbers of proposals
  and masks that they use at inference.

  Args:
    model: Model Garden's RetinaNet or Mask R-CNN model, or one with the same interface: it has
      `backbone` and `decoder`, and is called with `images`, `image_shape` and `training`.
    image_size: `(height, width)` of the images that the network gets, padding included.

  Returns:
    The counts; if nothing is routed, the first four are equal.

  Raises:
    ValueError: an operation has a shape that is not known before the network runs.
  """
  height, width = image_size

  def backbone(images):
    return model.backbone(images, training=False)

  def features(images):
    levels = backbone(images)
    return model.decoder(levels, training=False) if model.decoder else levels

  calls = (backbone, features, _detection(model, image_size))
  with routed.inference_as(model, 'mask'):
    counts = [_count(call, height, width) for call in calls]
  whole = counts[-1]
  statics = [count.total - count.all_branches for count in counts]
  minima = [static + count.minimum for static, count in zip(statics, counts)]
  maxima = [static + count.maximum for static, count in zip(statics, counts)]
  return NetworkCost(
      static=statics[-1], minimum=minima[-1], maximum=maxima[-1],
      # The graph holds the body of a loop once, so that its total may be below the maximum.
      all_branches=max(whole.total, maxima[-1]), maximum_by_part=_by_part(maxima),
      minimum_by_part=_by_part(minima), static_by_part=_by_part(statics))


def _by_part(sums: Sequence[int]) -> dict[str, int]:
  """Returns the cost of each part; `sums` are those of the part and all parts before it."""
  return dict(zip(routed.PARTS, (end - start for start, end in zip([0, *sums], sums))))


def static_cost(model: tf_keras.Model, image_size: Sequence[int]) -> int:
  """Counts the multiply-adds of a detector that no gate can save; faster than all counts.

  Arguments and errors are those of `whole_network_cost`.
  """
  with routed.inference_as(model, 'mask'):
    whole = _count(_detection(model, image_size), *image_size)
  return whole.total - whole.all_branches


def _detection(model: tf_keras.Model, image_size: Sequence[int]
               ) -> Callable[[tf.Tensor], Any]:
  """Returns a call that detects objects in images `[1, height, width, 3]`."""

  def detect(images):
    return model(images, image_shape=tf.constant([[*image_size]], tf.float32), training=False)

  return detect


class _Count(NamedTuple):
  """Multiply-adds of one call.

  Attributes:
    total: all operations of the graph that computes every branch.
    minimum: the routed layers, every gate shut.
    maximum: the routed layers, every gate open.
    all_branches: the routed layers, as they are counted in `total`.
  """
  total: int
  minimum: int
  maximum: int
  all_branches: int


def _count(call: Callable[[tf.Tensor], Any], height: int, width: int) -> _Count:
  """Counts a call on images `[1, height, width, 3]`, and the bounds of the routed layers in it."""

  def bounds(images):
    with routing.RoutingTape() as tape:
      call(images)
    record, zero = tape.routing(), tf.constant(0.0)
    return {name: getattr(record, name) if record else zero
            for name in ('minimum', 'maximum', 'all_branches')}

  function = tf.function(bounds, autograph=False).get_concrete_function(
      tf.TensorSpec([1, height, width, 3], tf.float32))
  total = multiply_adds.count_graph(function.graph)
  # The network does not run: only the bounds are fetched, and they follow from shapes.
  values = function(tf.zeros([1, height, width, 3]))
  return _Count(total, **{name: round(float(value)) for name, value in values.items()})
