"""The cost of whole networks against sums by hand."""
from official.core import task_factory
import pytest

from official_ext.modeling import network_cost
from official_ext.modeling.layers import routed
from official_ext.utils import experiment
import small_detectors

pytestmark = pytest.mark.slow

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
# Positions and channels of levels 3 to 5; decoders have 64 filters.
MAPS = tuple(small_detectors.MAPS.values())
FILTERS = 64
BRANCH_TAPS = (1, 9, 9, 9, 25, 25, 25)


def _head(num_classes=11, anchors=9):
  """Counts two 3x3 convolutions and a predictor for classes, and as many for boxes, on P3 to P5."""
  per_position = 9 * FILTERS * (4 * FILTERS + anchors * (num_classes + 4))
  return per_position * sum(positions for positions, _ in MAPS)


@pytest.mark.parametrize('block', ['A', 'B'])
def test_dyfpn_by_hand(block):
  _, model = small_detectors.small_task(DYFPN, model={'decoder': {'dyfpn': {'block': block}}})
  cost = network_cost.whole_network_cost(model, (64, 64))
  laterals = [positions * channels * FILTERS for positions, channels in MAPS]
  outputs = sum(positions * 9 * FILTERS * FILTERS for positions, _ in MAPS)
  gates = model.decoder.gate.multiply_adds()
  skips = sum(laterals) if block == 'B' else 0
  every_branch = sum(laterals) * sum(BRANCH_TAPS)
  largest = every_branch if block == 'B' else sum(laterals) * max(BRANCH_TAPS)
  smallest = 0 if block == 'B' else sum(laterals) * min(BRANCH_TAPS)

  def near(value):
    return pytest.approx(value, abs=2e-7 * every_branch)  # a tape's costs are float32

  assert cost.maximum_by_part['head'] == _head()
  assert cost.maximum_by_part['decoder'] == near(largest + skips + outputs + gates)
  assert cost.static == near(cost.maximum_by_part['backbone'] + skips + outputs + _head())
  assert cost.minimum == near(cost.static + gates + smallest)
  assert cost.maximum == near(cost.static + gates + largest)
  assert cost.all_branches == cost.maximum_by_part['backbone'] + (
      skips + every_branch + outputs + gates + _head())
  assert sum(cost.maximum_by_part.values()) == cost.maximum


@pytest.mark.parametrize('tolerance', [0.0, 0.1])
def test_ifpn_by_hand(tolerance):
  """The graph holds the body of the solver's loop once; minimum and maximum count its rounds."""
  _, model = small_detectors.small_task('retinanet_ifpn_efficientnetlite0_sample', model={
      'max_level': 4, 'decoder': {'ifpn': {'solver': {
          **small_detectors.SHORT_SOLVER, 'tolerance': tolerance, 'inference_evaluations': 3}}}})
  cost = network_cost.whole_network_cost(model, (64, 64))
  positions = [positions for positions, _ in MAPS[:2]]
  basis = sum(positions * channels * FILTERS for positions, channels in MAPS[:2])
  # Each level has two convolutions in its block, one of its own features, and one of its
  # neighbor's, which runs at the size of the coarser level.
  evaluation = 9 * FILTERS**2 * (3 * sum(positions) + 2 * positions[1])
  decoder = cost.maximum_by_part['decoder']
  assert decoder == pytest.approx(basis + 3 * evaluation, rel=1e-6)
  head = cost.maximum_by_part['head']
  assert cost.static == pytest.approx(cost.maximum_by_part['backbone'] + basis + head, rel=1e-6)
  assert cost.maximum == cost.all_branches == pytest.approx(cost.static + 3 * evaluation, rel=1e-6)
  least = 1 if tolerance else 3
  assert cost.minimum == pytest.approx(cost.static + least * evaluation, rel=1e-6)


def test_counting_leaves_the_model_as_it_was():
  _, model = small_detectors.small_task(DYFPN)
  layer, = routed.routed_layers(model)
  for inference in ('skip', 'mask'):
    layer.inference = inference
    network_cost.whole_network_cost(model, (64, 64))
    assert layer.inference == inference
  with pytest.raises(KeyError), routed.inference_as(model, 'mask'):
    layer.inference = 'skip'
    raise KeyError
  assert layer.inference == 'mask'


def test_model_gardens_retinanet():
  # The sum over all 111 convolutions, counted by a hook on every convolution's call.
  # Suppression v2, Model Garden's default, has a loop for each class, which takes long to trace.
  params = experiment.resolve('retinanet_resnetfpn_coco', params_override=(
      'task.model.input_size=[256,320,3],task.model.detection_generator.nms_version=batched'))
  model = task_factory.get_task(params.task).build_model()
  cost = network_cost.whole_network_cost(model, (256, 320))
  assert cost[:4] == (19_383_318_016,) * 4
