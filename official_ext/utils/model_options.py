"""Compares the options of a model with those that an earlier command has written."""
from collections.abc import Collection
from typing import Any

from official.modeling import hyperparams


def difference(previous: Any, now: hyperparams.Config, free: Collection[str] = ()) -> str | None:
  """Returns which option no longer means what it meant, perhaps in an earlier version.

  Args:
    previous: options as an earlier run has written them.
    now: the options today. One that the earlier version did not have is the same if it has its
      default, because defaults keep what the earlier version did.
    free: names of options that may differ.

  Returns:
    Path of the first option that differs, such as `head.num_filters`; empty if the whole record
    does; None if all are the same.
  """
  if not isinstance(previous, dict):
    return ''
  values, defaults = now.as_dict(), type(now)().as_dict()
  for name in previous:
    if name not in values:
      return name
  for name, value in values.items():
    part = getattr(now, name)
    if name in free:
      continue
    if name not in previous:
      if not (name in defaults and value == defaults[name]):
        return name
    elif isinstance(part, hyperparams.Config):
      found = difference(previous[name], part, free)
      if found is not None:
        return f'{name}.{found}'.rstrip('.')
    elif previous[name] != value:
      return name
  return None
