"""One-stage detectors: FCOS, ATSS and similar ones; RetinaNet with any registered towers."""
from collections.abc import Mapping
from typing import Any

from official.vision.modeling import backbones
from official.vision.modeling import retinanet_model
from official.vision.modeling.decoders import factory
import tensorflow as tf, tf_keras

from official_ext.modeling import dense_detections
from official_ext.modeling import dense_levels
from official_ext.modeling.heads import dense_head
from official_ext.modeling import stock_levels
from official_ext.ops import assigners
from official_ext.ops import checks

_HEAD_FIELDS = {name: f'model.head.{name}' for name in (
    'num_filters', 'use_separable_conv', 'distance_activation', 'centerness_tower')}
_FIELDS = {**_HEAD_FIELDS,
           **{name: f'model.anchor.{name}' for name in (
               'anchor_size', 'num_scales', 'aspect_ratios')}}

_ADDING_TOWER = 'dynamic'


class DenseDetector(retinanet_model.RetinaNetModel):
  """Runs a backbone, a decoder and a dense head, and makes detections of the predictions.

  It is called like Model Garden's `RetinaNetModel`, and has the same attributes and checkpoint
  items.
  """

  def __init__(self, backbone: tf_keras.Model, decoder: tf_keras.layers.Layer | None,
               head: tf_keras.layers.Layer,
               detection_generator: dense_detections.DetectionGenerator, assigner: str = 'fcos',
               assigner_options: Mapping[str, Any] | None = None, **kwargs):
    """Initializes the detector.

    Args:
      backbone: model that returns `{level: features}`.
      decoder: layer that maps these to the head's levels; None: the backbone has them.
      head: layer that predicts in the assigner's box coding.
      detection_generator: layer that makes detections.
      assigner: one of `assigners.NAMES`.
      assigner_options: further arguments of `assigners.assigner`.
      **kwargs: arguments of `tf_keras.Model`.

    Raises:
      ArgumentError: an unknown assigner, or an option that it does not take.
    """
    super().__init__(backbone, decoder, head, detection_generator, **kwargs)
    self._config_dict = {
        'backbone': backbone, 'decoder': decoder, 'head': head,
        'detection_generator': detection_generator, 'assigner': assigner,
        'assigner_options': dict(assigner_options or {})}
    self._assigner = assigners.assigner(assigner, **(assigner_options or {}))

  def call(self, images: tf.Tensor, image_shape: tf.Tensor | None = None,
           anchor_boxes: dense_levels.Levels | None = None,
           output_intermediate_features: bool = False, training: bool | None = None
           ) -> dict[str, Any]:
    """Predicts, and makes detections unless the call trains.

    Args:
      images: `[batch, height, width, 3]`, of a fixed height and width.
      image_shape: `[batch, 2]`, height and width without padding, to which boxes are clipped.
      anchor_boxes: not used, because locations follow from the sizes of the maps.
      output_intermediate_features: whether `backbone_<level>` and `decoder_<level>` are returned.
      training: whether the call trains; None counts as False.

    Returns:
      `cls_outputs`, `box_outputs` and `attribute_outputs`, which the head returns; with AutoAssign
      `center_prior`, its offsets and spreads, which the losses need; unless the call trains, also
      the results of the detection generator.
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
    if self._assigner.name == 'autoassign':
      outputs.update(center_prior=self.head.center_prior())
    if training:
      return outputs
    decoded = self._assigner.decode(
        dense_levels.grid_locations(boxes, self._assigner.offset), dense_levels.flatten(boxes))
    outputs.update(self.detection_generator(
        classes, decoded, attributes.get('centerness'), image_shape, attributes.get('objectness')))
    return outputs


def _assigner_options(model_config: Any) -> dict[str, Any]:
  """Returns the arguments of `assigners.assigner` beside its name."""
  anchor = model_config.anchor
  return {'anchor_size': anchor.anchor_size, 'center_radius': model_config.center_radius,
          'num_scales': anchor.num_scales, 'aspect_ratios': list(anchor.aspect_ratios),
          'location_offset': model_config.location_offset}


def config_assigner(model_config: Any) -> assigners.Assigner:
  """Returns the assigner of a `configs.detectors.DenseDetectorConfig`.

  Args:
    model_config: the options.

  Raises:
    ArgumentError: see `assigners.assigner`.
  """
  return assigners.assigner(model_config.assigner, **_assigner_options(model_config))


def _build_head(model_config: Any, l2_regularizer: Any | None) -> tf_keras.layers.Layer:
  """Returns the head that an assigner needs."""
  assigner, head = config_assigner(model_config), model_config.head
  num_classes, options = model_config.num_classes - 1, head_options(model_config, l2_regularizer)
  own = {'distance_activation': head.distance_activation,
         'centerness_tower': head.centerness_tower}
  if assigner.name == 'autoassign':
    return dense_head.AutoAssignHead(num_classes, **own, **options)
  if assigner.name == 'freeanchor':
    for name, value in own.items():
      only = getattr(type(head)(), name)
      if value != only:
        raise checks.ArgumentError(
            name, f'{name} is {value!r}, but FreeAnchor has neither distances nor center-ness; it '
            f'must be {only!r}, which is not used.')
    return dense_head.AnchorHead(num_classes, assigner.anchor_shapes.number,
                                 prior_probability=dense_head.LEARNED_PRIOR, **options)
  return dense_head.DenseHead(num_classes, assigner.box_coding, **own, **options)


def _check_options(model_config: Any) -> None:
  """Checks what no part of the detector checks.

  Args:
    model_config: the options.

  Raises:
    ArgumentError: an option of another type than its field, no class beside the background, or
      levels in the wrong order.
  """
  checks.check_types(type(model_config), {
      name: getattr(model_config, name) for name in ('num_classes', 'min_level', 'max_level',
                                                     'center_radius', 'location_offset')})
  for name, prefix in (('head', ''), ('anchor', ''),
                       ('detection_generator', 'detection_generator.')):
    options = getattr(model_config, name)
    checks.check_types(type(options), options.as_dict(), prefix)
  checks.check_range('num_classes', model_config.num_classes, 2)
  checks.check_range('min_level', model_config.min_level, 1, model_config.max_level)


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
  with checks.naming_field('model', _FIELDS):
    _check_options(model_config)
    head = _build_head(model_config, l2_regularizer)
    generator = dense_detections.DetectionGenerator(**model_config.detection_generator.as_dict())
    backbone = backbones.factory.build_backbone(
        input_specs, model_config.backbone, model_config.norm_activation, l2_regularizer)
    with stock_levels.naming_field(model_config):
      decoder = factory.build_decoder(backbone.output_specs, model_config, l2_regularizer)
    _check_channels(decoder, model_config)
    model = DenseDetector(backbone, decoder, head, generator, model_config.assigner,
                          _assigner_options(model_config))
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


def _check_channels(decoder: Any, model_config: Any) -> None:
  """Checks that a tower that adds to its input gets as many channels as it has."""
  head = model_config.head
  channels = next(iter(decoder.output_specs.values()))[-1] if decoder else head.num_filters
  if head.tower.type == _ADDING_TOWER and channels != head.num_filters:
    raise checks.ArgumentError(
        'num_filters', f'num_filters is {head.num_filters}, but the decoder gives {channels} '
        f'channels, to which the tower {head.tower.type!r} adds: give both the same number.')


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
  with checks.naming_field('model', _HEAD_FIELDS):
    _check_stock_options(model_config.head)
    _check_channels(model.decoder, model_config)
    new_head = dense_head.AnchorHead(
        model_config.num_classes, anchor.num_scales * len(anchor.aspect_ratios),
        **head_options(model_config, l2_regularizer))
  # A new model, because assigning `model.head` would leave the variables of the old head: Keras
  # also tracks the layers in the model's config.
  return retinanet_model.RetinaNetModel(**{**model.get_config(), 'head': new_head})
