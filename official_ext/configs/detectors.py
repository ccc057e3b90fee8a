"""Options of detectors: Model Garden's with our decoders and a budget in them, and our own."""
import dataclasses
from typing import Optional

from official.modeling import hyperparams
from official.vision.configs import common
from official.vision.configs import maskrcnn
from official.vision.configs import retinanet

from official_ext.configs import components
from official_ext.configs import options


def _fpn() -> components.DecoderConfig:
  return components.decoder(type='fpn')


def _resnet() -> components.BackboneConfig:
  return components.backbone(type='resnet')


def _plain_tower() -> components.TowerConfig:
  return components.tower(type='plain')


@dataclasses.dataclass
class RetinaNetHeadConfig(retinanet.RetinaNetHead):
  """Model Garden's RetinaNet head, with towers of any kind.

  Attributes:
    tower: any registered one; of null type: Model Garden's `num_convs` convolutions.
  """
  tower: components.TowerConfig = dataclasses.field(default_factory=components.tower)


@dataclasses.dataclass
class RetinaNetConfig(retinanet.RetinaNet):
  """Model Garden's RetinaNet; `backbone`, `decoder` and `head.tower` may be any registered ones."""
  backbone: components.BackboneConfig = dataclasses.field(default_factory=_resnet)
  decoder: components.DecoderConfig = dataclasses.field(default_factory=_fpn)
  head: RetinaNetHeadConfig = dataclasses.field(default_factory=RetinaNetHeadConfig)


@dataclasses.dataclass
class RetinaNetTaskConfig(retinanet.RetinaNetTask):
  """Model Garden's RetinaNet task.

  Attributes:
    budget: the loss that pulls cost to a target; only for routed networks.
    sampled_evaluation_runs: how many times evaluation repeats every step with sampled
      gates; their mean AP and cost are reported beside those of deterministic gates.
    diagnose_routing: evaluation also logs measures that cost as much as what they measure,
      such as the spectral radius of an implicit pyramid's map.
  """
  model: RetinaNetConfig = dataclasses.field(default_factory=RetinaNetConfig)
  budget: options.BudgetConfig = dataclasses.field(default_factory=options.BudgetConfig)
  sampled_evaluation_runs: int = 0
  diagnose_routing: bool = False


@dataclasses.dataclass
class MaskRCNNConfig(maskrcnn.MaskRCNN):
  """Model Garden's Faster, Mask and Cascade R-CNN; `backbone` and `decoder` are open."""
  backbone: components.BackboneConfig = dataclasses.field(default_factory=_resnet)
  decoder: components.DecoderConfig = dataclasses.field(default_factory=_fpn)


@dataclasses.dataclass
class MaskRCNNTaskConfig(maskrcnn.MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task; see `RetinaNetTaskConfig`."""
  model: MaskRCNNConfig = dataclasses.field(default_factory=MaskRCNNConfig)
  budget: options.BudgetConfig = dataclasses.field(default_factory=options.BudgetConfig)
  sampled_evaluation_runs: int = 0
  diagnose_routing: bool = False


# --- FCOS, ATSS and kin: one model and one task, of which the label assignment varies ---
#
# They stand on RetinaNet's options, and Model Garden serves them as such.  Options of its that
# mean nothing here are left out; its export reads the constants among the fields below.


@dataclasses.dataclass
class SquareAnchorConfig(hyperparams.Config):
  """Options of ATSS's one anchor per location.

  Attributes:
    anchor_size: side of the anchor, in strides.
  """
  anchor_size: float = 8.0
  num_scales = 1
  aspect_ratios = (1.0,)


@dataclasses.dataclass
class DenseHeadConfig(hyperparams.Config):
  """Options of the head of a dense detector.

  Attributes:
    num_filters: channels of the towers.
    tower: the layers before the predictors of classes and boxes, any registered one.
  """
  num_filters: int = 256
  tower: components.TowerConfig = dataclasses.field(default_factory=_plain_tower)


@dataclasses.dataclass
class DenseDetectionsConfig(hyperparams.Config):
  """Options of what makes detections from predictions.

  Attributes:
    pre_nms_top_k: pairs of location and class that every level offers at most.
    pre_nms_score_threshold: class probability that a pair needs more than.
    nms_iou_threshold: overlap above which the weaker box of a class is dropped.
    max_num_detections: per image.
  """
  pre_nms_top_k: int = 1000
  pre_nms_score_threshold: float = 0.05
  nms_iou_threshold: float = 0.6
  max_num_detections: int = 100
  apply_nms = True
  nms_version = 'batched'


@dataclasses.dataclass
class DenseDetectorConfig(retinanet.RetinaNet):
  """Options of FCOS, ATSS and kin.

  Attributes:
    assigner: `fcos` or `atss`: which locations learn a box, and how boxes are coded.
    anchor: of ATSS; FCOS has none.
    backbone: any registered one.
    decoder: any registered one.
    head: towers and predictors.
    detection_generator: from predictions to detections.
  """
  assigner: str = 'fcos'
  anchor: SquareAnchorConfig = dataclasses.field(default_factory=SquareAnchorConfig)
  backbone: components.BackboneConfig = dataclasses.field(default_factory=_resnet)
  decoder: components.DecoderConfig = dataclasses.field(default_factory=_fpn)
  head: DenseHeadConfig = dataclasses.field(default_factory=DenseHeadConfig)
  detection_generator: DenseDetectionsConfig = dataclasses.field(
      default_factory=DenseDetectionsConfig)


@dataclasses.dataclass
class DenseLossesConfig(hyperparams.Config):
  """Options of the losses.

  Attributes:
    loss_weight: of the total.
    focal_loss_alpha: weight of objects; background has what is left to 1.
    focal_loss_gamma: exponent that weakens what is easy.
    box_loss_weight: of the box loss beside the others.
    l2_weight_decay: of all kernels.
  """
  loss_weight: float = 1.0
  focal_loss_alpha: float = 0.25
  focal_loss_gamma: float = 2.0
  box_loss_weight: float = 1.0
  l2_weight_decay: float = 0.0


@dataclasses.dataclass
class DenseParserConfig(hyperparams.Config):
  """Options of augmentation and of the ground truth, as in Model Garden's RetinaNet."""
  aug_rand_hflip: bool = False
  aug_rand_jpeg: Optional[common.RandJpegQuality] = None
  aug_scale_min: float = 1.0
  aug_scale_max: float = 1.0
  aug_type: Optional[common.Augmentation] = None
  skip_crowd_during_training: bool = True
  max_num_instances: int = 100
  pad: bool = True
  keep_aspect_ratio: bool = True


@dataclasses.dataclass
class DenseDataConfig(retinanet.DataConfig):
  """Model Garden's data options without those of RetinaNet's assignment."""
  parser: DenseParserConfig = dataclasses.field(default_factory=DenseParserConfig)


@dataclasses.dataclass
class DenseTaskConfig(RetinaNetTaskConfig):
  """The task of FCOS, ATSS and kin; see `RetinaNetTaskConfig`."""
  model: DenseDetectorConfig = dataclasses.field(default_factory=DenseDetectorConfig)
  train_data: DenseDataConfig = dataclasses.field(
      default_factory=lambda: DenseDataConfig(is_training=True))
  validation_data: DenseDataConfig = dataclasses.field(
      default_factory=lambda: DenseDataConfig(is_training=False))
  losses: DenseLossesConfig = dataclasses.field(default_factory=DenseLossesConfig)
