"""The module that is exported: it detects objects and says what each image cost."""
from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np
from official.core import config_definitions
from official.core import task_factory
from official.vision import configs
from official.vision.ops import preprocess_ops
from official.vision.serving import detection
import tensorflow as tf, tf_keras

from official_ext.dataloaders import image_sizes
from official_ext.modeling import network_cost
from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.serving import export_checks
from official_ext.utils import checkpoints
from official_ext.utils import command_line
from official_ext.utils import files

_GIGA = 1e9
# Detections alone, with the multiply-adds of every image, and with its gates too.
OUTPUTS = ('detections', 'detections+cost', 'all')
# Outputs of a model without suppression.
_DECODED = ('decoded_boxes', 'decoded_box_scores', 'decoded_box_centerness')


class RoutedDetectionModule(detection.DetectionModule):
  """Model Garden's detection module, with the cost and the gates of every image.

  Attributes:
    image_size: `(height, width)` that images are resized to, in pixels.
    padded_size: `(height, width)` of the network's input, in pixels.
    cost: `NetworkCost` of the model for one image of the padded size.
  """

  def __init__(self, params: config_definitions.ExperimentConfig, *, model: tf_keras.Model,
               input_image_size: Sequence[int], batch_size: int | None = None,
               input_type: str = 'image_tensor', outputs: str = 'all'):
    """Initializes the module.

    Args:
      params: the experiment, with a RetinaNet or Mask R-CNN task.
      model: the model that the experiment's task builds for images of the padded size.
      input_image_size: `[height, width]` that images are resized to, in pixels.
      batch_size: fixed number of images, or None for any number.
      input_type: one of `input_types.INPUT_TYPES`.
      outputs: which outputs `serve` returns, one of `OUTPUTS`.
    """
    super().__init__(params=params, batch_size=batch_size, model=model,
                     input_image_size=list(input_image_size), input_type=input_type)
    self._outputs = outputs
    self.image_size = tuple(input_image_size)
    self.padded_size = tuple(self._padded_size)
    self.cost = network_cost.whole_network_cost(model, self.padded_size)

  @property
  def description(self) -> dict[str, Any]:
    """The contents of `export.json`: it tells users how to read the outputs."""
    suppression = {} if self._suppresses else {'suppression': self._suppression}
    return {
        'input_type': self._input_type,
        'input_image_size': list(self.image_size),
        'batch_size': self._batch_size,
        'outputs': self._outputs,
        'num_classes': self.params.task.model.num_classes,
        'normalized_boxes': self._suppresses and export_option(
            self.params.task, 'output_normalized_coordinates'),
        **suppression,
        'gmac': {name: cost / _GIGA for name, cost in (
            ('static', self.cost.static), ('minimum', self.cost.minimum),
            ('maximum', self.cost.maximum))},
    }

  @property
  def _suppresses(self) -> bool:
    """Whether the outputs are detections, and not boxes and scores of all locations."""
    return self.params.task.model.detection_generator.apply_nms

  @property
  def _suppression(self) -> dict[str, Any]:
    """What `serving.suppression` must know to turn the outputs into detections."""
    config = self.params.task.model
    sizes = []
    if isinstance(config, configs.retinanet.RetinaNet):
      anchors = config.anchor.num_scales * len(config.anchor.aspect_ratios)
      sizes = [anchors * math.prod(-(-side // 2**level) for side in self.padded_size)
               for level in range(config.min_level, config.max_level + 1)]
    return {**self.model.detection_generator.rule._asdict(), 'levels': sizes}

  def module_of(self, image_size: Sequence[int]) -> 'RoutedDetectionModule':
    """Returns the module for images of this height and width, in pixels: the only one."""
    del image_size
    return self

  def network_inputs(self, images: Sequence[np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
    """Normalizes, resizes and pads images as `serve` does.

    Args:
      images: uint8 `[height, width, 3]`; sizes may differ.

    Returns:
      float32 `[images, padded_height, padded_width, 3]`, and Model Garden's image info,
      float32 `[images, 4, 2]`.
    """
    inputs, _, infos = zip(*(self.preprocess(tf.constant(image)[None]) for image in images))
    return tf.concat(inputs, axis=0), tf.concat(infos, axis=0)

  def preprocess(self, images: tf.Tensor
                 ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor], tf.Tensor]:
    """Resizes, normalizes and pads images, as Model Garden's `resize_and_crop_image` does.

    It takes all images of a batch at once, which have one size.  In Model Garden's loop over images
    other engines lose the sizes of all maps that follow, and are slow.  Images are resized first,
    because they mostly become smaller; with linear weights the order makes no difference.

    If the number of images is known only when the graph runs, no image becomes a gray one, because
    TensorFlow's convolutions fail for none.

    Args:
      images: uint8 `[batch, height, width, 3]`.

    Returns:
      float32 `[batch, padded_height, padded_width, 3]`; the anchors of each level, float32
      `[batch, rows, columns, 4 * anchors of a position]`; and Model Garden's image info, float32
      `[batch, 4, 2]`: size, wanted size, scale, and an offset of 0.
    """
    shape = tf.shape(images)
    batch = images.shape[0] or shape[0] + missing_images(images)
    size, wanted = tf.cast(shape[1:3], tf.float32), tf.constant(self.image_size, tf.float32)
    scaled = wanted
    if self.params.task.train_data.parser.keep_aspect_ratio:
      scaled = tf.round(size * tf.reduce_min(wanted / size))
    pixels = preprocess_ops.normalize_image(
        tf.image.resize(tf.cast(images, tf.float32), tf.cast(scaled, tf.int32)),
        offset=preprocess_ops.MEAN_RGB, scale=preprocess_ops.STDDEV_RGB)
    pixels = tf.image.pad_to_bounding_box(pixels, 0, 0, *self.padded_size)
    if images.shape[0] is None:
      pixels = tf.pad(pixels, [[0, missing_images(images)], [0, 0], [0, 0], [0, 0]])
    # Tells engines the size; of a list of numbers Grappler makes one of any number of images.
    pixels = tf.reshape(pixels, tf.concat(
        [tf.shape(pixels)[:1], self.padded_size, shape[3:]], axis=0))

    def repeat(value: tf.Tensor) -> tf.Tensor:
      return tf.tile(value[None], [batch, *[1] * len(value.shape)])

    anchors = {level: repeat(boxes) for level, boxes in self._build_anchor_boxes().items()}
    return pixels, anchors, repeat(tf.stack([size, wanted, scaled / size, tf.zeros([2])]))

  @tf.autograph.experimental.do_not_convert
  def serve(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Detects objects.

    Args:
      images: uint8 `[batch, height, width, 3]` of any size.

    Returns:
      Model Garden's outputs, with boxes in pixels of the resized image, or, without suppression,
      those that `serving.suppression.finish` takes.  Unless `outputs` is `detections`, also
      `multiply_adds`, float32 `[batch]`, of the whole network for each image, and, if the model
      has routed layers, `executed_multiply_adds`, float32 `[batch]`, of these.  If `outputs` is
      `all`, also `gate_<layer>_<gate>` for each gate on the routing tape.
    """
    with routing.RoutingTape() as tape:
      # Only RetinaNet's generator can leave boxes as the head gives them.
      decodes = getattr(self.params.task.model.detection_generator, 'decode_boxes', True)
      decoded = not self._suppresses and decodes
      outputs = self._decode(images) if decoded else dict(super().serve(images))
    routed.check_complete(tape, self.model)
    record = tape.routing()
    if self._outputs != 'detections':
      executed = record.executed if record else tf.zeros(tf.shape(outputs['image_info'])[:1])
      outputs['multiply_adds'] = tf.constant(float(self.cost.static)) + executed
      if record:
        outputs['executed_multiply_adds'] = executed
    if record and self._outputs == 'all':
      outputs.update(
          {f'gate_{name.replace("/", "_")}': gate for name, gate in record.gates.items()})
    if images.shape[0] is None:
      outputs = {name: value[:tf.shape(images)[0]] for name, value in outputs.items()}
    return outputs

  def _decode(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns boxes, scores and, for FCOS and ATSS, center-ness of all locations.

    With `task.export_config.output_intermediate_features` also the maps of backbone and neck.
    """
    inputs, anchors, info = self.preprocess(images)
    wants_features = export_option(self.params.task, 'output_intermediate_features')
    outputs = self.model.call(
        inputs, image_shape=info[:, 1], anchor_boxes=anchors, training=False,
        **({'output_intermediate_features': True} if wants_features else {}))
    return {'image_info': info, **{
        name: value for name, value in outputs.items()
        if name in _DECODED or (wants_features and name.startswith(export_checks.FEATURES))}}


def missing_images(images: tf.Tensor) -> tf.Tensor:
  """Returns 1 if a batch, `[batch, ...]`, is empty, and 0 otherwise: an int32 scalar."""
  return tf.maximum(1 - tf.shape(images)[0], 0)


def export_option(task_config: Any, name: str) -> bool:
  """Returns whether an option of `task.export_config` is on; two-stage detectors have none."""
  return bool(getattr(getattr(task_config, 'export_config', None), name, False))


def check_detector(task_config: Any) -> None:
  """Raises a CommandError unless a task trains a detector, and its options agree on sizes."""
  if not isinstance(task_config, (configs.retinanet.RetinaNetTask, configs.maskrcnn.MaskRCNNTask)):
    raise command_line.CommandError(
        f'--experiment trains {type(task_config).__name__}; this command knows RetinaNet, FCOS, '
        'ATSS, AutoAssign, FreeAnchor, and Faster, Mask and Cascade R-CNN: show_config --all lists '
        'the experiments.')
  try:
    image_sizes.check(task_config)
  except ValueError as error:
    raise command_line.CommandError(str(error)) from error


def build_model(params: config_definitions.ExperimentConfig,
                checkpoint_path: files.PathLike | None = None,
                flag: str = '--checkpoint_path') -> tf_keras.Model:
  """Builds the model of a detection experiment, and restores it if a checkpoint is given.

  Args:
    params: the experiment.
    checkpoint_path: a checkpoint, or a folder whose latest checkpoint is read; None: the model
      keeps its initial weights.
    flag: the command's flag that gave the checkpoint, for error messages.

  Returns:
    The model that the experiment's task builds.

  Raises:
    CommandError: not a detection task, or a checkpoint that does not fit.
  """
  check_detector(params.task)
  checkpoint = checkpoints.find(checkpoint_path, flag) if checkpoint_path else None
  model = task_factory.get_task(params.task).build_model()
  if checkpoint:
    checkpoints.restore(model, checkpoint, flag)
  return model
