"""The numbers of mmdetection 2, which the papers used, for the YAML files of their rows."""
from typing import Any

# What mmdetection 2's configs retinanet_r50_fpn, faster_rcnn_r50_fpn, mask_rcnn_r50_fpn and
# cascade_(mask_)rcnn_r50_fpn say of heads, assignment, losses and candidates: field below `task`
# -> value.  A beta of 0 is an L1 loss.
TOOLBOX: dict[str, dict[str, Any]] = {
    'retinanet': {
        'model.head_style': 'paper', 'model.head.num_convs': 4,
        'model.head.tower.type': 'plain', 'model.head.tower.plain.num_convs': 4,
        'model.head.tower.plain.norm': 'none',
        'losses.focal_loss_alpha': 0.25, 'losses.focal_loss_gamma': 2.0,
        'losses.huber_loss_delta': 0.0, 'losses.box_loss_weight': 1.0,
        'train_data.parser.match_threshold': 0.5, 'train_data.parser.unmatched_threshold': 0.4,
        'validation_data.parser.unmatched_threshold': 0.4,
        'model.detection_generator.pre_nms_top_k': 1000,
        'model.detection_generator.pre_nms_score_threshold': 0.05,
        'model.detection_generator.nms_iou_threshold': 0.5,
        'model.detection_generator.max_num_detections': 100},
}
_TWO_STAGE = {
    'model.head_style': 'paper',
    'model.rpn_head.num_convs': 1, 'model.rpn_head.num_filters': 256,
    'model.detection_head.num_convs': 0, 'model.detection_head.num_fcs': 2,
    'model.detection_head.fc_dims': 1024,
    'model.detection_head.class_agnostic_bbox_pred': False,
    'train_data.parser.rpn_match_threshold': 0.7, 'train_data.parser.rpn_unmatched_threshold': 0.3,
    'train_data.parser.rpn_batch_size_per_im': 256, 'train_data.parser.rpn_fg_fraction': 0.5,
    'model.roi_generator.pre_nms_top_k': 2000, 'model.roi_generator.num_proposals': 1000,
    'model.roi_generator.test_pre_nms_top_k': 1000,
    'model.roi_generator.test_num_proposals': 1000, 'model.roi_generator.nms_iou_threshold': 0.7,
    'model.roi_sampler.num_sampled_rois': 512, 'model.roi_sampler.foreground_fraction': 0.25,
    'model.roi_sampler.foreground_iou_threshold': 0.5,
    'model.detection_generator.pre_nms_score_threshold': 0.05,
    'model.detection_generator.nms_iou_threshold': 0.5,
    'model.detection_generator.max_num_detections': 100,
    'losses.rpn_huber_loss_delta': 0.0, 'losses.frcnn_huber_loss_delta': 0.0,
    'losses.rpn_box_weight': 1.0, 'losses.frcnn_box_weight': 1.0, 'losses.mask_weight': 1.0,
}
_CASCADE = {
    'model.roi_sampler.cascade_iou_thresholds': [0.6, 0.7],
    'model.detection_head.class_agnostic_bbox_pred': True,
    'model.detection_head.cascade_class_ensemble': True,
    'losses.rpn_huber_loss_delta': 1 / 9, 'losses.frcnn_huber_loss_delta': 1.0}
_MASKS = {
    'model.include_mask': True, 'model.mask_head.num_convs': 4,
    'model.mask_head.num_filters': 256, 'model.mask_head.class_agnostic': False,
    'model.mask_roi_aligner.crop_size': 14, 'model.mask_head.upsample_factor': 2}
TOOLBOX.update(fasterrcnn=_TWO_STAGE, maskrcnn={**_TWO_STAGE, **_MASKS},
               cascadercnn={**_TWO_STAGE, **_CASCADE})


def numbers(detector: str, name: str) -> dict[str, Any]:
  """Returns what the toolbox of a row's paper says: field below `task` -> value.

  Args:
    detector: folder of the YAML file.
    name: its name without `.yaml`.
  """
  fields = dict(TOOLBOX.get(detector, {}))
  if detector == 'retinanet' and name.endswith('_90k'):
    # The dynamic head's code is of cvpods; 90k steps are its schedule, and Detectron2's.
    fields['losses.huber_loss_delta'] = 0.1
  if name.startswith('dynamichead'):
    fields = {path: value for path, value in fields.items() if '.tower.' not in path}
  if 'cascade' in name:
    fields.update(_CASCADE)
  return fields
