"""A routing tape around every step of Model Garden's detection tasks.

`train_step` and `validation_step` of Model Garden run unchanged inside the tape.  The budgets
enter as auxiliary losses.  Cost and gates are logged beside Model Garden's own values.
"""
from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.losses import budgets
from official_ext.losses import task_budgets
from official_ext.modeling import float32_layers
from official_ext.modeling import freezing
from official_ext.modeling import network_cost
from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.tasks import budgeted_task
from official_ext.tasks import evaluation_state
from official_ext.tasks import initialization
from official_ext.tasks import last_batch as last_batch_lib
from official_ext.tasks import routing_logs
from official_ext.tasks import step_tape

_GIGA = 1e9


class RoutedTask(budgeted_task.BudgetedTask):
  """Mixin that gives a detection task a routing tape; the first base of such a task.

  AutoGraph converts nothing below it: the models write `tf.cond` themselves, and to convert their
  code takes seconds of each start.
  """

  # The images of the last training step; None before `build_metrics`.
  last_batch: last_batch_lib.LastBatch | None = None
  _routed_names: Sequence[str] = ()
  _limits: Mapping[str, routed.Limit] = {}
  _samples_gates = False
  # Size of the images -> multiply-adds of the parts that are not routed; None without a model.
  _static_cost: Callable[[tuple[int, int]], int] | None = None

  def __init__(self, params: Any, *args: Any, **kwargs: Any):
    """Initializes the task.

    Args:
      params: the task's config, with `budget` and `budgets`.
      *args: further arguments of Model Garden's task.
      **kwargs: further arguments of Model Garden's task.

    Raises:
      ValueError: an option of a budget is not allowed, or options disagree on the size of images.
    """
    super().__init__(params, *args, **kwargs)
    image_sizes.check(params)
    self._budgets = task_budgets.TaskBudgets(params)

  @tf.autograph.experimental.do_not_convert
  def build_model(self) -> tf_keras.Model:
    """Builds the detector, and reads from its routed layers what there will be to log."""
    model = super().build_model()
    freezing.freeze_stages(model.backbone, self.task_config.frozen_stages)
    self._budgets.attach(model)
    layers = routed.routed_layers(model)
    if layers:
      self._routed_names = [
          *(f'gmac/{name}' for name in routing_logs.cost_names(self._budgets.target is not None)),
          *(f'loss/{name}' for name in self._budgets.loss_names),
          *(f'share/{name}' for name in self._budgets.share_names),
          *(f'gate/{layer.name}/{name}' for layer in layers for name in layer.gate_names),
          *(f'metric/{layer.name}/{name}' for layer in layers for name in layer.metric_names)]
    self._static_cost = functools.cache(functools.partial(network_cost.static_cost, model))
    self._samples_gates = any(layer.samples_gates for layer in layers)
    self._limits = {f'metric/{layer.name}/{name}': limit for layer in layers
                    for name, limit in layer.metric_limits.items()}
    return model

  def initialize(self, model: tf_keras.Model) -> None:
    """Loads the modules that `task.init_checkpoint_modules` names; see `initialization.load`."""
    if self.task_config.init_checkpoint:
      initialization.load(model.checkpoint_items, self.task_config.init_checkpoint,
                          self.task_config.init_checkpoint_modules)

  def build_losses(self, outputs: Any, labels: Any, aux_losses: Any | None = None) -> Any:
    """Builds Model Garden's losses with those of the budgets among the auxiliary losses.

    The budgets need a `StepTape`, which is open during a step; without one they add nothing.
    """
    # Model Garden casts to float32 in training only.
    outputs = float32_layers.to_float32(outputs)
    tape = step_tape.StepTape.current()
    if tape and tape.records():
      tape.terms = self._terms(tape, outputs, labels)
      aux_losses = [*(aux_losses or []), *tape.terms.losses.values()]
    return super().build_losses(outputs=outputs, labels=labels, aux_losses=aux_losses)

  def _terms(self, tape: step_tape.StepTape, outputs: Any, labels: Any) -> task_budgets.TaskTerms:
    """Returns what the budgets say of a step."""
    boxes = self.boxes(labels)
    if boxes is None and tape.step.is_training and task_budgets.needs_objects(self.task_config):
      raise ValueError('A budget needs the objects of the images, and the labels have no boxes: '
                       f'{type(self).__name__}.boxes must return them.')
    return self._budgets.terms(
        tape.records(), tape.step, boxes, lambda: self.image_losses(outputs, labels))

  def build_metrics(self, training: bool = True) -> list[tf_keras.metrics.Metric]:
    """Adds cost, budget and gates to the Keras metrics of training, once the model is built."""
    metrics = super().build_metrics(training=training)
    if not training:
      return metrics
    self.last_batch = last_batch_lib.LastBatch(
        self.task_config.train_data.global_batch_size
        // tf.distribute.get_strategy().num_replicas_in_sync)
    return metrics + [routing_logs.RoutingKerasMean(f'routing/{name}', self._limits.get(name))
                      for name in self._routed_names]

  @tf.autograph.experimental.do_not_convert
  def train_step(self, inputs: Any, model: tf_keras.Model, optimizer: Any,
                 metrics: list[Any] | None = None) -> Mapping[str, Any]:
    """Runs Model Garden's training step under a tape."""
    routing_means = [metric for metric in metrics or []
                     if isinstance(metric, routing_logs.RoutingKerasMean)]
    other_metrics = [metric for metric in metrics or []
                     if not isinstance(metric, routing_logs.RoutingKerasMean)]
    number = optimizer.iterations
    budget = self._budgets.draw(number)
    spends = contextlib.nullcontext() if budget is None else routing.spending(budget)
    step = _step(inputs, number, 1.0 if budget is None else budget)
    with spends, step_tape.StepTape(step) as tape:
      logs = super().train_step(inputs, model, optimizer, other_metrics)
    if self.last_batch and dense_input.IMAGE_HASH in inputs[1]:
      self.last_batch.update(inputs[1][dense_input.IMAGE_HASH], logs[self.loss],
                             optimizer.iterations)
    record = _complete_record(tape, model)
    if record:
      kinds = {'gmac': self._gmac(tape), 'gate': routing_logs.open_ratios(record),
               'metric': record.metrics, **_budget_logs(tape)}
      values = {f'routing/{kind}/{name}': value
                for kind, values_by_name in kinds.items()
                for name, value in values_by_name.items()}
      for metric in routing_means:
        metric.update_state(values[metric.name])
    return logs

  @tf.autograph.experimental.do_not_convert
  def validation_step(self, inputs: Any, model: tf_keras.Model,
                      metrics: list[Any] | None = None) -> dict[str, Any]:
    """Runs Model Garden's validation step under a tape, and again with sampled gates."""
    step = _step(inputs)
    with step_tape.StepTape(step, diagnose=self.task_config.diagnose_routing) as tape:
      logs = super().validation_step(inputs, model, metrics)
    record = _complete_record(tape, model)
    if not record:
      return logs
    if tape.terms is None:  # Two-stage detectors have no losses in evaluation, and no boxes.
      tape.terms = self._budgets.terms(tape.records(), step, None, _no_image_losses)
    logs['routing'] = {
        'gmac': self._gmac(tape), 'gate': routing_logs.open_ratios(record),
        'metric': dict(record.metrics), **_budget_logs(tape),
        'image': {'size': tf.ones_like(record.executed, tf.int32)[:, None] * step.image_size}}
    if self.task_config.allow_image_summary:
      logs['picture_inputs'] = {
          'images': tf.cast(inputs[0], tf.float32), 'gates': dict(record.gates),
          'executed': record.executed, 'maximum': record.maximum}
      if 'boxes' in inputs[1]:
        logs['routing']['scales'] = {
            'presence': self._budgets.presence(inputs[1]['boxes'])}
    logs['sampled'] = []
    for _ in range(self._sampled_runs):
      with step_tape.StepTape(step, sample_gates=True) as tape:
        sampled = super().validation_step(inputs, model)
      logs['sampled'].append((sampled, self._gmac(tape)['executed']))
    return logs

  @property
  def _sampled_runs(self) -> int:
    """How often evaluation repeats each step with sampled gates, to compare COCO metrics."""
    config = self.task_config
    return config.sampled_evaluation_runs if config.use_coco_metrics else 0

  def _gmac(self, tape: step_tape.StepTape) -> dict[str, tf.Tensor]:
    """Returns the cost of a step; `target` is `[batch]` if the budget has one per image."""
    record = tape.routing()
    if record is None:
      raise ValueError('Nothing in the model recorded its routing.')
    summary = routing_logs.cost_summary(record, self._budgets.target)
    if tape.terms and tape.terms.target is not None:
      summary['target'] = tape.terms.target / _GIGA
    return summary

  def aggregate_logs(self, state: Any = None, step_outputs: Any = None) -> Any:
    """Adds the logs of a validation step to the state: Model Garden's, and those of routing."""
    if state is None:
      state = evaluation_state.EvaluationState(self, self._sampled_runs)
    state.model_garden = super().aggregate_logs(state.model_garden, step_outputs)
    for kind, values in step_outputs.get('routing', {}).items():
      for name, replicas in values.items():
        state.add(f'{kind}/{name}', replicas)
    if state.picture_inputs is None and 'picture_inputs' in step_outputs:
      state.picture_inputs = routing_logs.first_replica(step_outputs['picture_inputs'])
    for run, (outputs, executed) in enumerate(step_outputs.get('sampled', [])):
      state.add('sampled/gmac', executed)
      with state.evaluator_of_run(run):
        state.sampled[run] = super().aggregate_logs(state.sampled[run], outputs)
    return state

  def reduce_aggregated_logs(self, aggregated_logs: evaluation_state.EvaluationState,
                             global_step: Any | None = None) -> dict[str, Any]:
    """Adds cost, open ratios and the results with sampled gates to the evaluation's logs."""
    logs = super().reduce_aggregated_logs(aggregated_logs.model_garden, global_step)
    values = {name: np.concatenate(batches) for name, batches in aggregated_logs.values.items()}
    if not values:
      return logs
    sizes = values.pop('image/size')
    if self._static_cost:
      values.update(routing_logs.network_gmac(values['gmac/executed'], sizes, self._static_cost))
    logs.update(routing_logs.evaluation_logs(values, self._limits, self._samples_gates))
    if aggregated_logs.picture_inputs:
      logs.update(routing_logs.pictures(**aggregated_logs.picture_inputs))
    runs = []
    for run, state in enumerate(aggregated_logs.sampled):
      with aggregated_logs.evaluator_of_run(run):
        runs.append(super().reduce_aggregated_logs(state, global_step))
    if runs:
      logs['routing/sampled/gmac'] = float(np.mean(values['sampled/gmac']))
      logs.update({f'routing/sampled/{name}': float(np.mean([run[name] for run in runs]))
                   for name in runs[0] if not name.startswith('image/')})
    return logs


def _step(inputs: Any, number: tf.Tensor | None = None, budget: tf.Tensor | float = 1.0
          ) -> budgets.Step:
  """Returns what is known of the step that gets `inputs`, `(images, labels)`."""
  height, width = inputs[0].shape[1:3]
  if height is None or width is None:
    raise ValueError('The size of the images is not known while a step is traced: with '
                     'task.resize.rule=paper train by python -m official_ext.train, or take the '
                     'next batch outside of the tf.function.')
  return budgets.Step((height, width), number, budget)


def _budget_logs(tape: step_tape.StepTape) -> dict[str, dict[str, tf.Tensor]]:
  """Returns the losses and shares of all budgets of a step, for the logs."""
  if tape.terms is None:
    return {}
  return {'loss': tape.terms.losses, 'share': tape.terms.shares}


def _no_image_losses() -> tf.Tensor:
  raise ValueError('Evaluation has no losses of single images.')


def _complete_record(tape: routing.RoutingTape,
                     model: tf_keras.Model) -> routing.Routing | None:
  """Returns what a tape holds after checking that every routed layer is on it."""
  routed.check_complete(tape, model)
  return tape.routing()
