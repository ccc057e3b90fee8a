"""One-stage detectors: FCOS, ATSS and kin; RetinaNet with towers of any kind."""
from typing import Any, Dict, List, Mapping, Optional, Tuple

from official.vision.modeling import backbones
from official.vision.modeling import retinanet_model
from official.vision.modeling.decoders import factory
from official.vision.ops import box_ops
import tensorflow as tf, tf_keras

from official_ext.modeling.heads import dense_head
from official_ext.ops import assigners

Levels = Mapping[str, tf.Tensor]


def in_order(levels: Levels) -> List[tf.Tensor]:
  """Returns the maps of all levels, finest first."""
  return [levels[level] for level in sorted(levels, key=int)]


def flatten(levels: Levels) -> tf.Tensor:
  """Puts the locations of all levels into one list: `[batch, locations, channels]`."""
  return tf.concat([_rows(level) for level in in_order(levels)], 1)


def _rows(level: tf.Tensor) -> tf.Tensor:
  height, width, channels = level.shape[1:]
  return tf.reshape(level, [tf.shape(level)[0], height * width, channels])


def locations_of(levels: Levels) -> assigners.Locations:
  """Returns the locations of maps `{level: [batch, height, width, channels]}`."""
  return assigners.locations([tuple(level.shape[1:3]) for level in in_order(levels)],
                             min(map(int, levels)))


class DetectionGenerator(tf_keras.layers.Layer):
  """Turns predictions into detections: best pairs of every level, then suppression by class.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, section 3.3, and its authors' code: a
  detection's score is the root of class probability times center-ness; whether it is a
  candidate is decided by the class probability alone.  Suppression is TensorFlow's combined
  operation, which TPUs do not have.
  """

  def __init__(self, pre_nms_top_k: int = 1000, pre_nms_score_threshold: float = 0.05,
               nms_iou_threshold: float = 0.6, max_num_detections: int = 100, **kwargs):
    """Initializes the generator.

    Args:
      pre_nms_top_k: pairs of location and class that every level offers at most.
      pre_nms_score_threshold: class probability that a pair needs more than.
      nms_iou_threshold: overlap above which the weaker box of a class is dropped.
      max_num_detections: per image.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    # Keras would cast to the compute dtype, in which boxes are whole pixels.
    super().__init__(autocast=False, **kwargs)
    self._options = {
        'pre_nms_top_k': pre_nms_top_k, 'pre_nms_score_threshold': pre_nms_score_threshold,
        'nms_iou_threshold': nms_iou_threshold, 'max_num_detections': max_num_detections}

  def call(self, class_logits: Levels, boxes: tf.Tensor, centerness_logits: Levels,
           image_shape: Optional[tf.Tensor] = None) -> Dict[str, tf.Tensor]:
    """Detects.

    Args:
      class_logits: `{level: [batch, height, width, classes]}`.
      boxes: `[batch, locations, 4]` of all levels, finest first.
      centerness_logits: `{level: [batch, height, width, 1]}`.
      image_shape: `[batch, 2]`, height and width that boxes are clipped to; None: not.

    Returns:
      `detection_boxes`, float32 `[batch, detections, 4]` in pixels; `detection_scores`,
      float32 `[batch, detections]`; `detection_classes`, int32, from 1; `num_detections`,
      int32 `[batch]`.
    """
    boxes = tf.cast(boxes, tf.float32)
    if image_shape is not None:
      boxes = box_ops.clip_boxes(boxes, image_shape[:, None])
    logits, centerness = (
        [tf.cast(_rows(level), tf.float32) for level in in_order(levels)]
        for levels in (class_logits, centerness_logits))
    of_levels = tf.split(boxes, [level.shape[1] for level in logits], 1)
    candidates = [self._candidates(*level) for level in zip(logits, of_levels, centerness)]
    scores, boxes = (tf.concat(parts, 1) for parts in zip(*candidates))
    detections = self._options['max_num_detections']
    boxes, scores, classes, count = tf.image.combined_non_max_suppression(
        boxes[:, :, None], scores, detections, detections, clip_boxes=False,
        iou_threshold=self._options['nms_iou_threshold'], score_threshold=0.0)
    return {'detection_boxes': boxes, 'detection_scores': scores,
            'detection_classes': tf.cast(classes, tf.int32) + 1, 'num_detections': count}

  def _candidates(self, logits: tf.Tensor, boxes: tf.Tensor, centerness: tf.Tensor
                  ) -> Tuple[tf.Tensor, tf.Tensor]:
    """Returns the best pairs of a level: scores `[batch, pairs, classes]`, boxes of the pairs."""
    num_locations, num_classes = logits.shape[1:]
    probabilities = tf.reshape(
        tf.sigmoid(logits), [tf.shape(logits)[0], num_locations * num_classes])
    best, rows = tf.math.top_k(
        probabilities, min(self._options['pre_nms_top_k'], num_locations * num_classes))
    location, label = rows // num_classes, rows % num_classes
    central = tf.sigmoid(tf.gather(centerness[..., 0], location, batch_dims=1))
    score = tf.where(best > self._options['pre_nms_score_threshold'], tf.sqrt(best * central), 0.0)
    return (score[..., None] * tf.one_hot(label, num_classes),
            tf.gather(boxes, location, batch_dims=1))

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), **self._options}


class DenseDetector(retinanet_model.RetinaNetModel):
  """A backbone, a decoder, a dense head, and detections from what it predicts.

  Called as Model Garden's `RetinaNetModel`, whose parts and checkpoint items it has.
  """

  def __init__(self, backbone: tf_keras.Model, decoder: Optional[tf_keras.layers.Layer],
               head: dense_head.DenseHead, detection_generator: DetectionGenerator,
               assigner: str = 'fcos', anchor_size: float = 8.0, **kwargs):
    """Initializes the detector.

    Args:
      backbone: gives `{level: features}`.
      decoder: maps them to the head's levels; None: the backbone does.
      head: predicts in the assigner's box coding.
      detection_generator: makes detections.
      assigner: `fcos` or `atss`.
      anchor_size: side of ATSS's anchor of a location, in strides.
      **kwargs: arguments of `tf_keras.Model`.
    """
    super().__init__(backbone, decoder, head, detection_generator, **kwargs)
    self._config_dict = {
        'backbone': backbone, 'decoder': decoder, 'head': head,
        'detection_generator': detection_generator, 'assigner': assigner,
        'anchor_size': anchor_size}
    self._assigner = assigners.assigner(assigner, anchor_size)

  def call(self, images: tf.Tensor, image_shape: Optional[tf.Tensor] = None,
           anchor_boxes: Optional[Levels] = None, output_intermediate_features: bool = False,
           training: Optional[bool] = None) -> Dict[str, Any]:
    """Predicts, and detects unless training.

    Args:
      images: `[batch, height, width, 3]`, of a fixed height and width.
      image_shape: `[batch, 2]`, height and width without padding; boxes are clipped to it.
      anchor_boxes: not used: locations follow from the sizes of the maps.
      output_intermediate_features: adds `backbone_<level>` and `decoder_<level>`.
      training: None counts as False.

    Returns:
      `cls_outputs`, `box_outputs` and `attribute_outputs` as the head gives them; unless
      training, also what the detection generator returns.
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
    decoded = self._assigner.decode(locations_of(boxes), flatten(boxes))
    outputs.update(self.detection_generator(
        classes, decoded, attributes['centerness'], image_shape))
    return outputs


def build_dense_detector(input_specs: tf_keras.layers.InputSpec, model_config: Any,
                         l2_regularizer: Optional[Any] = None) -> DenseDetector:
  """Builds the detector of a `configs.detectors.DenseDetectorConfig`.

  Args:
    input_specs: of the images.
    model_config: the options.
    l2_regularizer: of all kernels.

  Returns:
    The detector, with all its variables.

  Raises:
    ValueError: an option that is not allowed.
  """
  assigner, anchor_size = model_config.assigner, model_config.anchor.anchor_size
  box_coding = assigners.assigner(assigner, anchor_size).box_coding
  backbone = backbones.factory.build_backbone(
      input_specs, model_config.backbone, model_config.norm_activation, l2_regularizer)
  decoder = factory.build_decoder(backbone.output_specs, model_config, l2_regularizer)
  model = DenseDetector(
      backbone, decoder,
      dense_head.DenseHead(model_config.num_classes - 1, box_coding,
                           **_head_options(model_config, l2_regularizer)),
      DetectionGenerator(**model_config.detection_generator.as_dict()),
      assigner=assigner, anchor_size=anchor_size)
  # Makes the variables of decoder and head.
  model(tf_keras.Input(input_specs.shape[1:]), training=True)
  return model


def _head_options(model_config: Any, l2_regularizer: Optional[Any]) -> Dict[str, Any]:
  head = model_config.head
  return {
      'min_level': model_config.min_level, 'max_level': model_config.max_level,
      'num_filters': head.num_filters, 'tower': head.tower.type,
      'tower_options': head.tower.get().as_dict(), 'kernel_regularizer': l2_regularizer,
      'name': 'head'}


def with_towers(model: retinanet_model.RetinaNetModel, model_config: Any,
                l2_regularizer: Optional[Any] = None) -> retinanet_model.RetinaNetModel:
  """Returns a RetinaNet like the given one, with the head's towers of the config.

  Args:
    model: as Model Garden builds it from the config; its parts but the head are kept.
    model_config: a `configs.detectors.RetinaNetConfig` with `head.tower`.
    l2_regularizer: of all kernels of the head.

  Raises:
    ValueError: an option of Model Garden's head that a head with towers does not have.
  """
  head = model_config.head
  for name, value in (('use_separable_conv', False), ('attribute_heads', []),
                      ('share_classification_heads', False), ('share_level_convs', True)):
    if getattr(head, name) != value:
      raise ValueError(f'head.{name} is {getattr(head, name)}; with head.tower it must be {value}: '
                       f'change head.{name}, or leave head.tower.type null.')
  anchor = model_config.anchor
  new_head = dense_head.AnchorHead(
      model_config.num_classes, anchor.num_scales * len(anchor.aspect_ratios),
      **_head_options(model_config, l2_regularizer))
  # Another attribute `head` would keep the old one's variables: Keras tracks the config too.
  model = retinanet_model.RetinaNetModel(**{**model.get_config(), 'head': new_head})
  model(tf_keras.Input(model_config.input_size), training=True)
  return model
