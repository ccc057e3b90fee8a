"""Model Garden's detector options with our decoders and a budget in them."""
import dataclasses

from official.vision.configs import maskrcnn
from official.vision.configs import retinanet

from official_ext.configs import components


def _fpn() -> components.Decoder:
  return components.decoder(type='fpn')


@dataclasses.dataclass
class RetinaNet(retinanet.RetinaNet):
  """Model Garden's RetinaNet; `decoder` may be any registered one."""
  decoder: components.Decoder = dataclasses.field(default_factory=_fpn)


@dataclasses.dataclass
class RetinaNetTask(retinanet.RetinaNetTask):
  """Model Garden's RetinaNet task.

  Attributes:
    budget: the loss that pulls cost to a target; only for routed networks.
    sampled_evaluation_runs: how many times evaluation repeats every step with sampled
      gates; their mean AP and cost are reported beside those of deterministic gates.
    diagnose_routing: evaluation also logs measures that cost as much as what they measure,
      such as the spectral radius of an implicit pyramid's map.
  """
  model: RetinaNet = dataclasses.field(default_factory=RetinaNet)
  budget: components.Budget = dataclasses.field(default_factory=components.Budget)
  sampled_evaluation_runs: int = 0
  diagnose_routing: bool = False


@dataclasses.dataclass
class MaskRCNN(maskrcnn.MaskRCNN):
  """Model Garden's Faster, Mask and Cascade R-CNN; `decoder` may be any registered one."""
  decoder: components.Decoder = dataclasses.field(default_factory=_fpn)


@dataclasses.dataclass
class MaskRCNNTask(maskrcnn.MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task; see `RetinaNetTask`."""
  model: MaskRCNN = dataclasses.field(default_factory=MaskRCNN)
  budget: components.Budget = dataclasses.field(default_factory=components.Budget)
  sampled_evaluation_runs: int = 0
  diagnose_routing: bool = False
