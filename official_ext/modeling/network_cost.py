"""What a whole detector costs per image, in multiply-adds: fixed part, bounds, and by part.

The cost of one image is `static + executed`: what is counted once on the graph that
computes every branch, without the routed parts, plus what a routing tape says was run.
"""
from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import multiply_adds
from official_ext.ops import routing

PARTS = ('backbone', 'decoder', 'head')


class NetworkCost(NamedTuple):
  """Multiply-adds of one image; exact but for the float32 of what a tape recorded.

  Attributes:
    static: all that is not routed; add what a tape calls `executed` for an image's cost.
    minimum: the whole network, every gate shut.
    maximum: the whole network, every gate open; of a choice, the dearest path.
    dense: the whole network with every branch, as the training graph computes it.
    maximum_by_part: `maximum` of `backbone`, `decoder` and `head`, which add up to it.
  """
  static: int
  minimum: int
  maximum: int
  dense: int
  maximum_by_part: Dict[str, int]


def whole_network_cost(model: tf_keras.Model, image_size: Sequence[int]) -> NetworkCost:
  """Counts the multiply-adds that a detector needs for one image at inference.

  The model is traced, not run.  Two-stage detectors are counted with the number of
  proposals, and masks, that they use at inference.

  Args:
    model: Model Garden's RetinaNet or Mask R-CNN model, or one alike: has `backbone` and
      `decoder`, and is called with `images`, `image_shape` and `training`.
    image_size: `(height, width)` of the images that the network gets, padding included.

  Returns:
    The counts; all but `maximum_by_part` equal where nothing is routed.

  Raises:
    ValueError: an operation has a shape that is not known before the network runs.
  """
  height, width = image_size

  def backbone(images):
    return model.backbone(images, training=False)

  def features(images):
    levels = backbone(images)
    return model.decoder(levels, training=False) if model.decoder else levels

  def detect(images):
    image_shape = tf.constant([[height, width]], tf.float32)
    return model(images, image_shape=image_shape, training=False)

  with routed.inference_as(model, 'mask'):
    counts = [_count(call, height, width) for call in (backbone, features, detect)]
  total, minimum, maximum, dense = counts[-1]
  ends = [_maximum(count) for count in counts]
  parts = [end - start for start, end in zip([0] + ends, ends)]
  static = total - dense
  # Of a loop the graph holds one round only.
  whole = max(total, static + maximum)
  return NetworkCost(static, static + minimum, static + maximum, whole, dict(zip(PARTS, parts)))


def _maximum(count: Tuple[int, int, int, int]) -> int:
  total, _, maximum, dense = count
  return total - dense + maximum


def _count(call: Callable[[tf.Tensor], Any], height: int, width: int) -> Tuple[int, int, int, int]:
  """Returns the count of a call's graph and the routed minimum, maximum and dense in it."""

  def bounds(images):
    with routing.RoutingTape() as tape:
      call(images)
    record = tape.routing()
    zero = tf.constant(0.0)
    return (record.minimum, record.maximum, record.dense) if record else (zero, zero, zero)

  function = tf.function(bounds, autograph=False).get_concrete_function(
      tf.TensorSpec([1, height, width, 3], tf.float32))
  total = multiply_adds.count_graph(function.graph)
  # Only the bounds are fetched, and they follow from shapes: the network does not run.
  routed = function(tf.zeros([1, height, width, 3]))
  return (total, *(round(float(value)) for value in routed))
