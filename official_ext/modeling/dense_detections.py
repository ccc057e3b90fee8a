"""Detections of one-stage detectors with one head for all levels: candidates, then suppression."""
import math
from typing import Any

from official.vision.ops import box_ops
import tensorflow as tf, tf_keras

from official_ext.modeling import dense_levels
from official_ext.ops import checks
from official_ext.ops import suppression

Levels = dense_levels.Levels


class DetectionGenerator(tf_keras.layers.Layer):
  """Turns predictions into detections: best pairs of every level, then suppression by class.

  A pair is a location, or one of its anchors, and a class.  The pairs of the highest class
  probability become candidates.  A detection's score is the square root of class probability times
  center-ness (FCOS, ATSS).  With objectness (AutoAssign) the product of class probability and
  objectness is the class probability of this text.  Without both (FreeAnchor) the class
  probability is the score.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, section 3.3; AutoAssign,
  https://arxiv.org/abs/2007.03496, section 3.2.

  Differs: FCOS's authors choose candidates by the product of class probability and center-ness,
  of pairs whose class probability alone is above the threshold.  That matters only where a level
  has more such pairs than candidates.
  """

  def __init__(self, pre_nms_top_k: int = 1000, pre_nms_score_threshold: float = 0.05,
               nms_iou_threshold: float = 0.6, max_num_detections: int = 100,
               nms_version: str = 'batched', apply_nms: bool = True, **kwargs):
    """Initializes the generator.

    Args:
      pre_nms_top_k: largest number of candidates of a level, at least 1.
      pre_nms_score_threshold: candidates have a class probability above this.
      nms_iou_threshold: overlap above which the lower-scored box of a class is dropped.
      max_num_detections: largest number of detections of an image, at least 1.
      nms_version: one of `suppression.VERSIONS`.
      apply_nms: if False, boxes, class probabilities and any center-ness are returned.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: an unknown version, or a number that is not allowed.
    """
    # Keras would cast to the compute dtype, which may represent only whole pixels.
    super().__init__(autocast=False, **kwargs)
    checks.check_one_of('detection_generator.nms_version', nms_version, suppression.VERSIONS)
    for argument, value, least, most in (
        ('pre_nms_top_k', pre_nms_top_k, 1, math.inf),
        ('pre_nms_score_threshold', pre_nms_score_threshold, 0, 1),
        ('nms_iou_threshold', nms_iou_threshold, 0, 1),
        ('max_num_detections', max_num_detections, 1, math.inf)):
      checks.check_range(f'detection_generator.{argument}', value, least, most)
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

  def call(self, class_logits: Levels, boxes: tf.Tensor, centerness_logits: Levels | None = None,
           image_shape: tf.Tensor | None = None, objectness_logits: Levels | None = None
           ) -> dict[str, tf.Tensor]:
    """Makes detections of predictions.

    Args:
      class_logits: `{level: [batch, height, width, anchors * classes]}`.
      boxes: `[batch, locations * anchors, 4]` of all levels, finest first.
      centerness_logits: `{level: [batch, height, width, 1]}`, or None; for one anchor.
      image_shape: `[batch, 2]`, height and width that boxes are clipped to; None: boxes are not
        clipped.
      objectness_logits: `{level: [batch, height, width, 1]}`, or None; for one anchor.

    Returns:
      `detection_boxes`, float32 `[batch, detections, 4]` in pixels; `detection_scores`,
      float32 `[batch, detections]`; `detection_classes`, int32, from 1; `num_detections`,
      int32 `[batch]`.  Without suppression `decoded_boxes`, `[batch, boxes, 1, 4]`,
      `decoded_box_scores`, `[batch, boxes, classes]`, and, if there is center-ness,
      `decoded_box_centerness`, `[batch, boxes]`.
    """
    boxes = tf.cast(boxes, tf.float32)
    if image_shape is not None:
      boxes = box_ops.clip_boxes(boxes, image_shape[:, None])
    levels = _levels(class_logits, boxes, centerness_logits, objectness_logits)
    if not self._options['apply_nms']:
      decoded = (tf.concat(values, 1) for values in zip(*levels) if values[0] is not None)
      return dict(zip(('decoded_boxes', 'decoded_box_scores', 'decoded_box_centerness'), decoded))
    found = suppression.suppress(self._options['nms_version'], levels, self.rule)
    return {**found, 'detection_classes': found['detection_classes'] + 1}

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._options}


def _probabilities(logits: Levels) -> list[tf.Tensor]:
  """Returns the sigmoid of maps as float32 `[batch, locations, channels]`, finest first."""
  return [tf.sigmoid(tf.cast(dense_levels.rows(level), tf.float32))
          for level in dense_levels.finest_first(logits)]


def _levels(class_logits: Levels, boxes: tf.Tensor, centerness_logits: Levels | None,
            objectness_logits: Levels | None) -> list[suppression.Level]:
  """Returns the predictions of each level, see `DetectionGenerator.call`."""
  scores = _probabilities(class_logits)
  if objectness_logits is not None:
    scores = [own * objectness for own, objectness in zip(
        scores, _probabilities(objectness_logits))]
  anchors = boxes.shape[1] // sum(level.shape[1] for level in scores)
  scores = [tf.reshape(level, [-1, level.shape[1] * anchors, level.shape[2] // anchors])
            for level in scores]
  own_boxes = tf.split(boxes[:, :, None], [level.shape[1] for level in scores], 1)
  centerness = [None] * len(scores) if centerness_logits is None else [
      level[..., 0] for level in _probabilities(centerness_logits)]
  return [suppression.Level(*level) for level in zip(own_boxes, scores, centerness)]
