"""RetinaNet's detections of the best anchors of each level, instead of all levels."""
from collections.abc import Mapping, Sequence
import math
from typing import Any

from official.vision.modeling import retinanet_model
from official.vision.modeling.layers import detection_generator
import tensorflow as tf, tf_keras

Levels = Mapping[str, tf.Tensor]


@tf_keras.utils.register_keras_serializable(package='official_ext')
class LevelDetectionGenerator(detection_generator.MultilevelDetectionGenerator):
  """Model Garden's generator of detections, for the best `pre_nms_top_k` anchors of each level.

  An anchor's rank is its highest class probability.  All classes of a chosen anchor are candidates
  of suppression.  The suppression of `nms_version` v1 and v2 takes again at most `pre_nms_top_k`
  candidates, of each class; that of `batched` takes all.  v3 and tflite do not choose by level.

  Reference: Tsung-Yi Lin et al., Focal Loss for Dense Object Detection,
  https://arxiv.org/abs/1708.02002, section 4, "at most 1k top-scoring predictions per FPN level";
  the rank is that of mmdetection.
  """

  def _decode_multilevel_outputs(
      self, raw_boxes: Levels, raw_scores: Levels, anchor_boxes: Levels,
      image_shape: tf.Tensor | None, raw_attributes: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor, dict[str, Any]]:
    """Returns boxes `[batch, anchors, 1, 4]` and probabilities `[batch, anchors, classes]`."""
    results = []
    for level in sorted(raw_boxes, key=int):
      boxes, scores, attributes = super()._decode_multilevel_outputs(
          {level: raw_boxes[level]}, {level: raw_scores[level]}, anchor_boxes, image_shape,
          raw_attributes)
      num_anchors = math.prod(raw_boxes[level].shape[1:]) // 4
      _, rows = tf.math.top_k(tf.reduce_max(scores, -1),
                              min(self._config_dict['pre_nms_top_k'], num_anchors))
      results.append([tf.gather(values, rows, batch_dims=1) for values in (boxes, scores)])
    boxes, scores = (tf.concat(values, 1) for values in zip(*results))
    return boxes, scores, attributes


def with_level_candidates(model: retinanet_model.RetinaNetModel, input_size: Sequence[int]
                          ) -> retinanet_model.RetinaNetModel:
  """Returns a RetinaNet of the same parts that takes its candidates from each level.

  Args:
    model: the model that Model Garden builds.
    input_size: height, width and channels of the images.
  """
  generator = LevelDetectionGenerator.from_config(model.detection_generator.get_config())
  model = retinanet_model.RetinaNetModel(
      **{**model.get_config(), 'detection_generator': generator})
  model(tf_keras.Input(input_size), training=True)
  return model
