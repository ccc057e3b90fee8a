"""The budgets of a detection task: one for the whole network, or one for each of several parts."""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import options
from official_ext.losses import budget_checks
from official_ext.losses import budgets
from official_ext.losses import drawn_budget
from official_ext.losses import scale_budget
from official_ext.ops import checks
from official_ext.ops import routing


class TaskTerms(NamedTuple):
  """Losses, shares and target of all budgets of a task, for one batch.

  Attributes:
    losses: name -> float32 scalar, weighted, as it enters the total loss.
    shares: `<part>/executed`, `<part>/expected` and `<part>/target` -> float32 `[batch]`; see
      `budgets.Shares`.
    target: float32 `[batch]`, the wanted cost in multiply-adds; None with several budgets, and if
      the target is the same share of what gates can save for all images.
  """
  losses: dict[str, tf.Tensor]
  shares: dict[str, tf.Tensor]
  target: tf.Tensor | None = None


def needs_objects(task_config: Any) -> bool:
  """Returns whether a budget depends on the objects of an image or on its detection loss.

  Args:
    task_config: options of a task, with `budget` and `budgets`.
  """
  return any(budgets.needs_objects(config) for config in _configs(task_config).values())


def scale_bounds(task_config: Any) -> Sequence[float]:
  """Returns the bounds of the scales of objects: of the first budget that needs them.

  Args:
    task_config: options of a task, with `budget` and `budgets`.
  """
  configs = list(_configs(task_config).values())
  return next((config for config in configs if budgets.needs_objects(config)),
              configs[0]).scale_bounds


def _configs(task_config: Any) -> dict[str, options.BudgetConfig]:
  """Returns path of the field -> options of each budget of a task."""
  if task_config.budgets:
    return {f'task.budgets[{index}]': config for index, config in enumerate(task_config.budgets)}
  return {'task.budget': task_config.budget}


def _check_list(task_config: Any) -> None:
  """Checks what the class of a single budget cannot: fields of the list, and both forms at once.

  Raises:
    FieldError: names the field to change.
  """
  _check_records(task_config.budgets)
  short = task_config.budget
  for field, weight in (('weight', short.weight),
                        ('path_similarity.weight', short.path_similarity.weight),
                        ('information.weight', short.information.weight)):
    if weight:
      raise checks.FieldError(
          f'task.budgets is given, and task.budget.{field} is {weight}; a task has one or the '
          f'other. Change task.budget.{field} to 0, or put that budget into task.budgets.')
  for index, config in enumerate(task_config.budgets):
    for path, given, known in (('', config, options.BudgetConfig),
                               ('path_similarity.', config.path_similarity,
                                options.PathSimilarityConfig),
                               ('information.', config.information,
                                options.InformationConfig)):
      # Model Garden takes any field within a list.
      allowed = [field.name for field in dataclasses.fields(known)]
      unknown = sorted(set(given.as_dict()) - set(allowed))
      if unknown:
        raise checks.FieldError(
            f'task.budgets[{index}].{path}{unknown[0]} is not known; the fields are '
            f'{", ".join(allowed)}.')


def _check_records(given: Any) -> None:
  """Checks that Model Garden, which takes any value, was given a list of records of options."""
  if not isinstance(given, (list, tuple)):
    raise checks.FieldError('task.budgets is no list; it must be a list of records of options, '
                            'such as task.budgets=[{part: decoder, weight: 0.2}].')
  for index, config in enumerate(given):
    for name, value in (('', config), *((f'.{name}', getattr(config, name, None))
                                        for name in ('path_similarity', 'information'))):
      if not isinstance(value, hyperparams.Config):
        raise checks.FieldError(f'task.budgets[{index}]{name} is {value!r}; it must be a record of '
                                'options.')


def _drawn_alike(task_config: Any) -> options.BudgetConfig | None:
  """Returns the options of a budget that is drawn; None without one.

  Raises:
    FieldError: budgets of several parts are drawn differently; a step has one for all parts.
  """
  drawn = {field: config for field, config in _configs(task_config).items()
           if config.kind == 'drawn'}
  first = next(iter(drawn.values()), None)
  for field, config in drawn.items():
    for name in ('draw_range', 'full_every', 'shrink_steps'):
      given, wanted = getattr(config, name), getattr(first, name)
      if given != wanted:
        raise checks.FieldError(
            f'{field}.{name} is {given}, and that of another part is {wanted}; each step draws one '
            f'budget for all parts. Change {field}.{name}.')
  return first


class TaskBudgets:
  """The losses that the budgets of a task add to its own.

  `task.budget` is the short form of one budget.  Its losses are named `budget`, `path_similarity`
  and `information`.  Those of `task.budgets` have the part in their name, as in `budget/decoder`.

  Attributes:
    target: the wanted share of what all gates together can save; None if the task has a budget of
      a part only, or several.
  """

  def __init__(self, task_config: Any):
    """Checks the options.

    Args:
      task_config: options of a task, with `budget` and `budgets`.

    Raises:
      FieldError: both forms at once, two budgets of one part, or an option that is not allowed;
        names the field.
    """
    if task_config.budget is None:
      raise checks.FieldError(
          'task.budget is null; it must be a record of options. For no budget change '
          'task.budget.weight to 0.')
    if task_config.budgets:
      _check_list(task_config)
    self._budgets: dict[str, budgets.BudgetLosses] = {}
    for field, config in _configs(task_config).items():
      with checks.naming_field(field):
        self._budgets[field] = budgets.BudgetLosses(config)
    parts = [budget.part for budget in self._budgets.values()]
    for index, part in enumerate(parts):
      if part in parts[:index]:
        raise checks.FieldError(
            f'task.budgets has two budgets of the part {part!r}; give each part one. '
            f'Change task.budgets[{index}].part.')
    self._is_list = bool(task_config.budgets)
    short = task_config.budget
    is_whole = not self._is_list and (
        short.part == 'all' or short.kind not in budget_checks.SHARE_KINDS)
    self.target = short.target if is_whole and short.kind != 'drawn' else None
    self._drawn = _drawn_alike(task_config)
    self._scale_bounds = scale_bounds(task_config)

  def draw(self, number: tf.Tensor) -> tf.Tensor | None:
    """Returns the budget of a training step, a float32 scalar; None if no budget is drawn.

    Args:
      number: int64 scalar, the number of the step.
    """
    if self._drawn is None:
      return None
    return drawn_budget.draw(number, self._drawn.draw_range, self._drawn.full_every,
                             self._drawn.shrink_steps)

  @property
  def loss_names(self) -> Sequence[str]:
    """Names of the losses of all budgets."""
    return [self._name(name, budget) for budget in self._budgets.values()
            for name in budget.names]

  @property
  def share_names(self) -> Sequence[str]:
    """Names of the shares that `terms` returns if the objects are known."""
    return [f'{budget.part}/{field}' for budget in self._budgets.values()
            if 'budget' in budget.names for field in budgets.Shares._fields]

  def _name(self, name: str, budget: budgets.BudgetLosses) -> str:
    return f'{name}/{budget.part}' if self._is_list else name

  def attach(self, model: tf_keras.Model) -> None:
    """Prepares for the losses of a model; see `BudgetLosses.attach`.

    Args:
      model: a detector with a `backbone`.

    Raises:
      FieldError: a budget does not fit the model; names the field.
    """
    for field, budget in self._budgets.items():
      with checks.naming_field(field, {
          'kind': f'{field}.kind or task.model.backbone.type',
          **{name: f'{field}.{name} or task.model'
             for name in ('part', 'weight', 'path_similarity.weight', 'information.weight')}}):
        budget.attach(model)
    drawn_budget.check_model(model, {
        budget.part: field for field, budget in self._budgets.items() if budget.draws})

  def terms(self, records: Mapping[str, routing.Routing], step: budgets.Step,
            boxes: tf.Tensor | None, image_losses: Callable[[], tf.Tensor]) -> TaskTerms:
    """Returns the losses of a batch; the arguments are those of `BudgetLosses.terms`."""
    all_terms = {field: budget.terms(records, step, boxes, image_losses)
                 for field, budget in self._budgets.items()}
    losses: dict[str, tf.Tensor] = {}
    shares: dict[str, tf.Tensor] = {}
    for field, terms in all_terms.items():
      budget = self._budgets[field]
      losses.update({self._name(name, budget): loss for name, loss in terms.losses.items()})
      if terms.shares is not None:
        shares.update({f'{budget.part}/{name}': value
                       for name, value in terms.shares._asdict().items()})
    target = all_terms['task.budget'].target if self.target is not None else None
    return TaskTerms(losses, shares, target)

  def presence(self, boxes: tf.Tensor) -> tf.Tensor:
    """Returns which scales the boxes of each image have: float32 `[batch, scales]`.

    Args:
      boxes: float32 `[batch, instances, 4]` in pixels.
    """
    return scale_budget.scales_present(boxes, self._scale_bounds)
