"""Export modules for the sizes that an experiment has: one size, or several canvases."""
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import numpy as np
from official.core import config_definitions
from official.vision.ops import preprocess_ops
from official.vision.serving import export_base
import tensorflow as tf, tf_keras

from official_ext.dataloaders import image_sizes
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.ops import canvases as canvases_lib
from official_ext.ops import conditional
from official_ext.ops import routing
from official_ext.ops import suppression
from official_ext.serving import detection
from official_ext.utils import command_line
from official_ext.utils import files

NMS = ('batched', 'none', 'portable')
# Options of `task.export_config` that change detections.
_OF_DETECTIONS = ('output_normalized_coordinates', 'cast_num_detections_to_float',
                  'cast_detection_classes_to_float')


class _CanvasModule(detection.RoutedDetectionModule):
  """The module for the images of one canvas."""

  def __init__(self, params: config_definitions.ExperimentConfig, canvas: canvases_lib.Canvas,
               **kwargs):
    """Initializes the module.

    Args:
      params: the experiment.
      canvas: the box that images are fitted into, and the size of the network's input.
      **kwargs: further arguments of `RoutedDetectionModule`.
    """
    self._canvas = canvas  # Before the initialization, which asks for the padded size.
    super().__init__(params, input_image_size=canvas.box, **kwargs)

  @property
  def _padded_size(self) -> list[int]:
    return list(self._canvas.size)

  def preprocess(self, images: tf.Tensor
                 ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor], tf.Tensor]:
    pixels, anchors, info = super().preprocess(images)
    return pixels, anchors, canvases_lib.without_padding(info)


class CanvasDetectionModule(export_base.ExportModule):
  """A module for images of any size, which go to the canvases of `task.resize`.

  The graph holds the network once for each canvas, with static shapes, and the weights once.
  It has the methods and attributes of `RoutedDetectionModule`; those of one size are of the
  widest canvas.
  """

  def __init__(self, params: config_definitions.ExperimentConfig, *, model: tf_keras.Model,
               batch_size: int | None = None, input_type: str = 'image_tensor',
               outputs: str = 'all'):
    """Initializes the module.

    Args:
      params: the experiment, whose `task.resize` is the papers' rule.
      model: the model that the experiment's task builds.
      batch_size: fixed number of images, or None for any number.
      input_type: one of `input_types.INPUT_TYPES`.
      outputs: which outputs `serve` returns, one of `detection.OUTPUTS`.
    """
    canvases, = image_sizes.canvases(params.task, is_training=False)
    super().__init__(params=params, batch_size=batch_size, model=model,
                     input_image_size=list(canvases.widest.box), input_type=input_type)
    self._canvases = canvases
    self._modules = [
        _CanvasModule(params, canvas, model=model, batch_size=batch_size, input_type=input_type,
                      outputs=outputs) for canvas in canvases]
    widest = self.module_of(canvases.widest.box)
    self.image_size, self.padded_size = widest.image_size, widest.padded_size
    self.cost = widest.cost

  @property
  def description(self) -> dict[str, Any]:
    """The contents of `export.json`, with the sizes of all canvases."""
    return {**self.module_of(self.image_size).description,
            'canvases': [list(module.padded_size) for module in self._modules]}

  def module_of(self, image_size: Sequence[int]) -> detection.RoutedDetectionModule:
    """Returns the module for images of this height and width, in pixels."""
    return self._modules[int(self._canvases.index(tf.constant(image_size)))]

  def network_inputs(self, images: Sequence[np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
    """Normalizes, resizes and pads images of one canvas; see `RoutedDetectionModule`.

    Raises:
      ValueError: the images have several canvases.
    """
    modules = [self.module_of(image.shape[:2]) for image in images]
    if any(module is not modules[0] for module in modules):
      raise ValueError('Images of several canvases cannot be a batch: give batches of one image, '
                       '--batch_size=1.')
    return modules[0].network_inputs(images)

  @tf.autograph.experimental.do_not_convert
  def serve(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Detects objects in images of one size; see `RoutedDetectionModule`."""
    return conditional.switch(
        self._canvases.index(tf.shape(images)[1:3]),
        [functools.partial(module.serve, images) for module in self._modules])

  @tf.function
  def inference_from_image_bytes(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Detects objects in image files of any sizes, strings `[batch]`."""
    return self._serve_each(self._decode_image, inputs)

  @tf.function
  def inference_from_tf_example(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Detects objects in `tf.train.Example`s with images of any sizes, strings `[batch]`."""
    return self._serve_each(self._decode_tf_example, inputs)

  def _serve_each(self, decode: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor
                  ) -> Mapping[str, tf.Tensor]:
    """Detects objects in one image after the other.

    Gates of positions are left out: their sizes differ between canvases.
    """
    budgets = tf.broadcast_to(
        tf.reshape(routing.wanted_budget(), [-1]), tf.shape(inputs)[:1])

    def serve_at(image: tf.Tensor, budget: tf.Tensor) -> Mapping[str, tf.Tensor]:
      with routing.spending(budget):
        return self.serve(image)

    serve = tf.function(serve_at).get_concrete_function(
        tf.TensorSpec([1, None, None, self._num_channels], tf.uint8), tf.TensorSpec([]))
    signature = {name: tf.TensorSpec(output.shape[1:], output.dtype)
                 for name, output in serve.structured_outputs.items()
                 if output.shape[1:].is_fully_defined()}

    def detect(one: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
      encoded, budget = one
      outputs = serve(decode(encoded)[None], budget)
      return {name: outputs[name][0] for name in signature}

    return tf.map_fn(detect, (inputs, budgets), fn_output_signature=signature,
                     parallel_iterations=1)


DetectionModule = detection.RoutedDetectionModule | CanvasDetectionModule


def make_module(params: config_definitions.ExperimentConfig, model: tf_keras.Model, **kwargs
                ) -> DetectionModule:
  """Wraps a model for export, for images of the sizes that the experiment has.

  Args:
    params: the experiment.
    model: the model that the experiment's task builds.
    **kwargs: `batch_size`, `input_type` and `outputs` of the module.
  """
  if image_sizes.is_paper(params.task):
    return CanvasDetectionModule(params, model=model, **kwargs)
  return detection.RoutedDetectionModule(
      params, model=model, input_image_size=params.task.model.input_size[:2], **kwargs)


def _set_suppression(task_config: Any, nms: str | None, batch_size: int | None) -> None:
  """Writes `--nms` into an experiment; raises a CommandError if it cannot be had."""
  generator = task_config.model.detection_generator
  if nms in suppression.VERSIONS:
    generator.nms_version, generator.apply_nms = nms, True
  elif nms == 'none':
    generator.apply_nms = False
  if not generator.apply_nms:
    _check_unsuppressed(task_config, batch_size, f'--nms={nms}' if nms else
                        'task.model.detection_generator.apply_nms is false')
  elif batch_size is None and generator.nms_version == 'v1':
    sigma = getattr(generator, 'soft_nms_sigma', None)
    if sigma:
      raise command_line.CommandError(
          f'task.model.detection_generator.soft_nms_sigma is {sigma}, which '
          'only nms_version v1 has, and that takes a fixed number of images: give --batch_size.')
    generator.nms_version = 'batched'  # Model Garden's export does the same.


def _check_unsuppressed(task_config: Any, batch_size: int | None, what: str) -> None:
  """Raises a CommandError if detections cannot be made of outputs without suppression.

  Args:
    task_config: of the experiment.
    batch_size: fixed number of images, or None.
    what: leaves the suppression out, for the message.
  """
  model_config = task_config.model
  generator = model_config.detection_generator
  if getattr(model_config, 'include_mask', False):
    raise command_line.CommandError(
        f'{what}: the masks are of detections, which are not known without suppression; give '
        '--nms=portable.')
  if image_sizes.is_paper(task_config):
    raise command_line.CommandError(
        f'{what}: images of several sizes have different numbers of boxes; give one size, such '
        'as --input_image_size=800,1344.')
  for name in ('soft_nms_sigma', 'use_class_agnostic_nms'):
    if getattr(generator, name, None):
      raise command_line.CommandError(
          f'{what}: export.json says how to suppress, in which there is no {name}; set '
          f'task.model.detection_generator.{name}=null for another suppression of your own.')
  for name in _OF_DETECTIONS:
    if detection.export_option(task_config, name):
      raise command_line.CommandError(
          f'{what}: task.export_config.{name} is about detections, which are not known without '
          f'suppression; give --nms=portable, or set task.export_config.{name}=false.')
  # Only RetinaNet's generator can leave boxes as the head gives them.
  if batch_size is None and not getattr(generator, 'decode_boxes', True):
    raise command_line.CommandError(
        f'{what}: task.model.detection_generator.decode_boxes is false, which takes a fixed number '
        'of images: give --batch_size, or leave decode_boxes out.')


def build_module(params: config_definitions.ExperimentConfig, checkpoint_path: files.PathLike,
                 input_type: str = 'image_tensor', image_size: Sequence[int] | None = None,
                 batch_size: int | None = None, outputs: str = 'all',
                 flag: str = '--checkpoint_path', nms: str | None = None) -> DetectionModule:
  """Builds and restores the model of an experiment, folds its norms, and wraps it for export.

  Args:
    params: an unlocked experiment of a detection task.  Its image size becomes the padded one,
      and non-maximum suppression a version that takes the batch size.  If an image size is
      given, `task.resize.rule` becomes `garden`.
    checkpoint_path: a checkpoint, or a folder whose latest checkpoint is read.
    input_type: one of `input_types.INPUT_TYPES`.
    image_size: `[height, width]` that images are resized to, in pixels; None: the experiment's,
      which may be a rule.
    batch_size: fixed number of images, or None for any number.
    outputs: which outputs the module returns, one of `detection.OUTPUTS`.
    flag: the command's flag that gave the checkpoint, for error messages.
    nms: one of `NMS`; None: the experiment's own.

  Returns:
    The module to be exported.

  Raises:
    CommandError: not a detection task, or a checkpoint that does not fit.
  """
  detection.check_detector(params.task)
  model_config = params.task.model
  if image_size and image_sizes.is_paper(params.task):
    params.task.resize.rule = 'garden'
  options: dict[str, Any] = {
      'batch_size': batch_size, 'input_type': input_type, 'outputs': outputs}
  if image_sizes.is_paper(params.task):
    kind: Any = CanvasDetectionModule
  else:
    kind = detection.RoutedDetectionModule
    options['input_image_size'] = list(image_size or model_config.input_size[:2])
    padded = options['input_image_size']
    if params.task.train_data.parser.pad:
      padded = preprocess_ops.compute_padded_size(padded, 2**model_config.max_level)
    model_config.input_size = [*(int(side) for side in padded), 3]
  _set_suppression(params.task, nms, batch_size)
  model = detection.build_model(params, checkpoint_path, flag)
  conv_norm.fold_norms(model)
  return kind(params, model=model, **options)
