"""Sets what gates do at each budget by images as inference gets them.

Training scales and crops images at random, so the logits of its gates are spread otherwise than
those of images as they are.  Gates that all read the backbone get thresholds from their logits.
Gates that read what other gates let pass get the shifts that a controller finds at inference.
"""
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import itertools
from typing import Any

import numpy as np
from official.modeling import optimization
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import budget_control
from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.utils import command_line

# Quantiles of so many images are off by 0.03 at most, in two of three cases.
MAX_IMAGES = 256
# All budgets are controlled by the same images: of different ones, some of a kind that is dear,
# they would spend unevenly.
_CONTROLLED_IMAGES = 128
BATCH_SIZE = 8
_BUDGETS = budget_control.KNOTS[1:-1]


class BudgetCalibration:
  """Calibrates a detector before each evaluation and at the end of a training.

  It is an action of Orbit's controller, which comes before the checkpoint is saved.  Where the
  optimizer averages weights (`trainer.optimizer_config.ema`), the averages, with which evaluations
  and `ema_checkpoints` are made, are calibrated too.  If it averages trainable weights alone, both
  have one set of shifts and thresholds, which is that of the averages.

  Attributes:
    trainer: Model Garden's, which is made after its actions; None before.
  """

  def __init__(self, params: Any, task: Any, strategy: tf.distribute.Strategy):
    """Initializes the action.

    Args:
      params: the experiment.
      task: its task.
      strategy: of the training.
    """
    self._params, self._task, self._strategy = params.trainer, task, strategy
    self.trainer: Any = None

  def __call__(self, output: Any) -> None:
    """Calibrates after a loop of steps, if it is time to.

    Args:
      output: of the loop; not used.
    """
    del output
    step = int(self.trainer.global_step.numpy())
    interval = self._params.validation_interval  # 0 or None: Orbit evaluates at the end
    if step >= self._params.train_steps or (interval and step % interval == 0):
      self._calibrate_weights()

  def _calibrate_weights(self) -> None:
    """Calibrates the weights and their averages, where there are any."""
    model, optimizer = self.trainer.model, self.trainer.optimizer
    is_averaging = isinstance(optimizer, optimization.ExponentialMovingAverage)
    if not (is_averaging and self._params.optimizer_config.ema.trainable_weights_only):
      calibrate(model, self._task, self._strategy)
    if is_averaging and can_calibrate(model):
      with _averages_of(optimizer, self._strategy):
        calibrate(model, self._task, self._strategy)


@contextlib.contextmanager
def _averages_of(optimizer: Any, strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Gives a model its averaged weights until the end; what is assigned inside is kept as theirs."""
  def swap() -> None:
    # The optimizer's own method does not work with the default strategy.
    with strategy.scope():
      strategy.run(optimizer._swap_weights)

  swap()
  try:
    yield
  finally:
    swap()


def calibrate(model: tf_keras.Model, task: Any, strategy: tf.distribute.Strategy) -> None:
  """Calibrates what takes a budget, by training images that are not augmented.

  Args:
    model: a detector; without layers that calibrate nothing happens.
    task: its task, which reads the images.
    strategy: of the training.
  """
  controlled, has_thresholds = _calibrated_parts(model)
  if not controlled and not has_thresholds:
    return
  data = task.task_config.train_data.replace(
      is_training=False, global_batch_size=BATCH_SIZE * strategy.num_replicas_in_sync,
      drop_remainder=False)
  with strategy.scope():
    # Backbones that are controlled change the features from which thresholds are set.
    if controlled:
      _control(model, strategy, strategy.distribute_datasets_from_function(
          lambda context: task.build_inputs(data, context).map(
              lambda images, labels: _filled(images)).repeat().take(
                  _CONTROLLED_IMAGES // BATCH_SIZE)))
    if has_thresholds:
      _set_thresholds(model, strategy, strategy.distribute_datasets_from_function(
          lambda context: task.build_inputs(data, context).map(
              lambda images, labels: images).take(MAX_IMAGES // BATCH_SIZE)))


def can_calibrate(model: tf_keras.Model) -> bool:
  """Returns whether a detector has gates that images calibrate."""
  return any(_calibrated_parts(model))


def calibrate_by(model: tf_keras.Model, batches: Callable[[], Iterator[tf.Tensor]],
                 number: int) -> None:
  """Calibrates what takes a budget by images that are at hand, and shows progress.

  Args:
    model: a detector for which `can_calibrate` is true.
    batches: returns the images as the network gets them, float32 `[batch, height, width, 3]` with
      up to `BATCH_SIZE` images; it is called again for every pass over the images.
    number: of batches.
  """
  controlled, has_thresholds = _calibrated_parts(model)
  strategy = tf.distribute.get_strategy()
  if controlled:
    endless = itertools.chain.from_iterable(batches() for _ in itertools.count())
    turns = max(_CONTROLLED_IMAGES // BATCH_SIZE, number)
    _control(model, strategy, command_line.progress(
        map(_filled, itertools.islice(endless, turns)), 'controlling budgets', turns))
  if has_thresholds:
    _set_thresholds(model, strategy, command_line.progress(
        batches(), 'reading gates', number))


def _calibrated_parts(model: tf_keras.Model) -> tuple[list[str], bool]:
  """Returns the parts that are controlled, and whether the decoder has thresholds."""
  parts = routed.layers_by_part(model)
  controlled = [part for part, layers in parts.items()
                if any(layer.controls_budget for layer in layers)]
  return controlled, any(layer.calibrates_budget for layer in parts['decoder'])


def _filled(images: tf.Tensor) -> tf.Tensor:
  """Returns a batch that has its first images again if it is smaller than the others.

  A batch of another size would be traced anew, which takes longer than its images.
  """
  return tf.gather(images, tf.range(BATCH_SIZE) % tf.shape(images)[0])


def _set_thresholds(model: tf_keras.Model, strategy: tf.distribute.Strategy,
                    batches: Iterable[Any]) -> None:
  """Sets the thresholds of a decoder by the logits of all images.

  Args:
    model: a detector.
    strategy: of the training.
    batches: of images, distributed over the replicas.
  """
  def logits_of(images: tf.Tensor) -> tf.Tensor:
    features: Mapping[str, tf.Tensor] = model.backbone(images, training=False)
    return model.decoder.budget_logits(features)

  compute = tf.function(
      lambda images: strategy.run(logits_of, args=(images,)), autograph=False)
  found = [np.asarray(value) for images in batches
           for value in strategy.experimental_local_results(compute(images))]
  model.decoder.calibrate_budget(np.concatenate(found))


def _control(model: tf_keras.Model, strategy: tf.distribute.Strategy, batches: Iterable[Any]
             ) -> None:
  """Moves the shifts of backbone and head, batch by batch, by the shares of inference.

  Args:
    model: a detector with parts that are controlled.
    strategy: of the training.
    batches: of images, distributed over the replicas.
  """
  parts = routed.layers_by_part(model)
  controls_head = any(layer.controls_budget for layer in parts['head'])
  # Where no part before the head follows a budget its features are the same at all budgets.
  is_shared = not any(
      layer.has_budget_input for layer in [*parts['backbone'], *parts['decoder']])

  def features_of(images: tf.Tensor) -> Any:
    features = model.backbone(images, training=False)
    return model.decoder(features, training=False) if controls_head and model.decoder else features

  def control(inputs: Any, budget: tf.Tensor, rate: tf.Tensor) -> None:
    with routing.spending(budget), budget_control.calibrating(rate):
      features = inputs if is_shared else features_of(inputs)
      if controls_head:
        model.head(features)

  compute = tf.function(
      lambda images: strategy.run(features_of, args=(images,)), autograph=False)
  step = tf.function(lambda *inputs: strategy.run(control, args=inputs), autograph=False)
  for number, images in enumerate(batches):
    inputs = compute(images) if is_shared else images
    for budget in _BUDGETS:
      step(inputs, tf.constant(budget, tf.float32),
           tf.constant(_rate(budget, number), tf.float32))


def _rate(budget: float, number: int) -> float:
  """Returns by how much the n-th batch of a budget moves a shift if the share is 1 off.

  Where logits are spread as a normal distribution a share b rises by about 1.7 b (1 - b) for each
  unit of the shift.  One over that, over the number of batches so far, leads to the shift of their
  mean share (Robbins and Monro, A Stochastic Approximation Method, 1951).  Counting starts with 2,
  because the first batches would move farthest.
  """
  return 1 / (1.7 * budget * (1 - budget)) / (number + 2)
