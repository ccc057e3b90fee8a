"""Fields of Model Garden's optimizers and learning rates, which take any value.

A wrong one fails in Keras or TensorFlow, whose errors do not name it, or trains with a rate of NaN.
"""
import typing
from typing import Any

from official.modeling.optimization import optimizer_factory

from official_ext.ops import checks

# Parts of `trainer.optimizer_config` that have a type.
_PARTS = ('optimizer', 'learning_rate', 'warmup')
# Name of a field of any of them -> its smallest and its largest number.
_NUMBERS = {'clipnorm': (0, float('inf')), 'clipvalue': (0, float('inf')),
            'global_clipnorm': (0, float('inf')), 'momentum': (0, 1),
            'learning_rate': (0, float('inf')), 'initial_learning_rate': (0, float('inf')),
            'warmup_steps': (0, float('inf')), 'decay_steps': (1, float('inf'))}
_AVERAGES = 'trainer.optimizer_config.ema'
# From this `start_step` on averages start as copies of the weights: the first step is number 1.
_FIRST_COPY = 2
# Fields that have no default.
_NEEDED = ('learning_rate', 'initial_learning_rate', 'decay_steps', 'boundaries', 'values')


def check(config: Any) -> None:
  """Checks the chosen optimizer, learning rate and warm-up.

  Args:
    config: `trainer.optimizer_config` of an experiment.

  Raises:
    FieldError: a field has another type, or a number that is not allowed; the message names it.
  """
  for name in ('optimizer', 'learning_rate'):
    if not getattr(config, name).type:
      raise checks.FieldError(f'trainer.optimizer_config.{name}.type is null; it must be a name, '
                              f'such as {"sgd" if name == "optimizer" else "cosine"}.')
  # Model Garden lists some optimizers for which it has no code.
  there = sorted(name for name, optimizer in optimizer_factory.LEGACY_OPTIMIZERS_CLS.items()
                 if callable(optimizer))
  if config.optimizer.type not in there:
    raise checks.FieldError(
        f'trainer.optimizer_config.optimizer.type is {config.optimizer.type!r}, which Model Garden '
        f'does not have; it has {", ".join(there)}.')
  for part, path in _chosen(config):
    fields = part.as_dict()
    with checks.naming_field(path):
      checks.check_types(type(part), fields)
      for name in fields.keys() & set(_NEEDED):
        if fields[name] is None:
          raise checks.ArgumentError(name, f'{name} is null; it must be given.')
      for name in fields.keys() & _NUMBERS.keys():
        if isinstance(fields[name], (int, float)):  # Some schedules have lists of rates.
          checks.check_range(name, fields[name], *_NUMBERS[name])
      if 'boundaries' in fields and len(fields['values']) != len(fields['boundaries']) + 1:
        raise checks.ArgumentError(
            'values', f'values has {len(fields["values"])} rates; it must have '
            f'{len(fields["boundaries"]) + 1}, one more than boundaries has steps.')


def check_averages(config: Any, precision: str | None) -> None:
  """Checks the averages of weights, if there are any.

  Args:
    config: `trainer.optimizer_config` of an experiment.
    precision: `runtime.mixed_precision_dtype`.

  Raises:
    FieldError: a number is not allowed, or Model Garden cannot average with other options.
  """
  averages = config.ema
  if averages is None:
    return
  with checks.naming_field(_AVERAGES):
    checks.check_types(type(averages), averages.as_dict())
    checks.check_range('average_decay', averages.average_decay, 0, 1)
    checks.check_range('start_step', averages.start_step, 0)
  if averages.average_decay == 1:
    raise checks.FieldError(
        f'{_AVERAGES}.average_decay is 1, with which averages never move: it must be below.')
  if not averages.dynamic_decay and averages.start_step < _FIRST_COPY:
    raise checks.FieldError(
        f'{_AVERAGES}.dynamic_decay is false and start_step {averages.start_step}: averages would '
        f'start with zeros in the place of weights. Set start_step to {_FIRST_COPY} or more, or '
        'dynamic_decay to true.')
  if precision == 'float16':
    raise checks.FieldError(
        f'{_AVERAGES} is given and runtime.mixed_precision_dtype float16, whose loss scale does '
        f'not go with averages: set the precision to bfloat16 or float32, or {_AVERAGES} to null.')


def make_floats(config: Any) -> None:
  """Makes whole numbers floats where they may have a fraction.

  TensorFlow computes a schedule in the type of its first rate, and fails if that is whole.

  Args:
    config: `trainer.optimizer_config` of an experiment; changed.
  """
  for part, _ in _chosen(config):
    for name, hint in typing.get_type_hints(type(part)).items():
      value = getattr(part, name, None)
      if type(value) is int and float in (hint, *typing.get_args(hint)):
        setattr(part, name, float(value))


def _chosen(config: Any) -> list[tuple[Any, str]]:
  """Returns the chosen parts, each with the path of its field."""
  parts = [(getattr(config, name, None), f'trainer.optimizer_config.{name}') for name in _PARTS]
  return [(part.get(), f'{path}.{part.type}') for part, path in parts if part and part.type]
