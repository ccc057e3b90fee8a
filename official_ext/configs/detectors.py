"""Options of detectors: Model Garden's with registered components and a budget, and our own."""
import dataclasses
from typing import Any

from official.modeling import hyperparams
from official.vision.configs import common
from official.vision.configs import maskrcnn
from official.vision.configs import retinanet

from official_ext.configs import components
from official_ext.configs import head_styles
from official_ext.configs import options
from official_ext.modeling.heads import plain_tower  # noqa: F401 (registers the default tower)


def _fpn() -> components.DecoderConfig:
  return components.decoder(type='fpn')


def _resnet() -> components.BackboneConfig:
  return components.backbone(type='resnet')


def _plain_tower() -> components.TowerConfig:
  return components.tower(type='plain')


@dataclasses.dataclass
class RetinaNetHeadConfig(retinanet.RetinaNetHead):
  """Options of Model Garden's RetinaNet head, with registered towers.

  Attributes:
    tower: the layers before the predictors of classes and boxes, any registered one.  If its
      type is null, the head has Model Garden's `num_convs` convolutions.  With a tower,
      `use_separable_conv` is of the predictors alone.
  """
  tower: components.TowerConfig = dataclasses.field(default_factory=components.tower)


@dataclasses.dataclass
class RetinaNetConfig(retinanet.RetinaNet):
  """Options of Model Garden's RetinaNet; `backbone` and `decoder` may be any registered ones.

  Attributes:
    head_style: `garden`, Model Garden's head and losses; or `paper`, towers without norm, the
      losses of `losses/paper_losses.py`, and the best `pre_nms_top_k` anchors of each level, not
      of all levels, as candidates.  An override that changes it sets
      `RetinaNetTaskConfig.paper_numbers` too, or Model Garden's numbers again.
  """
  head_style: str = 'garden'
  backbone: components.BackboneConfig = dataclasses.field(default_factory=_resnet)
  decoder: components.DecoderConfig = dataclasses.field(default_factory=_fpn)
  head: RetinaNetHeadConfig = dataclasses.field(default_factory=RetinaNetHeadConfig)
  detection_generator: retinanet.DetectionGenerator = dataclasses.field(
      default_factory=lambda: retinanet.DetectionGenerator(nms_version='batched'))


@dataclasses.dataclass
class RetinaNetTaskConfig(head_styles.StyledTask, retinanet.RetinaNetTask):
  """Options of Model Garden's RetinaNet task, and those of routed networks.

  If `model.head_style` is `paper`, the box loss is smooth L1 with `losses.huber_loss_delta` as its
  beta, 0 for L1, instead of a Huber loss.

  Attributes:
    budget: the loss that pulls cost to a target; only for routed networks.
    budgets: instead of `budget`, several of them, each of another part of the network.
    sampled_evaluation_runs: how many times evaluation repeats every step with sampled
      gates; their mean AP and cost are reported beside those of deterministic gates.
    diagnose_routing: whether evaluation also logs metrics that are as expensive as their layer,
      such as the spectral radius of an implicit pyramid's map.
    resize: the size of images.
    frozen_stages: stages of a ResNet or EfficientNet that do not train, of `stem`, `conv2_x`,
      `conv3_x`, `conv4_x` and `conv5_x`: neither weights nor statistics of norms.
  """
  model: RetinaNetConfig = dataclasses.field(default_factory=RetinaNetConfig)
  budget: options.BudgetConfig = dataclasses.field(default_factory=options.BudgetConfig)
  budgets: list[options.BudgetConfig] = dataclasses.field(default_factory=list)
  sampled_evaluation_runs: int = 0
  diagnose_routing: bool = False
  resize: options.ResizeConfig = dataclasses.field(default_factory=options.ResizeConfig)
  frozen_stages: list[str] = dataclasses.field(default_factory=list)

  def paper_numbers(self) -> dict[str, Any]:
    """Returns mmdetection's RetinaNet, and towers without norm unless others are chosen."""
    parser = {'parser': {'match_threshold': 0.5, 'unmatched_threshold': 0.4}}
    numbers: dict[str, Any] = {
        'losses': {'focal_loss_alpha': 0.25, 'focal_loss_gamma': 2.0, 'box_loss_weight': 1.0,
                   'huber_loss_delta': 0.0},
        'train_data': parser, 'validation_data': parser,
        'model': {'detection_generator': {'pre_nms_top_k': 1000}}}
    head = self.model.head
    if head.tower.type in (None, 'plain'):
      tower = {'type': 'plain', 'plain': {'num_convs': head.num_convs, 'norm': 'none'}}
      numbers['model']['head'] = {'tower': tower}
    return numbers


@dataclasses.dataclass
class MaskRCNNConfig(maskrcnn.MaskRCNN):
  """Options of Model Garden's Faster, Mask and Cascade R-CNN, with registered components.

  Attributes:
    head_style: `garden`, Model Garden's heads and losses; or `paper`, heads without norm, the
      losses of `losses/paper_losses.py`, stages of a cascade whose losses count half as much as
      those of the stage before, and a mask head for each of them.  An override that changes it
      sets `MaskRCNNTaskConfig.paper_numbers` too, or Model Garden's numbers again.
  """
  head_style: str = 'garden'
  backbone: components.BackboneConfig = dataclasses.field(default_factory=_resnet)
  decoder: components.DecoderConfig = dataclasses.field(default_factory=_fpn)
  detection_generator: maskrcnn.DetectionGenerator = dataclasses.field(
      default_factory=lambda: maskrcnn.DetectionGenerator(nms_version='batched'))


@dataclasses.dataclass
class MaskRCNNTaskConfig(head_styles.StyledTask, maskrcnn.MaskRCNNTask):
  """Options of the task of Faster, Mask and Cascade R-CNN; see `RetinaNetTaskConfig`.

  If `model.head_style` is `paper`, box losses are smooth L1 with `losses.rpn_huber_loss_delta` and
  `losses.frcnn_huber_loss_delta` as their beta, 0 for L1, instead of Huber losses.
  """
  model: MaskRCNNConfig = dataclasses.field(default_factory=MaskRCNNConfig)
  budget: options.BudgetConfig = dataclasses.field(default_factory=options.BudgetConfig)
  budgets: list[options.BudgetConfig] = dataclasses.field(default_factory=list)
  sampled_evaluation_runs: int = 0
  diagnose_routing: bool = False
  resize: options.ResizeConfig = dataclasses.field(default_factory=options.ResizeConfig)
  frozen_stages: list[str] = dataclasses.field(default_factory=list)

  def paper_numbers(self) -> dict[str, Any]:
    """Returns mmdetection's Faster, Mask and Cascade R-CNN: only the last is not L1."""
    is_cascade = bool(self.model.roi_sampler.cascade_iou_thresholds)
    return {
        'losses': {'rpn_huber_loss_delta': 1 / 9 if is_cascade else 0.0,
                   'frcnn_huber_loss_delta': 1.0 if is_cascade else 0.0},
        'model': {'roi_generator': {'pre_nms_top_k': 2000, 'test_pre_nms_top_k': 1000}}}


# --- FCOS, ATSS, AutoAssign, FreeAnchor: one model and one task with several assigners -------
#
# Their options derive from RetinaNet's, so that Model Garden exports them like RetinaNet.
# RetinaNet's options without a meaning here are left out.  Model Garden's export reads the
# attributes below that have no type and so are no options.


@dataclasses.dataclass
class DenseAnchorConfig(hyperparams.Config):
  """Options of the anchors at each location, of which ATSS has one and FreeAnchor several.

  Attributes:
    anchor_size: side of the smallest square anchor, in strides.
    num_scales: for FreeAnchor, number of sizes; each is `2**(1 / num_scales)` times the one before.
    aspect_ratios: for FreeAnchor, width divided by height.
  """
  anchor_size: float = 8.0
  num_scales: int = 1
  aspect_ratios: list[float] = dataclasses.field(default_factory=lambda: [1.0])


@dataclasses.dataclass
class DenseHeadConfig(hyperparams.Config):
  """Options of the head of a dense detector.

  Attributes:
    num_filters: channels of the towers.
    tower: the layers before the predictors of classes and boxes, any registered one.
    use_separable_conv: whether the predictors are separable convolutions, as in EfficientDet.
    distance_activation: for FCOS, how predictions become distances: `relu`, their ReLU times
      the stride of the level, or `exp`, their exponential in pixels.
    centerness_tower: the tower from which center-ness (FCOS, ATSS) or objectness (AutoAssign) is
      predicted, `box` or `class`.
  """
  num_filters: int = 256
  tower: components.TowerConfig = dataclasses.field(default_factory=_plain_tower)
  use_separable_conv: bool = False
  distance_activation: str = 'relu'
  centerness_tower: str = 'box'


@dataclasses.dataclass
class DenseDetectionsConfig(hyperparams.Config):
  """Options of `DetectionGenerator`, which makes detections from predictions.

  Attributes:
    pre_nms_top_k: largest number of candidates of a level; a candidate is a pair of a location,
      or of an anchor of FreeAnchor, and a class.
    pre_nms_score_threshold: candidates have a class probability above this; for AutoAssign it is
      multiplied by objectness.
    nms_iou_threshold: overlap above which the lower-scored box of a class is dropped.
    max_num_detections: largest number of detections of an image.
    nms_version: `batched`, one operation, which is the fastest; or `portable`, in operations that
      other engines know.
    apply_nms: if False, exports return boxes, class probabilities and center-ness.
  """
  pre_nms_top_k: int = 1000
  pre_nms_score_threshold: float = 0.05
  nms_iou_threshold: float = 0.6
  max_num_detections: int = 100
  nms_version: str = 'batched'
  apply_nms: bool = True
  decode_boxes = True


@dataclasses.dataclass
class DenseDetectorConfig(retinanet.RetinaNet):
  """Options of FCOS, ATSS, AutoAssign and FreeAnchor.

  Attributes:
    assigner: how boxes are assigned to locations, and box coding: `fcos`, `atss`, `autoassign` or
      `freeanchor`.  Losses, anchors and other numbers are fields of their own, which an override
      that changes it does not set; the experiments of an assigner have them.
    location_offset: where in its cell a location lies, in strides from its top and its left.
    anchor: anchors of ATSS and FreeAnchor; FCOS and AutoAssign have none.
    center_radius: for FCOS, how near to its center, in strides, a box is assigned to locations
      (center sampling); 0: everywhere in the box.
    backbone: any registered one.
    decoder: any registered one.
    head: towers and predictors.
    detection_generator: how predictions become detections.
  """
  assigner: str = 'fcos'
  location_offset: float = 0.5
  anchor: DenseAnchorConfig = dataclasses.field(default_factory=DenseAnchorConfig)
  center_radius: float = 1.5
  backbone: components.BackboneConfig = dataclasses.field(default_factory=_resnet)
  decoder: components.DecoderConfig = dataclasses.field(default_factory=_fpn)
  head: DenseHeadConfig = dataclasses.field(default_factory=DenseHeadConfig)
  detection_generator: DenseDetectionsConfig = dataclasses.field(
      default_factory=DenseDetectionsConfig)


@dataclasses.dataclass
class DenseLossesConfig(hyperparams.Config):
  """Options of the losses.

  Attributes:
    loss_weight: weight of the total loss.
    focal_loss_alpha: weight of objects in the focal loss, and of the positive loss of AutoAssign
      and FreeAnchor; the weight of background, and of their negative loss, is 1 minus it.
    focal_loss_gamma: exponent of the focal loss; the larger, the less easy locations count.
    box_loss: for FCOS and ATSS `giou`, 1 - generalized overlap, or `iou`, -log(overlap); for
      AutoAssign `giou`; for FreeAnchor `smooth_l1`, of the deltas.
    box_loss_weight: weight of the box loss; the other losses have a weight of 1.  For AutoAssign
      and FreeAnchor it stands in the exponent of a box's likelihood.
    l2_weight_decay: weight decay of all kernels.
  """
  loss_weight: float = 1.0
  focal_loss_alpha: float = 0.25
  focal_loss_gamma: float = 2.0
  box_loss: str = 'giou'
  box_loss_weight: float = 1.0
  l2_weight_decay: float = 0.0


@dataclasses.dataclass
class DenseParserConfig(hyperparams.Config):
  """Options of augmentation and of the ground truth, as in Model Garden's RetinaNet."""
  aug_rand_hflip: bool = False
  aug_rand_jpeg: common.RandJpegQuality | None = None
  aug_scale_min: float = 1.0
  aug_scale_max: float = 1.0
  aug_type: common.Augmentation | None = None
  skip_crowd_during_training: bool = True
  max_num_instances: int = 100
  pad: bool = True
  keep_aspect_ratio: bool = True


@dataclasses.dataclass
class DenseDataConfig(retinanet.DataConfig):
  """Options of Model Garden's data, without those of RetinaNet's assignment."""
  parser: DenseParserConfig = dataclasses.field(default_factory=DenseParserConfig)


@dataclasses.dataclass
class DenseTaskConfig(RetinaNetTaskConfig):
  """Options of the task of FCOS, ATSS, AutoAssign and FreeAnchor; see `RetinaNetTaskConfig`."""
  model: DenseDetectorConfig = dataclasses.field(default_factory=DenseDetectorConfig)
  train_data: DenseDataConfig = dataclasses.field(
      default_factory=lambda: DenseDataConfig(is_training=True))
  validation_data: DenseDataConfig = dataclasses.field(
      default_factory=lambda: DenseDataConfig(is_training=False))
  losses: DenseLossesConfig = dataclasses.field(default_factory=DenseLossesConfig)
