"""Twins of a routed detector, whose parts always run: what they cost, how long they take."""
from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
from typing import Any, NamedTuple

import numpy as np
from official.core import task_factory
import tensorflow as tf

from official_ext.configs import options
from official_ext.modeling.layers import routed
from official_ext.ops import export_expectation
from official_ext.serving.compiling import frozen
from official_ext.serving import detection
from official_ext.serving import detectors
from official_ext.serving import export_modules
from official_ext.serving import signatures
from official_ext.utils import timing

_OWN = ('cheapest image', 'dearest image')
_PLAIN_CONVS = 4  # of a tower of FCOS


class Twin(NamedTuple):
  """A detector without gates.

  Attributes:
    detector: the detector, with new weights where it differs from the routed one.
    multiply_adds: of the whole network for one image.
    inference: mode in which a supernet runs every path; None: it has no modes.
  """
  detector: detectors.InMemoryDetector
  multiply_adds: int
  inference: str | None = None


def make_twins(module: export_modules.DetectionModule) -> dict[str, Twin]:
  """Makes the twins of a detector: the same detector with other parts, which always run.

  A detector with a dynamic head has two twins: one with the same head without gates, and one
  with a plain head of as many convolutions, but at most four, as FCOS has.  The twin of CADDet
  runs every path.  Any other detector has two: one with an inception FPN of the decoder's
  branches, and one with an FPN.

  Args:
    module: the export module of the detector; of images of several sizes, the widest is compared.

  Returns:
    Name -> twin.
  """
  model_config = module.params.task.model
  if model_config.backbone.type == 'caddet':
    widest = module.module_of(module.image_size)
    return {'every path': Twin(detectors.InMemoryDetector(widest), module.cost.maximum, 'mask')}
  tower = (model_config.as_dict().get('head') or {}).get('tower') or {}
  if tower.get('type') == 'dynamic':
    fixed = {step: 'fixed' for step in ('scale_step', 'depth_step')
             if tower['dynamic'][step] == 'gated'}
    towers = {'fixed head': {'dynamic': {
        **fixed, 'activation': 'tanh', 'budget_input': False}},
              'plain head': {'type': 'plain', 'plain': {
                  'num_convs': min(_PLAIN_CONVS, 2 * tower['dynamic']['num_blocks'])}}}
    return {name: _make(module, {'head': {'tower': tower}}) for name, tower in towers.items()}
  neck = model_config.decoder.as_dict()[model_config.decoder.type]
  shared = {key: neck[key] for key in ('num_filters', 'norm', 'coarse_levels')
            if key in neck}
  branches = {'inception FPN': neck.get('branches', ['1x1']), 'FPN': ['1x1']}
  return {name: _make(module, {'decoder': {
      'type': 'inception_fpn', 'inception_fpn': {**shared, 'branches': kinds}}})
          for name, kinds in branches.items()}


def _make(module: export_modules.DetectionModule, override: dict[str, Any]) -> Twin:
  """Makes the detector after an override of its model's options."""
  params = module.params.replace(task=module.params.task.replace(
      budget=options.BudgetConfig(), budgets=[]))
  params.task.model.override(override)
  model = task_factory.get_task(params.task).build_model()
  twin = detection.RoutedDetectionModule(
      params, model=model, input_image_size=list(module.image_size))
  return Twin(detectors.InMemoryDetector(twin), twin.cost.maximum)


def _as_exported(detector: detectors.InMemoryDetector, shape: Sequence[int],
                 inference: str | None = None) -> Any:
  """Returns a detector's network as an export computes it, with gates as they are set now.

  Weights are constants, norms are folded, and large convolutions have fewer multiplications,
  from which a head that computes everywhere gains more than one that skips.

  Args:
    detector: with its threshold and budget set.
    shape: of the network's inputs.
    inference: mode of a supernet, as in `Twin`.
  """
  model, specs = detector.module.model, [
      tf.TensorSpec(shape, tf.float32, 'inputs'), tf.TensorSpec([1, 2], tf.float32, 'image_shape')]
  with routed.inference_as(model, inference) if inference else contextlib.nullcontext():
    with export_expectation.expected() as found:
      traced = signatures.with_names(detector.network, specs)
    if not frozen.is_advisable(model, found.bytes):
      traced = signatures.with_names(detector.network, specs)
  return frozen.freeze_as_told(traced, detector.module, None, False)[0] or traced


def seconds(detector: detectors.InMemoryDetector, twins: Mapping[str, Twin],
            cheapest: np.ndarray, dearest: np.ndarray, repeats: int) -> dict[str, np.ndarray]:
  """Times a detector and its twins as their exports compute them, interleaved in one run.

  Args:
    detector: the routed detector.
    twins: what `make_twins` returned for it.
    cheapest: the image that costs it least, uint8 `[height, width, 3]`.
    dearest: the image that costs it most; twins get this one.
    repeats: number of times.

  Returns:
    `cheapest image`, `dearest image`, and names of twins -> seconds, float64 `[repeats]`, of one
    image, without resizing.
  """
  functions: dict[str, Callable[[], Any]] = {}

  def add(name, own, compiled, image):
    inputs, info = own.module.network_inputs([image])
    function, shape = compiled(tuple(inputs.shape)), info[:, 1]
    functions[name] = lambda: function(inputs, shape)['detection_boxes'].numpy()

  compiled = functools.cache(functools.partial(_as_exported, detector))
  for name, image in zip(_OWN, (cheapest, dearest)):
    add(name, detector, compiled, image)
  for name, twin in twins.items():
    add(name, twin.detector,
        functools.partial(_as_exported, twin.detector, inference=twin.inference), dearest)
  return timing.interleaved(functions, repeats)


def figures(detector: detectors.InMemoryDetector, images: Sequence[np.ndarray], repeats: int
            ) -> dict[str, dict[str, Any]]:
  """Times a detector on its cheapest and its dearest image, and its twins.

  All have the size of the network's input, as times have, which may be larger than the images'.

  Args:
    detector: the routed detector.
    images: uint8 `[height, width, 3]`, to choose from.
    repeats: number of times.

  Returns:
    `twins_ms`: name -> median and quartiles in milliseconds, as `timing.summaries` returns them;
    `twins_gmac`: name -> 10^9 multiply-adds.
  """
  bounds = detector.module.cost
  records = [detector.decisions([image]) for image in images]
  executed = [bounds.maximum if record is None else bounds.static + float(record.executed[0])
              for record in records]
  cheapest, dearest = (images[executed.index(bound)] for bound in (min(executed), max(executed)))
  twins = make_twins(detector.module)
  milliseconds = timing.summaries(seconds(detector, twins, cheapest, dearest, repeats))
  costs = [min(executed), max(executed), *(twin.multiply_adds for twin in twins.values())]
  return {'twins_ms': milliseconds, 'twins_gmac': {
      name: cost / 1e9 for name, cost in zip(milliseconds, costs, strict=True)}}
