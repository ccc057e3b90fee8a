"""The module that is exported: detections, and what each image cost."""
from typing import Mapping, Optional, Sequence

from official.core import config_definitions
from official.vision.serving import detection
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.modeling import network_cost


class RoutedDetectionModule(detection.DetectionModule):
  """Model Garden's detection module, with the cost and the gates of every image.

  Attributes:
    image_size: `(height, width)` that images are resized to.
    cost: `NetworkCost` of the model for the exported image size.
  """

  def __init__(self, params: config_definitions.ExperimentConfig, *, model: tf_keras.Model,
               input_image_size: Sequence[int], batch_size: Optional[int] = None,
               input_type: str = 'image_tensor', output_gates: bool = True):
    """Initializes the module.

    Args:
      params: the experiment, of a RetinaNet or Mask R-CNN task.
      model: as the experiment's task builds it, for images of the padded size.
      input_image_size: `[height, width]` that images are resized to.
      batch_size: fixed number of images, or None for any.
      input_type: `image_tensor`, `image_bytes` or `tf_example`.
      output_gates: adds one output per gate.
    """
    super().__init__(params=params, batch_size=batch_size, model=model,
                     input_image_size=list(input_image_size), input_type=input_type)
    self._output_gates = output_gates
    self.image_size = tuple(input_image_size)
    self.cost = network_cost.whole_network_cost(model, self._padded_size)

  def serve(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Detects objects.

    Args:
      images: uint8 `[batch, height, width, 3]` of any size.

    Returns:
      Model Garden's outputs, boxes in pixels of the resized image; `multiply_adds`,
      float32 `[batch]`, of the whole network for each image; where something is routed,
      `executed_multiply_adds`, float32 `[batch]`, of the routed parts, and, unless
      switched off, `gate_<layer>_<level>` for each gate, as on a routing tape.
    """
    with routing.RoutingTape() as tape:
      outputs = dict(super().serve(images))
    routed.check_complete(tape, self.model)
    record = tape.routing()
    executed = record.executed if record else tf.zeros(tf.shape(images)[:1])
    outputs['multiply_adds'] = tf.constant(float(self.cost.static)) + executed
    if record:
      outputs['executed_multiply_adds'] = executed
    if record and self._output_gates:
      outputs.update(
          {f'gate_{name.replace("/", "_")}': gate for name, gate in record.gates.items()})
    return outputs
