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
  def backbone(images):
    return model.backbone(images, training=False)

  def decoder(levels):
    return model.decoder(levels, training=False) if model.decoder else levels

  with routed.inference_as(model, 'mask'):
    counts = [*_count([backbone, decoder], image_size),
              *_count([_detection(model, image_size)], image_size)]
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
    whole, = _count([_detection(model, image_size)], image_size)
  return whole.total - whole.all_branches


def _detection(model: tf_keras.Model, image_size: Sequence[int]
               ) -> Callable[[tf.Tensor], Any]:
  """Returns a call that detects objects in images `[1, height, width, 3]`."""

  def detect(images):
    return model(images, image_shape=tf.constant([[*image_size]], tf.float32), training=False)

  return detect


class _Count(NamedTuple):
  """Multiply-adds of the first stages of a network.

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


def _count(stages: Sequence[Callable[[Any], Any]], image_size: Sequence[int]) -> list[_Count]:
  """Counts a network from its input to the end of each stage, in one trace.

  Args:
    stages: calls of parts of the network.  The first gets images `[1, height, width, 3]`, each
      other one what the stage before it returns.
    image_size: `(height, width)`.
  """
  ends: list[int] = []

  def bounds(images):
    ends.clear()  # TensorFlow traces a call that makes variables twice.
    outputs, sums, zero = images, [], tf.constant(0.0)
    with routing.RoutingTape() as tape:
      for stage in stages:
        outputs = stage(outputs)
        ends.append(len(tf.compat.v1.get_default_graph().get_operations()))
        record = tape.routing()
        sums.append({name: getattr(record, name) if record else zero
                     for name in ('minimum', 'maximum', 'all_branches')})
    return sums

  images = tf.zeros([1, *image_size, 3])
  function = tf.function(bounds, autograph=False).get_concrete_function(images)
  # The network does not run: only the bounds are fetched, and they follow from shapes.
  return [
      _Count(multiply_adds.count_graph(function.graph, end),
             **{name: round(float(value)) for name, value in values.items()})
      for end, values in zip(ends, function(images))]
