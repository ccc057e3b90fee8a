"""What budgets add to the loss of a detection task, and to its logs."""
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf, tf_keras

from official_ext.configs import options
from official_ext.losses import path_similarity
from official_ext.losses import scale_budget
from official_ext.modeling.layers import routed
from official_ext.ops import routing

KINDS = ('share', 'fixed', 'scale_aware', 'loss_aware')
# Images whose losses the loss-aware budget remembers (CADDet, section 4.2.1).
_HISTORY = 100


class Step(NamedTuple):
  """What one step of a task knows.

  Attributes:
    image_size: `(height, width)` of the network's input, in pixels.
    number: int64 scalar, the number of the training step; None in evaluation.
  """
  image_size: Tuple[int, int]
  number: Optional[tf.Tensor] = None

  @property
  def is_training(self) -> bool:
    """Whether the step trains."""
    return self.number is not None


class Terms(NamedTuple):
  """What a budget makes of a batch.

  Attributes:
    losses: name -> float32 scalar, as it enters the total loss.
    target: float32 `[batch]`, the cost that is wanted, in multiply-adds; None: the
      same share of what gates can save for all.
  """
  losses: Dict[str, tf.Tensor]
  target: Optional[tf.Tensor] = None


def needs_objects(config: options.BudgetConfig) -> bool:
  """Whether the losses depend on what is in the image: boxes, or the loss of each image."""
  return bool(config.path_similarity.weight) or (
      bool(config.weight) and config.kind in ('scale_aware', 'loss_aware'))


def check(config: options.BudgetConfig) -> None:
  """Raises a ValueError that names a field which is out of range."""
  if config.kind not in KINDS:
    raise ValueError(f'budget kind is {config.kind!r}; allowed are {", ".join(KINDS)}: change '
                     'task.budget.kind.')
  check_budget(config.target, config.reduction, config.distance)
  if not 0 < config.ratio <= 1:
    raise ValueError(f'budget ratio is {config.ratio}; it is a share of the cost of the backbone, '
                     'above 0 and at most 1: change task.budget.ratio.')
  if config.start_step < 0:
    raise ValueError(f'budget start step is {config.start_step}; it is the number of a training '
                     'step, from 0: change task.budget.start_step.')
  scale_budget.check_bounds(config.scale_bounds)
  path_similarity.check_range(config.path_similarity.minimum, config.path_similarity.maximum)


def check_budget(target: float, reduction: str, distance: str = 'squared') -> None:
  """Raises a ValueError for a target outside [0, 1], an unknown reduction or distance."""
  if not 0 <= target <= 1:
    raise ValueError(f'budget target is {target}; it is a share of the cost that can be saved, '
                     'between 0 (all shut) and 1 (all open): change task.budget.target.')
  if reduction not in ('mean', 'sum'):
    raise ValueError(f'budget reduction is {reduction!r}; allowed are `mean` and `sum`: change '
                     'task.budget.reduction.')
  if distance not in ('squared', 'absolute'):
    raise ValueError(f'budget distance is {distance!r}; allowed are `squared` and `absolute`: '
                     'change task.budget.distance.')


def budget_loss(record: routing.Routing, target: float, reduction: str = 'mean',
                distance: str = 'squared') -> tf.Tensor:
  """Distance of the cost from a budget, per image.

  Squared it is the loss of DyFPN (eqs. 6-8); absolute, with a target of 0, the share itself, it
  is that of the dynamic head (eqs. 4-5).

  Args:
    record: what a tape returned.
    target: the wanted share of what gates can save (alpha), in [0, 1].
    reduction: `mean` or `sum` over the images.
    distance: `squared` or `absolute`.

  Returns:
    A float32 scalar.
  """
  check_budget(target, reduction, distance)
  share = tf.math.divide_no_nan(record.expected - record.minimum,
                                record.maximum - record.minimum)
  loss = tf.square(share - target) if distance == 'squared' else tf.abs(share - target)
  return tf.reduce_mean(loss) if reduction == 'mean' else tf.reduce_sum(loss)


class Budget:
  """The losses of a task's budget.

  Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
  https://arxiv.org/abs/2012.04265, sections 3.2 and 3.3; of kind `share`, DyFPN's and the
  dynamic head's, see `budget_loss`.
  """

  def __init__(self, config: options.BudgetConfig):
    """Checks the options.

    Args:
      config: `task.budget`.

    Raises:
      ValueError: an option that is not allowed.
    """
    check(config)
    self._options = config
    self._backbone = None
    self._history = None

  @property
  def names(self) -> Sequence[str]:
    """Names of the losses that there are."""
    weights = {'budget': self._options.weight,
               'path_similarity': self._options.path_similarity.weight}
    return [name for name, weight in weights.items() if weight]

  def attach(self, model: tf_keras.Model) -> None:
    """Prepares for the losses of a model; the checkpoints of the model hold what is remembered.

    Args:
      model: with a `backbone`.

    Raises:
      ValueError: the model does not route, or the backbone does not count its cost.
    """
    options = self._options
    if options.path_similarity.weight and not routed.routed_layers(model):
      raise ValueError(f'task.budget.path_similarity.weight is {options.path_similarity.weight}, '
                       'and nothing in the model is routed: make it 0, or change task.model.')
    if not options.weight or options.kind == 'share':
      return
    backbone = model.backbone
    if not (isinstance(backbone, routed.RoutedLayer) and backbone.has_soft_cost):
      raise ValueError(f'task.budget.kind is {options.kind!r}: its target is a share of the cost '
                       'of the backbone caddet: change task.budget.kind to share, or '
                       'task.model.backbone.type to caddet.')
    self._backbone = backbone
    if options.kind == 'loss_aware':
      # Every replica writes the same losses into its own copy.
      model.loss_history = tf.Variable(
          scale_budget.empty_history(_HISTORY), trainable=False, name='loss_history',
          synchronization=tf.VariableSynchronization.ON_READ,
          aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
      self._history = model.loss_history

  def terms(self, record: routing.Routing, step: Step, labels: Mapping[str, Any],
            image_losses: Callable[[], tf.Tensor]) -> Terms:
    """Returns the losses of a batch.

    Args:
      record: what a tape holds of the batch.
      step: what the step knows.
      labels: of the batch, with `boxes` if the losses need objects, see `needs_objects`.
      image_losses: returns the detection loss of each image, `[batch]`.
    """
    options, losses, target = self._options, {}, None
    is_on = tf.constant(1.0)
    if step.number is not None:
      is_on = tf.cast(step.number >= options.start_step, tf.float32)
    if options.weight and options.kind == 'share':
      losses['budget'] = is_on * options.weight * budget_loss(
          record, options.target, options.reduction, options.distance)
    elif options.weight:
      total = float(self._backbone.total_cost(*step.image_size))
      share = self._target(step, labels, image_losses)
      target = share * total * tf.ones_like(record.executed)
      losses['budget'] = is_on * options.weight * scale_budget.cost_loss(
          record.soft_cost / total, share)
    if options.path_similarity.weight:
      losses['path_similarity'] = (
          is_on * options.path_similarity.weight * self._path_similarity(record, labels))
    return Terms(losses, target)

  def _target(self, step: Step, labels: Mapping[str, Any],
              image_losses: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns C_expect as a share of C_tot: `[batch]`, or a scalar."""
    options = self._options
    if options.kind == 'fixed':
      return tf.constant(options.ratio)
    if options.kind == 'scale_aware':
      return scale_budget.scale_target(self.presence(labels), options.ratio)
    losses = tf.stop_gradient(image_losses())
    target = scale_budget.loss_target(losses, self._history, options.ratio,
                                      len(options.scale_bounds) + 1)
    if step.is_training:
      gathered = path_similarity.gather_replicas(losses)
      self._history.assign(scale_budget.remember(self._history, gathered))
    return target

  def presence(self, labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns which scales the `boxes` of each image have: float32 `[batch, scales]`."""
    return scale_budget.scales_present(labels['boxes'], self._options.scale_bounds)

  def _path_similarity(self, record: routing.Routing, labels: Mapping[str, Any]) -> tf.Tensor:
    paths, presence = (path_similarity.gather_replicas(values)
                    for values in (_paths(record), self.presence(labels)))
    options = self._options.path_similarity
    return path_similarity.loss(paths, presence, options.minimum, options.maximum)


def _paths(record: routing.Routing) -> tf.Tensor:
  """Returns the gates that are one number, or a choice, per image: `[batch, gates]`."""
  gates = [gate for gate in record.gates.values() if gate.shape.rank < 3]
  return tf.concat([gate if gate.shape.rank == 2 else gate[:, None] for gate in gates], axis=1)
