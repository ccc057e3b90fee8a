"""Model Garden's generators of detections and proposals, with suppression that is fast on a CPU.

Model Garden's `nms_version: v2` loops over classes and over tiles of boxes: of a RetinaNet with 90
classes it takes nearly all the time.  Its `batched` is one operation, which looks at all boxes of
all classes.  The generators of this file give that operation only the boxes that may be detected.

`batched` and `portable` differ from `v2` in the following.
- `v2` takes at most `pre_nms_top_k` boxes of a class.  They take all above the threshold.
- `v2` drops a box whose overlap with a better one equals `nms_iou_threshold`.  They keep it.
- `v2` lets boxes that are dropped suppress others, if `nms_iou_threshold` is below 0.5.
- `v2` detects boxes without area that lie on an edge of the image.  They do not.
- They do not have `soft_nms_sigma`, which is of `v1`, or `use_class_agnostic_nms`, of `v2`.
- TPUs do not have the operation of `batched`, so models that are built for a TPU have `v2`.
"""
from collections.abc import Mapping, Sequence
import math
from typing import Any

from official.vision.modeling import maskrcnn_model
from official.vision.modeling import retinanet_model
from official.vision.modeling.layers import detection_generator
from official.vision.modeling.layers import roi_generator
from official.vision.ops import box_ops
import tensorflow as tf, tf_keras

from official_ext.ops import checks
from official_ext.ops import suppression

Levels = Mapping[str, tf.Tensor]
_MARGIN = 1e-3  # of logits


def is_ours(options: Mapping[str, Any]) -> bool:
  """Returns whether a generator has a suppression of `ops.suppression`, not Model Garden's.

  Args:
    options: of the generator, as Model Garden names them.

  Raises:
    ArgumentError: an option that the suppression does not have.
  """
  chosen = options['nms_version']
  if chosen not in suppression.VERSIONS:
    return False
  if options['soft_nms_sigma']:
    raise checks.ArgumentError(
        'detection_generator.soft_nms_sigma', 'detection_generator.soft_nms_sigma is '
        f'{options["soft_nms_sigma"]}, but nms_version {chosen!r} drops boxes and does not lower '
        'scores: set nms_version: v1, or leave soft_nms_sigma out.')
  return True


def _detections(options: Mapping[str, Any], levels: Sequence[suppression.Level],
                rule: suppression.Rule) -> dict[str, tf.Tensor]:
  """Returns Model Garden's detections, whose classes begin at 1."""
  found = suppression.suppress(options['nms_version'], levels, rule)
  return {**found, 'detection_classes': found['detection_classes'] + 1}


def _rule(options: Mapping[str, Any], per_level: int | None = None) -> suppression.Rule:
  return suppression.Rule(options['pre_nms_score_threshold'], options['nms_iou_threshold'],
                          options['max_num_detections'], per_level)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class AnchorDetectionGenerator(detection_generator.MultilevelDetectionGenerator):
  """RetinaNet's generator of detections."""

  def __init__(self, **options):
    """Initializes the generator.

    Args:
      **options: arguments of Model Garden's generator; `nms_version` may also be `portable`.

    Raises:
      ArgumentError: an option that the version of suppression does not have.
    """
    super().__init__(**options)
    self._is_ours = is_ours(self._config_dict)

  @property
  def rule(self) -> suppression.Rule:
    """The rule of suppression."""
    return _rule(self._config_dict)

  def __call__(self, raw_boxes: Levels, raw_scores: Levels, anchor_boxes: Levels,
               image_shape: tf.Tensor | None, raw_attributes: Any = None) -> Mapping[str, Any]:
    """Makes detections of predictions; see Model Garden's generator."""
    if not self._is_ours or not self._config_dict['apply_nms'] or raw_attributes:
      return super().__call__(raw_boxes, raw_scores, anchor_boxes, image_shape, raw_attributes)
    levels = self._levels(raw_boxes, raw_scores, anchor_boxes, image_shape)
    detections = {**_detections(self._config_dict, levels, self.rule), 'detection_attributes': {}}
    if self._config_dict['return_decoded']:
      boxes, scores = (tf.concat(values, 1) for values in list(zip(*levels))[:2])
      detections.update(
          decoded_boxes=boxes, decoded_box_scores=scores, decoded_box_attributes={})
    return detections

  def _levels(self, raw_boxes: Levels, raw_scores: Levels, anchor_boxes: Levels,
              image_shape: tf.Tensor | None) -> list[suppression.Level]:
    """Returns the decoded predictions that may take part in suppression."""
    threshold = self._config_dict['pre_nms_score_threshold']
    if (self._config_dict['nms_version'] == 'batched' and 0 < threshold < 1
        and not self._config_dict['return_decoded']):
      return [self._likely(raw_boxes[level], raw_scores[level], anchor_boxes[level], image_shape)
              for level in sorted(raw_boxes, key=int)]
    return [suppression.Level(*self._decode_multilevel_outputs(
        raw_boxes, raw_scores, anchor_boxes, image_shape)[:2])]

  def _likely(self, deltas: tf.Tensor, logits: tf.Tensor, anchors: tf.Tensor,
              image_shape: tf.Tensor | None) -> suppression.Level:
    """Decodes those anchors of a level that have a score above the threshold.

    Probabilities of all anchors and classes would take most of the time of suppression.

    Args:
      deltas: `[batch, height, width, 4 anchors]`.
      logits: `[batch, height, width, classes anchors]`, the first class being the background.
      anchors: `[batch, height, width, 4 anchors]`.
      image_shape: `[batch, 2]`, or None.
    """
    number = math.prod(deltas.shape[1:]) // 4
    logits = tf.reshape(logits, [-1, number, math.prod(logits.shape[1:]) // number])[..., 1:]
    best = tf.reduce_max(logits, -1)
    threshold = self._config_dict['pre_nms_score_threshold']
    # Slightly lower, so that rounding loses no score; suppression applies the exact threshold.
    above = tf.cast(best > math.log(threshold / (1 - threshold)) - _MARGIN, tf.int32)
    _, rows = tf.math.top_k(best, tf.maximum(tf.reduce_max(tf.reduce_sum(above, 1)), 1))
    chosen = [tf.gather(values, tf.sort(rows), batch_dims=1) for values in (
        logits, tf.reshape(deltas, [-1, number, 4]), tf.reshape(anchors, [-1, number, 4]))]
    boxes = box_ops.decode_boxes(
        chosen[1], chosen[2], weights=self._config_dict['box_coder_weights'])
    if image_shape is not None:
      boxes = box_ops.clip_boxes(boxes, image_shape[:, None])
    return suppression.Level(boxes[:, :, None], tf.sigmoid(chosen[0]))


@tf_keras.utils.register_keras_serializable(package='official_ext')
class LevelDetectionGenerator(AnchorDetectionGenerator):
  """Takes its candidates from the best `pre_nms_top_k` anchors of each level, not of all levels.

  An anchor's rank is its highest class probability.  All classes of a chosen anchor are candidates
  of suppression.  The suppression of `nms_version` v1 and v2 takes again at most `pre_nms_top_k`
  candidates, of each class.  v3 and tflite do not choose by level.  Without suppression, all
  anchors are returned.

  Reference: Tsung-Yi Lin et al., Focal Loss for Dense Object Detection,
  https://arxiv.org/abs/1708.02002, section 4, "at most 1k top-scoring predictions per FPN level";
  the rank is that of mmdetection.
  """

  @property
  def rule(self) -> suppression.Rule:
    """The rule of suppression, with the number of candidates of a level."""
    return _rule(self._config_dict, self._config_dict['pre_nms_top_k'])

  def _levels(self, raw_boxes: Levels, raw_scores: Levels, anchor_boxes: Levels,
              image_shape: tf.Tensor | None) -> list[suppression.Level]:
    """Returns the predictions of each level, from which the suppression chooses."""
    return [
        suppression.Level(*super(LevelDetectionGenerator, self)._decode_multilevel_outputs(
            {level: raw_boxes[level]}, {level: raw_scores[level]}, anchor_boxes, image_shape)[:2])
        for level in sorted(raw_boxes, key=int)]

  def _decode_multilevel_outputs(
      self, raw_boxes: Levels, raw_scores: Levels, anchor_boxes: Levels,
      image_shape: tf.Tensor | None, raw_attributes: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor, dict[str, Any]]:
    """Returns boxes `[batch, anchors, 1, 4]`, probabilities `[batch, anchors, classes]`, and {}."""
    levels = self._levels(raw_boxes, raw_scores, anchor_boxes, image_shape)
    if self._config_dict['apply_nms']:
      levels = [suppression.best_boxes(level, self._config_dict['pre_nms_top_k'])
                for level in levels]
    boxes, scores = (tf.concat(values, 1) for values in list(zip(*levels))[:2])
    return boxes, scores, {}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class BoxDetectionGenerator(detection_generator.DetectionGenerator):
  """The generator of detections of Faster, Mask and Cascade R-CNN."""

  def __init__(self, **options):
    """Initializes the generator.

    Args:
      **options: arguments of Model Garden's generator; `nms_version` may also be `portable`.

    Raises:
      ArgumentError: an option that the version of suppression does not have.
    """
    super().__init__(**options)
    self._is_ours = is_ours(self._config_dict)
    self._decoder = detection_generator.DetectionGenerator(
        **{**self._config_dict, 'apply_nms': False})

  @property
  def rule(self) -> suppression.Rule:
    """The rule of suppression."""
    return _rule(self._config_dict)

  def __call__(self, *predictions: Any, **options: Any) -> Mapping[str, Any]:
    """Makes detections of predictions; see Model Garden's generator."""
    if not self._is_ours or not self._config_dict['apply_nms']:
      return super().__call__(*predictions, **options)
    decoded = self._decoder(*predictions, **options)
    level = suppression.Level(decoded['decoded_boxes'], decoded['decoded_box_scores'])
    return _detections(self._config_dict, [level], self.rule)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ProposalGenerator(roi_generator.MultilevelROIGenerator):
  """Proposes boxes for the second stage with the suppression of this package.

  In training, Model Garden's runs, which XLA compiles.
  """

  def __init__(self, nms_version: str = 'batched', **options):
    """Initializes the generator.

    Args:
      nms_version: one of `suppression.VERSIONS`.
      **options: arguments of Model Garden's generator, without a smallest size.
    """
    super().__init__(**options)
    self._version = nms_version

  def call(self, raw_boxes: Levels, raw_scores: Levels, anchor_boxes: Levels,
           image_shape: tf.Tensor, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns proposals, `[batch, proposals, 4]`, and their scores, `[batch, proposals]`.

    Args:
      raw_boxes: `{level: [batch, height, width, 4 anchors]}`.
      raw_scores: `{level: [batch, height, width, anchors]}`, logits.
      anchor_boxes: `{level: [batch, height, width, 4 anchors]}`.
      image_shape: `[batch, 2]`, height and width that boxes are clipped to.
      training: None counts as False.
    """
    options = self._config_dict
    if training:
      return super().call(raw_boxes, raw_scores, anchor_boxes, image_shape, training)
    found = []
    for level in sorted(raw_scores):
      number = math.prod(raw_scores[level].shape[1:])
      deltas, anchors = (tf.reshape(boxes[level], [-1, number, 4])
                         for boxes in (raw_boxes, anchor_boxes))
      scores = tf.sigmoid(tf.reshape(raw_scores[level], [-1, number]))
      boxes = box_ops.clip_boxes(
          box_ops.decode_boxes(deltas, tf.cast(anchors, scores.dtype)), image_shape[:, None])
      boxes, scores = box_ops.top_k_boxes(
          boxes, scores, k=min(number, options['test_pre_nms_top_k']))
      proposals = suppression.suppress(
          self._version, [suppression.Level(boxes[:, :, None], scores[..., None])],
          suppression.Rule(options['test_pre_nms_score_threshold'],
                           options['test_nms_iou_threshold'],
                           min(number, options['test_num_proposals'])))
      found.append((proposals['detection_boxes'], proposals['detection_scores']))
    boxes, scores = (tf.concat(values, 1) for values in zip(*found))
    return box_ops.top_k_boxes(
        boxes, scores, k=min(scores.shape[1], options['test_num_proposals']))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'nms_version': self._version}


def _options(generator: tf_keras.layers.Layer) -> dict[str, Any]:
  """Returns the options of a generator, for the kind of device that the model is built for."""
  options = dict(generator.get_config())
  is_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
  return {**options, 'nms_version': 'v2'} if (
      is_tpu and options['nms_version'] == 'batched') else options


def with_detections(model: retinanet_model.RetinaNetModel, by_level: bool = False
                    ) -> retinanet_model.RetinaNetModel:
  """Returns a RetinaNet of the same parts with a generator of this file, before its first call.

  Args:
    model: the model that Model Garden builds.
    by_level: whether candidates are taken from each level.

  Raises:
    ArgumentError: an option that the version of suppression does not have.
  """
  kind = LevelDetectionGenerator if by_level else AnchorDetectionGenerator
  generator = kind.from_config(_options(model.detection_generator))
  return retinanet_model.RetinaNetModel(
      **{**model.get_config(), 'detection_generator': generator})


def with_two_stages(model: maskrcnn_model.MaskRCNNModel) -> maskrcnn_model.MaskRCNNModel:
  """Gives a two-stage detector that has not been called the generators of this file.

  Args:
    model: the model, which is changed.

  Returns:
    The model.

  Raises:
    ArgumentError: an option that the version of suppression does not have.
  """
  options, proposals = _options(model.detection_generator), model.roi_generator.get_config()
  model.detection_generator = BoxDetectionGenerator.from_config(options)
  # `use_batched_nms` is Model Garden's own way, which takes other candidates.
  if is_ours(options) and not (
      proposals['use_batched_nms'] or proposals['test_pre_nms_min_size_threshold']
      or not proposals['test_nms_iou_threshold']):
    model.roi_generator = ProposalGenerator(nms_version=options['nms_version'], **proposals)
  return model
