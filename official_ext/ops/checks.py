"""Checks of arguments, with errors that name the argument."""
from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import math
import types
import typing
from typing import Any

_NOWHERE_ELSE: Mapping[str, str] = {}
_TYPE_NAMES = {
    bool: 'true or false', int: 'a whole number', float: 'a finite number', str: 'a text'}


class ArgumentError(ValueError):
  """An argument has a value that is not allowed.

  The message names the argument as a caller in Python knows it.  A factory that builds from a
  config adds the field to change, see `naming_field`.

  Attributes:
    argument: name of the argument; `gate.type` for a field of a record that is an argument; empty
      if only the message is known.
  """

  def __init__(self, argument: str, message: str = ''):
    # Keras rebuilds an exception that leaves `call` from its message alone.
    super().__init__(message or argument)
    self.argument = argument if message else ''


class FieldError(ValueError):
  """Options of a config have values that are not allowed; the message names the fields to change.

  Commands print the message alone.
  """
  # AutoGraph rebuilds an exception that leaves a traced function only if it has this one.
  __init__ = Exception.__init__


def check_one_of(argument: str, value: Any, allowed: Iterable[Any]) -> None:
  """Raises an `ArgumentError` unless a value is one of those that are allowed.

  Args:
    argument: name of the argument.
    value: what was given.
    allowed: all values that are allowed.
  """
  allowed = list(allowed)
  if value not in allowed:
    raise ArgumentError(
        argument, f'{argument} is {value!r}; allowed are {", ".join(map(repr, allowed))}.')


def check_positive(argument: str, value: float) -> None:
  """Raises an `ArgumentError` unless a number is positive.

  Args:
    argument: name of the argument.
    value: the number that was given.
  """
  if not value > 0:
    raise ArgumentError(argument, f'{argument} is {value!r}; it must be positive.')


def check_range(argument: str, value: float, least: float, most: float = math.inf) -> None:
  """Raises an `ArgumentError` unless a number lies between two others, or is one of them.

  Args:
    argument: name of the argument.
    value: the number that was given.
    least: the smallest allowed number.
    most: the largest allowed number.
  """
  if not least <= value <= most:
    limits = f'at least {least}' if most == math.inf else f'in [{least}, {most}]'
    raise ArgumentError(argument, f'{argument} is {value!r}; it must be {limits}.')


def check_maps(argument: str, shape: Any) -> None:
  """Raises an `ArgumentError` unless a tensor is maps of features with a known number of channels.

  Args:
    argument: name of the argument.
    shape: its `tf.TensorShape`.
  """
  if shape.rank != 4 or shape[-1] is None:
    raise ArgumentError(
        argument, f'{argument} has the shape {shape}; it must be [batch, height, width, channels], '
        'and the number of channels known.')


def check_types(record: type, values: Mapping[str, Any], prefix: str = '') -> None:
  """Raises an `ArgumentError` unless options have the types of the fields of a dataclass.

  Model Garden takes `two` for a number, and 2 for true.  Numbers with a fraction may be whole, and
  must be finite.  Of fields of other types than truth values, numbers, texts, lists of them and
  dataclasses nothing is checked.

  Args:
    record: a dataclass.
    values: options by name; those that are no fields are not checked.
    prefix: what precedes names of arguments, of options within another record.
  """
  hints = typing.get_type_hints(record)
  for name in hints.keys() & values.keys():
    hint, value = hints[name], values[name]
    if dataclasses.is_dataclass(hint):
      if not isinstance(value, Mapping):
        raise ArgumentError(
            f'{prefix}{name}', f'{prefix}{name} is {value!r}; it must be a record of options.')
      check_types(typing.cast(type, hint), value, f'{prefix}{name}.')
    elif not has_type(value, hint):
      raise ArgumentError(
          f'{prefix}{name}', f'{prefix}{name} is {value!r}; it must be {type_name(hint)}.')


def has_type(value: Any, hint: Any) -> bool:
  """Returns whether a value has the type of a field, or that type is one that is not checked.

  Args:
    value: what was given.
    hint: a type as `typing.get_type_hints` gives it; see `check_types`.
  """
  arguments = typing.get_args(hint)
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return any(has_type(value, each) for each in arguments)
  if typing.get_origin(hint) is list:
    return isinstance(value, (list, tuple)) and all(has_type(each, *arguments) for each in value)
  if hint is types.NoneType:
    return value is None
  if hint not in _TYPE_NAMES:
    return True
  if isinstance(value, bool) or hint is not float:
    return type(value) is hint
  return isinstance(value, (int, float)) and math.isfinite(value)


def type_name(hint: Any) -> str:
  """Returns the values that a field of a type may have, in words."""
  arguments = typing.get_args(hint)
  if typing.get_origin(hint) is list:
    return f'a list, each of it {type_name(*arguments)}'
  if arguments:
    return ' or '.join(map(type_name, arguments))
  return 'null' if hint is types.NoneType else _TYPE_NAMES.get(hint, hint.__name__)


@contextlib.contextmanager
def naming_record(record: str) -> Iterator[None]:
  """Adds the name of a record to the arguments that an `ArgumentError` names.

  A layer whose argument `gate` is a record of options builds the gate in a
  `with naming_record('gate')` block, so that an error for `type` names `gate.type`.  Messages
  must begin with the name of the argument.

  Args:
    record: name of the argument that is a record.

  Raises:
    ArgumentError: the body raised an `ArgumentError`.
  """
  try:
    yield
  except ArgumentError as error:
    raise ArgumentError(f'{record}.{error.argument}', f'{record}.{error}') from error


@contextlib.contextmanager
def naming_field(prefix: str, elsewhere: Mapping[str, str] = _NOWHERE_ELSE) -> Iterator[None]:
  """Adds to an `ArgumentError` which field of a config has to change.

  Args:
    prefix: path of the record of options that becomes arguments, such as `decoder.dyfpn`.
    elsewhere: argument -> path of its field, for arguments that come from other records.

  Raises:
    FieldError: the body raised an `ArgumentError`; the message ends with the field to change.
  """
  try:
    yield
  except ArgumentError as error:
    field = elsewhere.get(error.argument, f'{prefix}.{error.argument}'.rstrip('.'))
    raise FieldError(f'{error} Change {field}.') from error
