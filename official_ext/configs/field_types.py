"""Records, choices and truth values of an experiment, in whose place Model Garden takes anything.

A text in place of a record fails in code that reads its fields, and any text counts as true.
"""
from collections.abc import Iterator
import dataclasses
import difflib
import types
import typing
from typing import Any

from official.modeling import hyperparams
from official.modeling.hyperparams import oneof

from official_ext.ops import checks


def check_records(experiment: hyperparams.Config) -> None:
  """Checks that records hold records, and that choices name one of their alternatives.

  Args:
    experiment: its config.

  Raises:
    FieldError: a field holds something else; the message names it.
  """
  for record, path in _records(experiment, ''):
    if isinstance(record, oneof.OneOfConfig):
      _check_choice(record, path)
    for field, value, kind in _changed_values(record, path):
      if isinstance(kind, type) and issubclass(kind, hyperparams.Config):
        first = next(field.name for field in dataclasses.fields(kind))
        raise checks.FieldError(
            f'{field} is {"null" if value is None else repr(value)}; it is a record: set its '
            f'fields, such as {field}.{first}.')


def check_truth_values(experiment: hyperparams.Config) -> None:
  """Checks that fields that are true or false hold nothing else, also those that nothing reads.

  Args:
    experiment: its config.

  Raises:
    FieldError: a field holds something else; the message names it.
  """
  for record, path in _records(experiment, ''):
    for field, value, kind in _changed_values(record, path):
      if kind is bool and value not in (False, True, None):  # 0 and 1 are equal to them
        raise checks.FieldError(f'{field} is {value!r}; it must be true or false.')


def _records(record: hyperparams.Config, path: str) -> Iterator[tuple[hyperparams.Config, str]]:
  """Yields a record and all records in it, each with its path."""
  yield record, path
  for name, value in vars(record).items():
    field = f'{path}.{name}'.lstrip('.')
    entries = enumerate(value) if isinstance(value, (list, tuple)) else ()
    inner = [(value, field), *((entry, f'{field}[{number}]') for number, entry in entries)]
    for each, place in inner:
      if isinstance(each, hyperparams.Config):
        yield from _records(each, place)


def _changed_values(record: hyperparams.Config, path: str) -> Iterator[tuple[str, Any, Any]]:
  """Yields path, value and type of fields that hold no record, and not their default.

  The type is without null, and None if there are several: some fields may be a text or a record.
  """
  hints = typing.get_type_hints(type(record))
  for field in dataclasses.fields(record):
    value = getattr(record, field.name)
    hint = hints[field.name]
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = set(typing.get_args(hint) if is_union else [hint])
    may_lack = types.NoneType in kinds
    kinds.discard(types.NoneType)
    is_given = value is not field.default and not (value is None and may_lack)
    if is_given and not isinstance(value, hyperparams.Config):
      yield (f'{path}.{field.name}'.lstrip('.'), value, kinds.pop() if len(kinds) == 1 else None)


def _check_choice(choice: oneof.OneOfConfig, path: str) -> None:
  """Checks that the type of a choice is null or one of its alternatives."""
  known = [name for name in vars(choice) if name != 'type' and not name.startswith('_')]
  if choice.type is not None and choice.type not in known:
    close = difflib.get_close_matches(str(choice.type), known, n=1)
    hint = f' Did you mean {close[0]}?' if close else ''
    raise checks.FieldError(
        f'{path}.type is {choice.type!r}; allowed are {", ".join(known)}.{hint}')
