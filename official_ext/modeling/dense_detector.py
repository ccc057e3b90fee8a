"""One-stage detectors: FCOS, ATSS and similar ones; RetinaNet with any registered towers."""
from collections.abc import Mapping
from typing import Any

from official.vision.modeling import backbones
from official.vision.modeling import retinanet_model
from official.vision.modeling.decoders import factory
from official.vision.ops import box_ops
import tensorflow as tf, tf_keras

from official_ext.modeling.heads import dense_head
from official_ext.ops import assigners
from official_ext.ops import checks
from official_ext.ops import suppression

Levels = Mapping[str, tf.Tensor]


def finest_first(levels: Levels) -> list[tf.Tensor]:
  """Returns the maps of all levels, finest first."""
  return [levels[level] for level in sorted(levels, key=int)]


def flatten(levels: Levels) -> tf.Tensor:
  """Returns the values of all levels in one tensor `[batch, locations, channels]`.

  Args:
    levels: `{level: [batch, height, width, channels]}`, of known heights and widths.
  """
  return tf.concat([_rows(level) for level in finest_first(levels)], 1)


def _rows(level: tf.Tensor) -> tf.Tensor:
  """Returns a map as `[batch, locations, channels]`."""
  height, width, channels = level.shape[1:]
  return tf.reshape(level, [tf.shape(level)[0], height * width, channels])


def grid_locations(levels: Levels) -> assigners.Locations:
  """Returns the locations of maps, one at every position.

  Args:
    levels: `{level: [batch, height, width, channels]}`.

  Raises:
    ValueError: a height or width is not known.
  """
  # Heights and widths are unknown only if those of the images are.
  with checks.naming_field('model', elsewhere={'sizes': 'model.input_size'}):
    return assigners.locations([tuple(level.shape[1:3]) for level in finest_first(levels)],
                               min(map(int, levels)))


class DetectionGenerator(tf_keras.layers.Layer):
  """Turns predictions into detections: best pairs of every level, then suppression by class.

  A pair is a location and a class.  The pairs of the highest class probability become
  candidates; a detection's score is the square root of class probability times center-ness.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, section 3.3.

  Differs: FCOS's authors choose candidates by the product of class probability and center-ness,
  of pairs whose class probability alone is above the threshold.  That matters only where a level
  has more such pairs than candidates.
  """

  def __init__(self, pre_nms_top_k: int = 1000, pre_nms_score_threshold: float = 0.05,
               nms_iou_threshold: float = 0.6, max_num_detections: int = 100,
               nms_version: str = 'batched', apply_nms: bool = True, **kwargs):
    """Initializes the generator.

    Args:
      pre_nms_top_k: largest number of candidates of a level.
      pre_nms_score_threshold: candidates have a class probability above this.
      nms_iou_threshold: overlap above which the lower-scored box of a class is dropped.
      max_num_detections: largest number of detections of an image.
      nms_version: one of `suppression.VERSIONS`.
      apply_nms: if False, boxes, class probabilities and center-ness are returned.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: an unknown version.
    """
    # Keras would cast to the compute dtype, which may represent only whole pixels.
    super().__init__(autocast=False, **kwargs)
    checks.check_one_of('detection_generator.nms_version', nms_version, suppression.VERSIONS)
    self._options: dict[str, Any] = {
        'pre_nms_top_k': pre_nms_top_k, 'pre_nms_score_threshold': pre_nms_score_threshold,
        'nms_iou_threshold': nms_iou_threshold, 'max_num_detections': max_num_detections,
        'nms_version': nms_version, 'apply_nms': apply_nms}

  @property
  def rule(self) -> suppression.Rule:
    """The rule of suppression."""
    options = self._options
    return suppression.Rule(
        options['pre_nms_score_threshold'], options['nms_iou_threshold'],
        options['max_num_detections'], options['pre_nms_top_k'], 'pairs')

  def call(self, class_logits: Levels, boxes: tf.Tensor, centerness_logits: Levels,
           image_shape: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Makes detections of predictions.

    Args:
      class_logits: `{level: [batch, height, width, classes]}`.
      boxes: `[batch, locations, 4]` of all levels, finest first.
      centerness_logits: `{level: [batch, height, width, 1]}`.
      image_shape: `[batch, 2]`, height and width that boxes are clipped to; None: boxes are not
        clipped.

    Returns:
      `detection_boxes`, float32 `[batch, detections, 4]` in pixels; `detection_scores`,
      float32 `[batch, detections]`; `detection_classes`, int32, from 1; `num_detections`,
      int32 `[batch]`.  Without suppression `decoded_boxes`, `[batch, locations, 1, 4]`,
      `decoded_box_scores`, `[batch, locations, classes]`, and `decoded_box_centerness`,
      `[batch, locations]`.
    """
    boxes = tf.cast(boxes, tf.float32)
    if image_shape is not None:
      boxes = box_ops.clip_boxes(boxes, image_shape[:, None])
    probabilities, centerness = (
        [tf.sigmoid(tf.cast(_rows(level), tf.float32)) for level in finest_first(levels)]
        for levels in (class_logits, centerness_logits))
    level_boxes = tf.split(boxes[:, :, None], [level.shape[1] for level in probabilities], 1)
    levels = [suppression.Level(own, scores, central[..., 0]) for own, scores, central
              in zip(level_boxes, probabilities, centerness)]
    if not self._options['apply_nms']:
      decoded = (tf.concat(values, 1) for values in zip(*levels))
      return dict(zip(('decoded_boxes', 'decoded_box_scores', 'decoded_box_centerness'), decoded))
    found = suppression.suppress(self._options['nms_version'], levels, self.rule)
    return {**found, 'detection_classes': found['detection_classes'] + 1}

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._options}


class DenseDetector(retinanet_model.RetinaNetModel):
  """Runs a backbone, a decoder and a dense head, and makes detections of the predictions.

  It is called like Model Garden's `RetinaNetModel`, and has the same attributes and checkpoint
  items.
  """

  def __init__(self, backbone: tf_keras.Model, decoder: tf_keras.layers.Layer | None,
               head: dense_head.DenseHead, detection_generator: DetectionGenerator,
               assigner: str = 'fcos', anchor_size: float = 8.0,
               center_radius: float = assigners.CENTER_RADIUS, **kwargs):
    """Initializes the detector.

    Args:
      backbone: model that returns `{level: features}`.
      decoder: layer that maps these to the head's levels; None: the backbone has them.
      head: layer that predicts in the assigner's box coding.
      detection_generator: layer that makes detections.
      assigner: `fcos` or `atss`.
      anchor_size: side of ATSS's anchor of a location, in strides.
      center_radius: of FCOS's center sampling, see `assigners.assigner`.
      **kwargs: arguments of `tf_keras.Model`.

    Raises:
      ArgumentError: an unknown assigner, or a radius that it does not take.
    """
    super().__init__(backbone, decoder, head, detection_generator, **kwargs)
    self._config_dict = {
        'backbone': backbone, 'decoder': decoder, 'head': head,
        'detection_generator': detection_generator, 'assigner': assigner,
        'anchor_size': anchor_size, 'center_radius': center_radius}
    self._assigner = assigners.assigner(assigner, anchor_size, center_radius)

  def call(self, images: tf.Tensor, image_shape: tf.Tensor | None = None,
           anchor_boxes: Levels | None = None, output_intermediate_features: bool = False,
           training: bool | None = None) -> dict[str, Any]:
    """Predicts, and makes detections unless the call trains.

    Args:
      images: `[batch, height, width, 3]`, of a fixed height and width.
      image_shape: `[batch, 2]`, height and width without padding, to which boxes are clipped.
      anchor_boxes: not used, because locations follow from the sizes of the maps.
      output_intermediate_features: whether `backbone_<level>` and `decoder_<level>` are returned.
      training: whether the call trains; None counts as False.

    Returns:
      `cls_outputs`, `box_outputs` and `attribute_outputs`, which the head returns; unless the
      call trains, also the results of the detection generator.
    """
    del anchor_boxes
    outputs = {}
    features = self.backbone(images)
    if output_intermediate_features:
      outputs.update({f'backbone_{level}': x for level, x in features.items()})
    if self.decoder:
      features = self.decoder(features)
    if output_intermediate_features:
      outputs.update({f'decoder_{level}': x for level, x in features.items()})
    classes, boxes, attributes = self.head(features)
    outputs.update(cls_outputs=classes, box_outputs=boxes, attribute_outputs=attributes)
    if training:
      return outputs
    decoded = self._assigner.decode(grid_locations(boxes), flatten(boxes))
    outputs.update(self.detection_generator(
        classes, decoded, attributes['centerness'], image_shape))
    return outputs


def config_assigner(model_config: Any) -> assigners.Assigner:
  """Returns the assigner of a `configs.detectors.DenseDetectorConfig`.

  Args:
    model_config: the options.

  Raises:
    ArgumentError: see `assigners.assigner`.
  """
  return assigners.assigner(model_config.assigner, model_config.anchor.anchor_size,
                            model_config.center_radius)


def build_dense_detector(input_specs: tf_keras.layers.InputSpec, model_config: Any,
                         l2_regularizer: Any | None = None) -> DenseDetector:
  """Builds the detector of a `configs.detectors.DenseDetectorConfig`.

  Args:
    input_specs: shape of the images.
    model_config: the options.
    l2_regularizer: regularizer of all kernels.

  Returns:
    The detector, with all its variables.

  Raises:
    ValueError: an option that is not allowed; the message names the field.
  """
  head = model_config.head
  with checks.naming_field('model', {'distance_activation': 'model.head.distance_activation',
                                     'centerness_tower': 'model.head.centerness_tower'}):
    box_coding = config_assigner(model_config).box_coding
    backbone = backbones.factory.build_backbone(
        input_specs, model_config.backbone, model_config.norm_activation, l2_regularizer)
    decoder = factory.build_decoder(backbone.output_specs, model_config, l2_regularizer)
    model = DenseDetector(
        backbone, decoder,
        dense_head.DenseHead(
            model_config.num_classes - 1, box_coding,
            distance_activation=head.distance_activation, centerness_tower=head.centerness_tower,
            **head_options(model_config, l2_regularizer)),
        DetectionGenerator(**model_config.detection_generator.as_dict()),
        model_config.assigner, model_config.anchor.anchor_size, model_config.center_radius)
  # The call makes the variables of decoder and head.
  model(tf_keras.Input(input_specs.shape[1:]), training=True)
  return model


def head_options(model_config: Any, l2_regularizer: Any | None = None) -> dict[str, Any]:
  """Returns the arguments that all heads with towers have.

  Args:
    model_config: the options of a detector whose head has a tower.
    l2_regularizer: regularizer of all kernels of the head.
  """
  head = model_config.head
  return {
      'min_level': model_config.min_level, 'max_level': model_config.max_level,
      'num_filters': head.num_filters, 'tower': head.tower.type,
      'tower_options': head.tower.get().as_dict(), 'use_separable_conv': head.use_separable_conv,
      'kernel_regularizer': l2_regularizer, 'name': 'head'}


def _check_stock_options(head: Any) -> None:
  """Checks that options of Model Garden's head ask for nothing that a head with towers lacks."""
  for name, value in (('attribute_heads', []), ('share_classification_heads', False),
                      ('share_level_convs', True)):
    if getattr(head, name) != value:
      raise checks.ArgumentError(
          f'head.{name}', f'head.{name} is {getattr(head, name)}; with head.tower it must be '
          f'{value}, or head.tower.type null.')


def with_towers(model: retinanet_model.RetinaNetModel, model_config: Any,
                l2_regularizer: Any | None = None) -> retinanet_model.RetinaNetModel:
  """Returns a RetinaNet with the backbone and decoder of another one and a head with towers.

  The head has no variables before the first call.

  Args:
    model: the model that Model Garden builds from the config.
    model_config: a `configs.detectors.RetinaNetConfig` with `head.tower`.
    l2_regularizer: regularizer of all kernels of the head.

  Raises:
    ValueError: an option that is not allowed, or that a head with towers does not have; the
      message names the field.
  """
  anchor = model_config.anchor
  with checks.naming_field('model'):
    _check_stock_options(model_config.head)
    new_head = dense_head.AnchorHead(
        model_config.num_classes, anchor.num_scales * len(anchor.aspect_ratios),
        **head_options(model_config, l2_regularizer))
  # A new model, because assigning `model.head` would leave the variables of the old head: Keras
  # also tracks the layers in the model's config.
  return retinanet_model.RetinaNetModel(**{**model.get_config(), 'head': new_head})
