"""What budgets add to the loss of a detection task, and to its logs."""
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence

import tensorflow as tf, tf_keras

from official_ext.configs import parts
from official_ext.ops import path_similarity
from official_ext.ops import routing
from official_ext.ops import scale_budget

KINDS = ('share', 'fixed', 'scale_aware', 'loss_aware')
# Images whose losses the loss-aware budget remembers (CADDet, section 4.2.1).
_HISTORY = 100


class Terms(NamedTuple):
  """What a budget makes of a batch.

  Attributes:
    losses: name -> float32 scalar, as it enters the total loss.
    target: float32 `[batch]`, the cost that is wanted, in multiply-adds; None: the
      same share of what gates can save for all.
  """
  losses: Dict[str, tf.Tensor]
  target: Optional[tf.Tensor] = None


def needs_objects(options: parts.Budget) -> bool:
  """Whether the losses depend on what is in the image: boxes, or the loss of each image."""
  return bool(options.path_similarity.weight) or (
      bool(options.weight) and options.kind in ('scale_aware', 'loss_aware'))


def check(options: parts.Budget) -> None:
  """Raises a ValueError that names a field which is out of range."""
  if options.kind not in KINDS:
    raise ValueError(f'budget kind is {options.kind!r}; allowed are {", ".join(KINDS)}: change '
                     'task.budget.kind.')
  routing.check_budget(options.target, options.reduction, options.distance)
  if not 0 < options.ratio <= 1:
    raise ValueError(f'budget ratio is {options.ratio}; it is a share of the cost of the backbone, '
                     'above 0 and at most 1: change task.budget.ratio.')
  if options.start_step < 0:
    raise ValueError(f'budget start step is {options.start_step}; it is the number of a training '
                     'step, from 0: change task.budget.start_step.')
  scale_budget.check_bounds(options.scale_bounds)
  path_similarity.check_range(options.path_similarity.minimum, options.path_similarity.maximum)


class Budget:
  """The losses of a task's budget.

  Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
  https://arxiv.org/abs/2012.04265, sections 3.2 and 3.3; of kind `share`, DyFPN's and the
  dynamic head's, see `routing.budget_loss`.
  """

  def __init__(self, options: parts.Budget):
    """Checks the options.

    Args:
      options: `task.budget`.

    Raises:
      ValueError: an option that is not allowed.
    """
    check(options)
    self._options = options
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
    if options.path_similarity.weight and not routing.routed_layers(model):
      raise ValueError(f'task.budget.path_similarity.weight is {options.path_similarity.weight}, '
                       'and nothing in the model is routed: make it 0, or change task.model.')
    if not options.weight or options.kind == 'share':
      return
    if not hasattr(model.backbone, 'costs'):
      raise ValueError(f'task.budget.kind is {options.kind!r}: its target is a share of the cost '
                       'of the backbone caddet: change task.budget.kind to share, or '
                       'task.model.backbone.type to caddet.')
    self._backbone = model.backbone
    if options.kind == 'loss_aware':
      # Every replica writes the same losses into its own copy.
      model.loss_history = tf.Variable(
          scale_budget.empty_history(_HISTORY), trainable=False, name='loss_history',
          synchronization=tf.VariableSynchronization.ON_READ,
          aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
      self._history = model.loss_history

  def terms(self, record: routing.Routing, labels: Mapping[str, Any],
            image_losses: Callable[[], tf.Tensor]) -> Terms:
    """Returns the losses of a batch.

    Args:
      record: what a tape holds of the batch.
      labels: `input_size`, `(height, width)` of the network's input; `step`, the number of
        the training step, missing in evaluation; and `boxes`, see `needs_objects`.
      image_losses: returns the detection loss of each image, `[batch]`.
    """
    options, losses, target = self._options, {}, None
    is_on = tf.cast(labels.get('step', options.start_step) >= options.start_step, tf.float32)
    if options.weight and options.kind == 'share':
      losses['budget'] = is_on * options.weight * routing.budget_loss(
          record, options.target, options.reduction, options.distance)
    elif options.weight:
      total = float(self._backbone.costs(*labels['input_size']).total)
      share = self._target(labels, image_losses)
      target = share * total * tf.ones_like(record.executed)
      losses['budget'] = is_on * options.weight * scale_budget.cost_loss(
          _net_cost(record) / total, share)
    if options.path_similarity.weight:
      losses['path_similarity'] = (
          is_on * options.path_similarity.weight * self._path_similarity(record, labels))
    return Terms(losses, target)

  def _target(self, labels: Mapping[str, Any], image_losses: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns C_expect as a share of C_tot: `[batch]`, or a scalar."""
    options = self._options
    if options.kind == 'fixed':
      return tf.constant(options.ratio)
    if options.kind == 'scale_aware':
      return scale_budget.scale_target(self.codes(labels), options.ratio)
    losses = tf.stop_gradient(image_losses())
    target = scale_budget.loss_target(losses, self._history, options.ratio,
                                      len(options.scale_bounds) + 1)
    if 'step' in labels:
      gathered = path_similarity.gather_replicas(losses)
      self._history.assign(scale_budget.remember(self._history, gathered))
    return target

  def codes(self, labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns which scales the `boxes` of each image have: float32 `[batch, scales]`."""
    return scale_budget.scale_codes(labels['boxes'], self._options.scale_bounds)

  def _path_similarity(self, record: routing.Routing, labels: Mapping[str, Any]) -> tf.Tensor:
    paths, codes = (path_similarity.gather_replicas(values)
                    for values in (_paths(record), self.codes(labels)))
    options = self._options.path_similarity
    return path_similarity.loss(paths, codes, options.minimum, options.maximum)


def _net_cost(record: routing.Routing) -> tf.Tensor:
  """Returns C_net of the supernet, `[batch]`."""
  return next(value for name, value in record.measures.items() if name.endswith('net_cost'))


def _paths(record: routing.Routing) -> tf.Tensor:
  """Returns the gates that are one number, or a choice, per image: `[batch, gates]`."""
  gates = [gate for gate in record.gates.values() if gate.shape.rank < 3]
  return tf.concat([gate if gate.shape.rank == 2 else gate[:, None] for gate in gates], axis=1)
