"""R-CNN with the papers' heads, and with a mask head for each stage of a cascade."""
from collections.abc import Mapping
from typing import Any

from official.vision.modeling import maskrcnn_model
import tensorflow as tf, tf_keras

from official_ext.modeling.heads import norm_free_heads
from official_ext.ops import checks


def of_stage(name: str, stage: int) -> str:
  """Returns the name of an output of a stage of the cascade, as Model Garden names them."""
  return f'{name}_{stage}' if stage else name


@tf_keras.utils.register_keras_serializable(package='official_ext')
class CascadeMaskRCNN(maskrcnn_model.MaskRCNNModel):
  """Model Garden's Cascade Mask R-CNN with a mask head for each stage.

  In training, the mask head of a stage gets the boxes that its stage samples.  At inference, all
  mask heads get the detections, and their probabilities are averaged.

  Reference: Zhaowei Cai and Nuno Vasconcelos, Cascade R-CNN: High Quality Object Detection and
  Instance Segmentation, https://arxiv.org/abs/1906.09756, section 4.3.
  """

  def __init__(self, *args, **kwargs):
    """Initializes the model.

    Args:
      *args: arguments of Model Garden's model.
      **kwargs: arguments of Model Garden's model; `mask_head` is a list, one for each stage.

    Raises:
      ArgumentError: `outer_boxes_scale` is not 1.
    """
    super().__init__(*args, **kwargs)
    if self.outer_boxes_scale != 1.0:
      raise checks.ArgumentError(
          'outer_boxes_scale', f'outer_boxes_scale is {self.outer_boxes_scale}; with a mask head '
          'for each stage it must be 1.')

  def _run_frcnn_head(self, *args, **kwargs) -> tuple[Any, ...]:
    """Runs a stage, and keeps the boxes that it samples among the outputs."""
    results = super()._run_frcnn_head(*args, **kwargs)
    _, _, outputs, gt_boxes, gt_classes, gt_indices, rois = results
    if kwargs['training']:
      outputs[of_stage('mask_samples', kwargs['cascade_num'])] = (
          rois, gt_boxes, gt_classes, gt_indices)
    return results

  def _call_mask_outputs(self, model_box_outputs: dict[str, Any], features: Any, gt_masks: Any,
                         training: bool | None = None, **unused: Any) -> Mapping[str, Any]:
    """Returns outputs of all mask heads in training, of their mean otherwise."""
    del unused  # They are of the last stage.
    if training:
      return self._mask_training_outputs(model_box_outputs, features, gt_masks)
    inputs = [self.mask_roi_aligner(features, model_box_outputs['detection_boxes']),
              model_box_outputs['detection_classes']]
    masks = [tf.sigmoid(tf.cast(head(inputs), tf.float32)) for head in self.mask_head]
    return {'detection_masks': tf.add_n(masks) / len(masks)}

  def _mask_training_outputs(self, box_outputs: dict[str, Any], features: Any, gt_masks: Any
                             ) -> dict[str, Any]:
    """Returns logits and targets of each stage for the positive boxes that it sampled."""
    outputs = {}
    for stage, head in enumerate(self.mask_head):
      # The samples leave the dictionary, which becomes the result of the model.
      rois, classes, masks = self.mask_sampler(
          *box_outputs.pop(of_stage('mask_samples', stage)), gt_masks)
      outputs[of_stage('mask_class_targets', stage)] = classes
      outputs[of_stage('mask_targets', stage)] = tf.stop_gradient(masks)
      outputs[of_stage('mask_outputs', stage)] = head(
          [self.mask_roi_aligner(features, rois), classes])
    return outputs


def with_paper_heads(model: maskrcnn_model.MaskRCNNModel) -> maskrcnn_model.MaskRCNNModel:
  """Returns a detector of the same parts whose heads have no batch norm.

  A cascade with masks becomes a `CascadeMaskRCNN`.

  Args:
    model: the model that Model Garden builds.

  Raises:
    ArgumentError: an option that a `CascadeMaskRCNN` does not have.
  """
  heads = [norm_free_heads.without_norm(head) for head in model.detection_head]
  config = {**model.get_config(), 'detection_head': heads,
            'rpn_head': norm_free_heads.without_norm(model.rpn_head)}
  if not model.mask_head:
    return maskrcnn_model.MaskRCNNModel(**config)
  if len(heads) == 1:
    mask_head = norm_free_heads.without_norm(model.mask_head)
    return maskrcnn_model.MaskRCNNModel(**{**config, 'mask_head': mask_head})
  mask_heads = [
      norm_free_heads.without_norm(model.mask_head, of_stage(model.mask_head.name, stage))
      for stage in range(len(heads))]
  return CascadeMaskRCNN(**{**config, 'mask_head': mask_heads})
