"""Checks of arguments, with errors that name the argument."""
from collections.abc import Iterable, Iterator, Mapping
import contextlib
from typing import Any

_NOWHERE_ELSE: Mapping[str, str] = {}


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
