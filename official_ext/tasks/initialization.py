"""Starting a detector from a checkpoint: whole modules, with a report of what was loaded."""
from collections.abc import Mapping, Sequence
import itertools
import os
from typing import Any

from absl import logging
import tensorflow as tf

from official_ext.modeling.layers import deformable
from official_ext.modeling.layers import routed
from official_ext.utils import files


class InitializationError(ValueError):
  """`task.init_checkpoint` cannot be read or does not fit the model."""


def load(items: Mapping[str, Any], path: str, modules: str | Sequence[str]) -> None:
  """Loads modules completely or not at all, and logs what was loaded.

  The exceptions are the `router_variables` of routed layers, the `budget_variables` among them, and
  the offsets of deformable convolutions: if the checkpoint has none of one kind, these keep their
  initial values.  Image classification, from which a backbone comes, trains without them, and
  earlier detectors without budgets.

  Args:
    items: `checkpoint_items` of a model.
    path: `task.init_checkpoint`, a checkpoint or a folder.
    modules: `task.init_checkpoint_modules`, names of items or `all`; a string may name
      several with commas.

  Raises:
    InitializationError: there is no such checkpoint or module, or a variable of a module is
      missing in the checkpoint or has another shape there.
  """
  named = modules.split(',') if isinstance(modules, str) else modules
  named = [str(name).strip() for name in named] if isinstance(named, (list, tuple)) else []
  names = list(items) if 'all' in named else named
  if not names or not set(names) <= set(items):
    raise InitializationError(f'task.init_checkpoint_modules is {modules!r}; allowed are `all` and '
                              f'any of {sorted(items)}.')
  plain = files.plain_path(path) if os.path.exists(os.path.dirname(path)) else path
  checkpoint = (tf.train.latest_checkpoint(plain) if tf.io.gfile.isdir(path) else plain) or plain
  try:
    num_missing = _read({name: items[name] for name in names}, checkpoint)
  except (AssertionError, ValueError, tf.errors.OpError) as error:
    raise InitializationError(
        f'task.init_checkpoint {path!r} does not give all of {", ".join(names)}: '
        f'{str(error).splitlines()[0].rstrip(".")}. Change the checkpoint, or load less by '
        'task.init_checkpoint_modules.') from error
  for name in names:
    count = sum(len(module.variables) for module in _modules(items[name]))
    if num_missing[name]:
      logging.info('%s: %d of %d variables loaded from %s; the %d of its routers, budgets and '
                   'offsets keep their initial values.', name, count - num_missing[name], count,
                   checkpoint, num_missing[name])
    else:
      logging.info('%s: all %d variables loaded from %s.', name, count, checkpoint)
  left = sorted(set(items) - set(names))
  if left:
    logging.info('%s: start from random weights.', ', '.join(left))


def _modules(item: Any) -> list[tf.Module]:
  """Returns the modules of a checkpoint item, which may be a module or a nest of modules."""
  return tf.nest.flatten(item)


def _read(items: Mapping[str, Any], checkpoint: str) -> Mapping[str, int]:
  """Loads items, and returns for each how many variables the checkpoint does not have."""
  root = tf.train.Checkpoint(**items)
  num_missing = {name: _count_missing(root, item, checkpoint) for name, item in items.items()}
  status = root.read(checkpoint).expect_partial()
  if not any(num_missing.values()):
    status.assert_existing_objects_matched()
  return num_missing


def _count_missing(root: tf.train.Checkpoint, item: Any, checkpoint: str) -> int:
  """Returns how many variables are missing: none, or all of those that may be new.

  Raises:
    ValueError: other variables are missing, or only some of one kind.
  """
  modules = _modules(item)
  layers = [layer for module in modules for layer in routed.routed_layers(module)]
  deformed = [layer for module in modules for layer in module.submodules
              if isinstance(layer, deformable.WithOffsets)]
  kinds = [{id(variable) for variables in kind for variable in variables} for kind in (
      [layer.router_variables for layer in layers], [layer.budget_variables for layer in layers],
      [layer.offset.variables for layer in deformed])]
  # `assert_existing_objects_matched` finds what is missing elsewhere.  `CheckpointView` cannot
  # read checkpoints of TensorFlow 1, which have no object graph.
  if not any(kinds):
    return 0
  found = set(map(id, tf.train.CheckpointView(checkpoint).match(root).values()))
  missing = {id(variable): variable.name for module in modules for variable in module.variables
             if id(variable) not in found}
  allowed = [set().union(*chosen) for number in range(len(kinds) + 1)
             for chosen in itertools.combinations(kinds, number)]
  if set(missing) not in allowed:
    raise ValueError(f'{len(missing)} variables are not in it, such as '
                     f'{next(iter(missing.values()))}')
  return len(missing)
