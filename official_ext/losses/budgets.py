"""The losses that the budget of one part of a detector adds to those of its task."""
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf, tf_keras

from official_ext.configs import options
from official_ext.losses import budget_checks
from official_ext.losses import information
from official_ext.losses import path_similarity
from official_ext.losses import replicas
from official_ext.losses import scale_budget
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import routing

# How many losses of images the loss-aware budget remembers (CADDet, section 4.2.1).
_HISTORY = 100


class Step(NamedTuple):
  """Facts about one step of a task that its losses may depend on.

  Attributes:
    image_size: `(height, width)` of the network's input, in pixels.
    number: int64 scalar, the number of the training step; None in evaluation.
    budget: float32 scalar in [0, 1], the budget that the network was given; 1 without one.
  """
  image_size: tuple[int, int]
  number: tf.Tensor | None = None
  budget: tf.Tensor | float = 1.0

  @property
  def is_training(self) -> bool:
    """Whether the step trains."""
    return self.number is not None


class Shares(NamedTuple):
  """The cost of each image as the share that a budget is about, float32 `[batch]`.

  For the kinds `share` and `drawn` it is the share of what the gates of the part can save, for the
  other kinds the share of the cost of the backbone with every path open.

  Attributes:
    executed: the share that runs.
    expected: the share that the loss pulls on.
    target: the wanted share.
  """
  executed: tf.Tensor
  expected: tf.Tensor
  target: tf.Tensor


class Terms(NamedTuple):
  """Losses, shares and target of a budget, for one batch.

  Attributes:
    losses: name -> float32 scalar, weighted, as it enters the total loss.
    shares: of each image; None without a weight, or if the target needs objects and there are
      none.
    target: float32 `[batch]`, the wanted cost in multiply-adds; None if the target is the same
      share of what gates can save for all images.
  """
  losses: dict[str, tf.Tensor]
  shares: Shares | None = None
  target: tf.Tensor | None = None


def needs_objects(config: options.BudgetConfig) -> bool:
  """Returns whether the losses depend on the objects of an image or on its detection loss."""
  return bool(config.path_similarity.weight) or (
      bool(config.weight) and config.kind in ('scale_aware', 'loss_aware'))


def budget_loss(record: routing.Routing | None, target: tf.Tensor | float, reduction: str = 'mean',
                distance: str = 'squared') -> tf.Tensor:
  """Returns how far the cost of images is from a budget.

  The squared distance is the loss of DyFPN (eqs. 6-8).  The absolute distance from a target of
  0, which is the share itself, is the loss of the dynamic head (eqs. 4-5).

  Args:
    record: what a tape returned; None, which it returns if nothing was recorded, is an error.
    target: the wanted share of what gates can save (alpha), in [0, 1].
    reduction: `mean` or `sum` of the distances of the images, or `mean_share`, the distance of
      their mean share, over all replicas.
    distance: `squared` or `absolute`.

  Returns:
    A float32 scalar; of an empty batch it has no gradient.

  Raises:
    ArgumentError: an argument that is not allowed, or no record.
  """
  budget_checks.check_budget(target, reduction, distance)
  if record is None:
    raise checks.ArgumentError(
        'record', 'record is None: no layer with gates recorded on the tape. It must be open in '
        'this thread around the call of the model, and before a tf.function that calls it is '
        'traced.')
  target = tf.cast(target, tf.float32)
  share = _share(record, record.expected)
  if reduction == 'mean_share':
    share = replicas.mean_or_zero(path_similarity.gather_replicas(share))
  loss = tf.square(share - target) if distance == 'squared' else tf.abs(share - target)
  return tf.reduce_sum(loss) if reduction == 'sum' else replicas.mean_or_zero(loss)


def _share(record: routing.Routing, cost: tf.Tensor) -> tf.Tensor:
  """Returns a cost, `[batch]`, as the share of what gates can save."""
  return tf.math.divide_no_nan(cost - record.minimum, record.maximum - record.minimum)


class BudgetLosses:
  """The losses that the budget of one part of a detector adds to those of its task.

  Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
  https://arxiv.org/abs/2012.04265, sections 3.2 and 3.3.  The kind `share` is the budget of
  DyFPN and of the dynamic head instead; see `budget_loss`.  `drawn` is this budget with a target
  that the network is given.

  Attributes:
    part: one of `budget_checks.PARTS`; kinds that are for the backbone `caddet` are about the
      `backbone`.
    draws: whether the target is drawn at each step.
  """

  def __init__(self, config: options.BudgetConfig):
    """Checks the options.

    Args:
      config: options of the budget, `task.budget` in an experiment.

    Raises:
      ArgumentError: an option that is not allowed; see `budget_checks.check`.
    """
    budget_checks.check(config)
    self._config = config
    self.part = config.part if config.kind in budget_checks.SHARE_KINDS else 'backbone'
    self.draws = config.kind == 'drawn'
    self._layers: list[str] = []
    self._path_layers: list[str] = []
    self._deciding_layers: list[str] = []
    self._backbone: routed.RoutedLayer | None = None
    self._history: tf.Variable | None = None

  @property
  def names(self) -> Sequence[str]:
    """Names of the losses, which are those with a weight."""
    weights = {'budget': self._config.weight,
               'path_similarity': self._config.path_similarity.weight,
               'information': self._config.information.weight}
    return [name for name, weight in weights.items() if weight]

  def attach(self, model: tf_keras.Model) -> None:
    """Prepares for the losses of a model.

    The loss-aware budget puts its history of losses into a variable of the model, so that the
    checkpoints of the model hold it.

    Args:
      model: a detector with a `backbone`.

    Raises:
      ArgumentError: the part lacks the gates, or the backbone the soft cost, that a loss needs.
    """
    config = self._config
    if config.weight and config.kind not in budget_checks.SHARE_KINDS:
      self._attach_backbone(model)
    if not self.names:
      return
    layers = self._gated_layers(model)
    self._layers = [layer.name for layer in layers]
    self._deciding_layers = [layer.name for layer in layers if layer.gate_names]
    if config.information.weight and not self._deciding_layers:
      raise checks.ArgumentError(
          'information.weight', f'information.weight is {config.information.weight}, but '
          f'{", ".join(self._layers)} decides by no gate; it must be 0.')
    if config.path_similarity.weight:
      paths = ([layer for layer in layers if layer.has_soft_cost]
               or [layer for layer in layers if layer.gate_names and layer.decides_for_images])
      if not paths:
        raise checks.ArgumentError(
            'path_similarity.weight', 'path_similarity.weight is '
            f'{config.path_similarity.weight}, but no gate decides for a whole image in '
            f'{", ".join(self._layers)}; it must be 0.')
      self._path_layers = [layer.name for layer in paths]
    budget_checks.check_learning(config, layers, self._path_layers)

  def _gated_layers(self, model: tf_keras.Model) -> list[routed.RoutedLayer]:
    """Returns the layers of the part with gates, or with a budget that is drawn.

    Raises:
      ArgumentError: the part has none.
    """
    by_part = {part: [layer for layer in layers
                      if layer.gate_names or (self.draws and layer.has_budget_input)]
               for part, layers in routed.layers_by_part(model).items()}
    layers = [layer for part, own in by_part.items() if self._config.part in (part, 'all')
              for layer in own]
    if layers:
      return layers
    config = self._config
    given = {'part': config.part} if config.part != 'all' else {
        'weight': config.weight, 'path_similarity.weight': config.path_similarity.weight,
        'information.weight': config.information.weight}
    argument, value = next((name, value) for name, value in given.items() if value)
    gated = [part for part, own in by_part.items() if own]
    raise checks.ArgumentError(
        argument, f'{argument} is {value!r}, but nothing there has gates that a budget could '
        f'shut; parts of this model with gates: {", ".join(gated) or "none"}.')

  def _attach_backbone(self, model: tf_keras.Model) -> None:
    """Prepares for a target that is a share of the cost of the backbone."""
    backbone = model.backbone
    if not (isinstance(backbone, routed.RoutedLayer) and backbone.is_routed
            and backbone.has_soft_cost):
      raise checks.ArgumentError(
          'kind', f'kind is {self._config.kind!r}: its target is a share of the cost of the '
          'backbone `caddet` with routers; for other backbones the kind must be `share`.')
    self._backbone = backbone
    if self._config.kind == 'loss_aware':
      # Every replica writes the same losses into its own copy.
      model.loss_history = tf.Variable(
          scale_budget.empty_history(_HISTORY), trainable=False, name='loss_history',
          synchronization=tf.VariableSynchronization.ON_READ,
          aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
      self._history = model.loss_history

  def terms(self, records: Mapping[str, routing.Routing], step: Step, boxes: tf.Tensor | None,
            image_losses: Callable[[], tf.Tensor]) -> Terms:
    """Returns the losses of a batch.

    Args:
      records: name of each routed layer -> what it recorded of the batch.
      step: number of the step and size of the images.
      boxes: boxes of the objects, float32 `[batch, instances, 4]` in pixels; None if they are
        unknown, which leaves out what depends on them.
      image_losses: returns the detection loss of each image, `[batch]`; called by the kind
        `loss_aware` only.

    Raises:
      ValueError: `attach` was not called, or the backbone recorded no soft cost.
    """
    if self.names and not self._layers:
      raise ValueError('The budget knows no model: call attach first.')
    config, losses = self._config, {}
    shares, target = None, None
    is_on = _has_begun(step, config.start_step)
    if config.weight and config.kind in budget_checks.SHARE_KINDS:
      goal = step.budget if self.draws else config.target
      record = routing.merge({name: records[name] for name in self._layers})
      shares = Shares(_share(record, record.executed), _share(record, record.expected),
                      goal * tf.ones_like(record.executed))
      losses['budget'] = is_on * config.weight * budget_loss(
          record, goal, config.reduction, config.distance)
    elif self._backbone is not None and (boxes is not None or config.kind == 'fixed'):
      record = records[self._backbone.name]
      if record.soft_cost is None:
        raise ValueError(f'{self._backbone.name} recorded no soft cost.')
      total = float(self._backbone.total_cost(*step.image_size))
      share = self._target(step, boxes, image_losses)
      shares = Shares(record.executed / total, record.soft_cost / total,
                      share * tf.ones_like(record.executed))
      target = shares.target * total
      losses['budget'] = is_on * config.weight * scale_budget.cost_loss(shares.expected, share)
    if config.path_similarity.weight and boxes is not None:
      losses['path_similarity'] = is_on * config.path_similarity.weight * self._path_similarity(
          routing.merge({name: records[name] for name in self._path_layers}), boxes)
    if config.information.weight:
      begun = is_on * _has_begun(step, config.information.start_step)
      losses['information'] = -begun * config.information.weight * information.information(
          {name: records[name] for name in self._deciding_layers})
    return Terms(losses, shares, target)

  def _target(self, step: Step, boxes: tf.Tensor | None,
              image_losses: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns C_expect as a share of C_tot: `[batch]`, or a scalar."""
    config = self._config
    if config.kind == 'fixed':
      return tf.constant(config.ratio)
    if config.kind == 'scale_aware':
      return scale_budget.scale_target(self.presence(boxes), config.ratio)
    losses = tf.stop_gradient(image_losses())
    target = scale_budget.loss_target(losses, self._history, config.ratio,
                                      len(config.scale_bounds) + 1)
    if step.is_training and self._history is not None:
      gathered = path_similarity.gather_replicas(losses)
      self._history.assign(scale_budget.remember(self._history, gathered))
    return target

  def presence(self, boxes: tf.Tensor) -> tf.Tensor:
    """Returns which scales the boxes of each image have: float32 `[batch, scales]`."""
    return scale_budget.scales_present(boxes, self._config.scale_bounds)

  def _path_similarity(self, record: routing.Routing, boxes: tf.Tensor) -> tf.Tensor:
    paths, presence = (path_similarity.gather_replicas(values)
                       for values in (_image_gates(record), self.presence(boxes)))
    config = self._config.path_similarity
    return path_similarity.loss(paths, presence, config.minimum, config.maximum)


def _has_begun(step: Step, start: int) -> tf.Tensor:
  """Returns 1 from a training step on and in evaluation, 0 before it."""
  return tf.constant(1.0) if step.number is None else tf.cast(step.number >= start, tf.float32)


def _image_gates(record: routing.Routing) -> tf.Tensor:
  """Returns the gates that decide for a whole image, side by side: `[batch, gates]`."""
  gates = [gate for gate in record.gates.values() if not routing.is_per_position(gate)]
  return tf.concat([gate if gate.shape.rank == 2 else gate[:, None] for gate in gates], axis=1)
