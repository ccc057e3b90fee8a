"""Model Garden's detection tasks with a routing tape around every step.

No body of Model Garden is copied: `train_step` and `validation_step` run as they are,
inside a tape; the budget enters as one more auxiliary loss; cost and gates are logged
beside Model Garden's own values.
"""
import collections
import copy
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from absl import logging
import numpy as np
from official.core import task_factory
from official.vision.ops import preprocess_ops
from official.vision.tasks import maskrcnn
from official.vision.tasks import retinanet
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.modeling import dense_detector
from official_ext.ops import routing
from official_ext.utils import routing_pictures

_GIGA = 1e9
_PICTURED_IMAGES = 4
# Beyond this share of what gates can save, executed and expected cost have drifted apart.
_DRIFT = 0.1


class InitializationError(ValueError):
  """`task.init_checkpoint` cannot be read or does not fit the model."""


def cost_summary(record: routing.Routing, target: float) -> Dict[str, tf.Tensor]:
  """Returns cost in 10^9 multiply-adds (GMAC) per image, by name.

  Args:
    record: what a tape returned.
    target: the budget's share of what gates can save.

  Returns:
    `executed` and `expected`, float32 `[batch]`; `target`, `minimum` and `maximum`,
    float32 scalars.
  """
  return {
      'executed': record.executed / _GIGA,
      'expected': record.expected / _GIGA,
      'target': (record.minimum + target * (record.maximum - record.minimum)) / _GIGA,
      'minimum': record.minimum / _GIGA,
      'maximum': record.maximum / _GIGA,
  }


def cost_names() -> Sequence[str]:
  """Returns the names in a `cost_summary`."""
  return ('executed', 'expected', 'target', 'minimum', 'maximum')


def open_ratios(record: routing.Routing) -> Dict[str, tf.Tensor]:
  """Returns what opened per image, by the gate's name.

  `[batch]`: an open-or-shut gate itself, or the share of positions that are not shut; of a choice
  `[batch, paths]`.
  """
  return {
      name: gate if gate.shape.rank < 3 else
      tf.reduce_mean(tf.cast(gate > 0, tf.float32), axis=list(range(1, gate.shape.rank)))
      for name, gate in record.gates.items()
  }


def _flat(name: str, values: np.ndarray) -> Dict[str, float]:
  """Splits the ratios of a choice into one named value per path."""
  mean = np.mean(values, axis=0)
  if mean.ndim == 0:
    return {name: float(mean)}
  return {f'{name}/{path}': float(value) for path, value in enumerate(mean)}


class RoutedTask:
  """Mixin that gives a detection task a routing tape; stands first among the bases."""

  _routed_names: Sequence[str] = ()
  _limits: Mapping[str, Tuple[float, str]] = {}
  _samples_gates = False

  def build_model(self) -> tf_keras.Model:
    """Builds Model Garden's model, with the decoder of the config."""
    budget = self.task_config.budget
    routing.check_budget(budget.target, budget.reduction, budget.distance)
    model = super().build_model()
    layers = routing.routed_layers(model)
    names = [f'gmac/{name}' for name in cost_names()] if layers else []
    for kind in ('gate', 'measure'):
      names += [f'{kind}/{layer.name}/{name}' for layer in layers
                for name in getattr(layer, f'{kind}_names', ())]
    self._routed_names = names
    self._samples_gates = any(getattr(layer, 'samples_gates', False) for layer in layers)
    self._limits = {f'measure/{layer.name}/{name}': limit for layer in layers
                    for name, limit in getattr(layer, 'measure_limits', {}).items()}
    return model

  def initialize(self, model: tf_keras.Model) -> None:
    """Loads the modules that `task.init_checkpoint_modules` names, completely or not at all.

    Args:
      model: as `build_model` returns it.

    Raises:
      InitializationError: no such checkpoint or module, or a variable of a module is
        missing in it or has another shape.
    """
    path, modules = self.task_config.init_checkpoint, self.task_config.init_checkpoint_modules
    if not path:
      return
    items = model.checkpoint_items
    modules = modules.split(',') if isinstance(modules, str) else modules
    names = list(items) if 'all' in modules else [name.strip() for name in modules]
    if not set(names) <= set(items):
      raise InitializationError(f'task.init_checkpoint_modules is {modules}; allowed are `all` and '
                                f'any of {sorted(items)}.')
    checkpoint = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
    try:
      status = tf.train.Checkpoint(**{name: items[name] for name in names}).read(checkpoint or path)
      status.expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
      raise InitializationError(
          f'task.init_checkpoint {path!r} does not give all of {", ".join(names)}: '
          f'{str(error).splitlines()[0].rstrip(".")}. Change the checkpoint, or load less by '
          'task.init_checkpoint_modules.') from error
    for name in names:
      count = sum(len(layer.variables) for layer in tf.nest.flatten(items[name]))
      logging.info('%s: all %d variables loaded from %s.', name, count, checkpoint)
    fresh = sorted(set(items) - set(names))
    if fresh:
      logging.info('%s: start from random weights.', ', '.join(fresh))

  def build_losses(self, outputs: Any, labels: Any, aux_losses: Optional[Any] = None) -> Any:
    """Builds Model Garden's losses and adds the budget; called while a tape is open."""
    budget = self.task_config.budget
    tape = routing.RoutingTape.current()
    record = tape.routing() if tape else None
    if record and budget.weight:
      loss = budget.weight * routing.budget_loss(
          record, budget.target, budget.reduction, budget.distance)
      aux_losses = list(aux_losses or []) + [loss]
    return super().build_losses(outputs=outputs, labels=labels, aux_losses=aux_losses)

  def build_metrics(self, training: bool = True) -> List[tf_keras.metrics.Metric]:
    """Adds cost and open ratios to the training metrics, once the model is built."""
    metrics = super().build_metrics(training=training)
    if not training:
      return metrics
    return metrics + [_RoutingMean(f'routing/{name}', self._limits.get(name))
                      for name in self._routed_names]

  def train_step(self, inputs: Any, model: tf_keras.Model, optimizer: Any,
                 metrics: Optional[List[Any]] = None) -> Mapping[str, Any]:
    """Runs Model Garden's training step under a tape."""
    theirs = [m for m in metrics or [] if not isinstance(m, _RoutingMean)]
    with routing.RoutingTape() as tape:
      logs = super().train_step(inputs, model, optimizer, theirs)
    record = _checked(tape, model)
    if record:
      values = {f'routing/gmac/{name}': value
                for name, value in cost_summary(record, self.task_config.budget.target).items()}
      values.update({f'routing/gate/{name}': value for name, value in open_ratios(record).items()})
      values.update({f'routing/measure/{name}': value for name, value in record.measures.items()})
      for metric in metrics or []:
        if isinstance(metric, _RoutingMean):
          metric.update_state(values[metric.name])
    return logs

  def validation_step(self, inputs: Any, model: tf_keras.Model,
                      metrics: Optional[List[Any]] = None) -> Dict[str, Any]:
    """Runs Model Garden's validation step under a tape, and again under sampled gates."""
    with routing.RoutingTape(diagnose=self.task_config.diagnose_routing) as tape:
      logs = super().validation_step(inputs, model, metrics)
    record = _checked(tape, model)
    if not record:
      return logs
    logs['routing'] = {
        'gmac': cost_summary(record, self.task_config.budget.target), 'gate': open_ratios(record),
        'measure': dict(record.measures)}
    if self.task_config.allow_image_summary:
      logs['pictured'] = {'image': tf.cast(inputs[0], tf.float32), 'gates': dict(record.gates),
                          'executed': record.executed, 'maximum': record.maximum}
    logs['sampled'] = []
    for _ in range(self.task_config.sampled_evaluation_runs):
      with routing.RoutingTape(sample_gates=True) as tape:
        sampled = super().validation_step(inputs, model)
      logs['sampled'].append((sampled, tape.routing().executed / _GIGA))
    return logs

  def aggregate_logs(self, state: Any = None, step_outputs: Any = None) -> Any:
    """Collects what validation steps returned: Model Garden's state, and ours beside it."""
    if state is None:
      state = _EvaluationState(self)
    state.theirs = super().aggregate_logs(state.theirs, step_outputs)
    for kind, values in step_outputs.get('routing', {}).items():
      for name, replicas in values.items():
        state.add(f'{kind}/{name}', replicas)
    if state.pictured is None and 'pictured' in step_outputs:
      state.pictured = _of_first_replica(step_outputs['pictured'])
    for run, (outputs, executed) in enumerate(step_outputs.get('sampled', [])):
      state.add('sampled/gmac', executed)
      with state.evaluator_of_run(run):
        state.sampled[run] = super().aggregate_logs(state.sampled[run], outputs)
    return state

  def reduce_aggregated_logs(self, aggregated_logs: '_EvaluationState',
                             global_step: Optional[Any] = None) -> Dict[str, Any]:
    """Adds cost, open ratios and the results under sampled gates to the evaluation's logs."""
    logs = super().reduce_aggregated_logs(aggregated_logs.theirs, global_step)
    values = {name: np.concatenate(parts) for name, parts in aggregated_logs.values.items()}
    if not values:
      return logs
    executed = values['gmac/executed']
    for statistic in ('mean', 'min', 'max', 'std'):
      logs[f'routing/gmac/executed/{statistic}'] = float(getattr(np, statistic)(executed))
    for name in ('expected', 'target', 'minimum', 'maximum'):
      logs[f'routing/gmac/{name}'] = float(np.mean(values[f'gmac/{name}']))
    for name in (name for name in values if name.startswith('gate/')):
      logs.update(_flat(f'routing/{name}', values[name]))
    for name in (name for name in values if name.startswith('measure/')):
      logs[f'routing/{name}'] = float(np.mean(values[name]))
      _warn_beyond(self._limits.get(name), f'routing/{name}', logs[f'routing/{name}'])
    if self._samples_gates:
      _warn_of_drift(logs)
    _warn_of_dead_gates(values)
    if aggregated_logs.pictured:
      logs.update(_pictures(**aggregated_logs.pictured))
    runs = []
    for run, state in enumerate(aggregated_logs.sampled):
      with aggregated_logs.evaluator_of_run(run):
        runs.append(super().reduce_aggregated_logs(state, global_step))
    if runs:
      logs['routing/sampled/gmac'] = float(np.mean(values['sampled/gmac']))
      logs.update({f'routing/sampled/{name}': float(np.mean([run[name] for run in runs]))
                   for name in runs[0] if not name.startswith('image/')})
    return logs


class _RoutingMean(tf_keras.metrics.Mean):
  """A mean that only this module updates: Model Garden's steps do not know its name.

  One with a limit warns, once, when the moving average of what it showed at the end of
  each training loop passes the limit.
  """

  def __init__(self, name: str, limit: Optional[Tuple[float, str]] = None):
    super().__init__(name, dtype=tf.float32)
    self._limit, self._average = limit, None

  def reset_state(self) -> None:
    if self._limit and tf.executing_eagerly() and float(self.count):
      value = float(self.result())
      self._average = value if self._average is None else (self._average + value) / 2
      if _warn_beyond(self._limit, self.name, self._average):
        self._limit = None
    super().reset_state()


def _warn_beyond(limit: Optional[Tuple[float, str]], name: str, value: float) -> bool:
  """Warns of a measure that is beyond its limit, or not a number."""
  if limit is None or value <= limit[0]:
    return False
  logging.warning('%s is %.3g, above %.3g: %s.', name, value, *limit)
  return True


class _EvaluationState:
  """What an evaluation has seen so far."""

  def __init__(self, task: RoutedTask):
    self.theirs = self.pictured = None
    self.values = collections.defaultdict(list)
    runs = task.task_config.sampled_evaluation_runs if hasattr(task, 'coco_metric') else 0
    self.sampled = [None] * runs
    self._task = task
    self._evaluators = [copy.copy(task.coco_metric) for _ in range(runs)]
    for evaluator in self._evaluators:
      evaluator.reset_states()

  def add(self, name: str, replicas: Any) -> None:
    """Adds one value per replica: `[batch]`, or a scalar that is the same for every image."""
    self.values[name] += [np.atleast_1d(value.numpy()) for value in replicas]

  def evaluator_of_run(self, run: int) -> '_SwappedEvaluator':
    """Returns a context in which the task evaluates one run under sampled gates."""
    return _SwappedEvaluator(self._task, self._evaluators[run])


class _SwappedEvaluator:
  """Puts an evaluator of its own in the place of the task's while the context lasts."""

  def __init__(self, task: RoutedTask, evaluator: Any):
    self._task, self._evaluator = task, evaluator

  def __enter__(self) -> None:
    self._kept, self._task.coco_metric = self._task.coco_metric, self._evaluator

  def __exit__(self, *unused) -> None:
    self._task.coco_metric = self._kept


def _checked(tape: routing.RoutingTape, model: tf_keras.Model) -> Optional[routing.Routing]:
  tape.check_complete(model)
  return tape.routing()


def _of_first_replica(values: Mapping[str, Any]) -> Dict[str, Any]:
  """Returns NumPy arrays of what a step gave as tuples of one value per replica."""
  return {name: _of_first_replica(value) if isinstance(value, Mapping) else value[0].numpy()
          for name, value in values.items()}


def _pictures(image: np.ndarray, gates: Mapping[str, np.ndarray], executed: np.ndarray,
              maximum: np.ndarray) -> Dict[str, np.ndarray]:
  """Returns pictures of what was decided about the first images, uint8 `[1, height, width, 3]`.

  The names are those of Model Garden's image summaries: `image/gates/<number>/<picture>`.
  """
  shown = np.clip(image * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB, 0, 255)
  drawn = {}
  for number, one in enumerate(shown[:_PICTURED_IMAGES].astype(np.uint8)):
    plots = routing_pictures.of_image(
        one, {name: gate[number] for name, gate in gates.items()}, executed[number], maximum)
    drawn.update({f'image/gates/{number}/{name}': routing_pictures.pixels(plot)[None]
                  for name, plot in plots.items()})
  return drawn


def _warn_of_drift(logs: Mapping[str, float]) -> None:
  executed, expected = logs['routing/gmac/executed/mean'], logs['routing/gmac/expected']
  range_ = logs['routing/gmac/maximum'] - logs['routing/gmac/minimum']
  if abs(executed - expected) > _DRIFT * range_:
    logging.warning(
        'The cost executed, %.3f GMAC per image, is far from the %.3f GMAC that the gates would '
        'cost if they were sampled, as in training: they decide with little confidence. '
        'task.sampled_evaluation_runs=1 evaluates sampled gates beside this.', executed, expected)


def _warn_of_dead_gates(values: Mapping[str, np.ndarray]) -> None:
  constant = {'open': [], 'shut': []}
  for name, gate in values.items():
    if not name.startswith('gate/'):
      continue
    gate_name = name[len('gate/'):]
    if gate.ndim == 2:
      if np.max(np.mean(gate, axis=0)) == 1:
        logging.warning('Gate %s chose path %d for every image of this evaluation.', gate_name,
                        np.argmax(gate[0]))
    elif np.all(gate == 0) or np.all(gate == 1):
      constant['open' if gate[0] else 'shut'].append(gate_name)
  # A dynamic head has hundreds of gates, which all start open.
  for state, names in constant.items():
    if names:
      logging.warning('Gates %s for every image of this evaluation: %s.', state, ', '.join(names))


class _RetinaNetTask(retinanet.RetinaNetTask):
  """Model Garden's RetinaNet task, with the head's towers of the config."""

  def build_model(self) -> tf_keras.Model:
    model, config = super().build_model(), self.task_config
    if not config.model.head.tower.type:
      return model
    # Half, as tf.nn.l2_loss has it, and Model Garden with it.
    decay = config.losses.l2_weight_decay / 2
    return dense_detector.with_towers(
        model, config.model, tf_keras.regularizers.L2(decay) if decay else None)


@task_factory.register_task_cls(detectors.RetinaNetTask)
class RoutedRetinaNetTask(RoutedTask, _RetinaNetTask):
  """Model Garden's RetinaNet task, with routed parts."""


@task_factory.register_task_cls(detectors.MaskRCNNTask)
class RoutedMaskRCNNTask(RoutedTask, maskrcnn.MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task, with routed parts."""
