"""Starting a detector from a checkpoint: module by module, completely, with a report."""
from typing import Any, Mapping, Sequence, Union

from absl import logging
import tensorflow as tf

from official_ext.modeling.backbones.caddet import router


class InitializationError(ValueError):
  """`task.init_checkpoint` cannot be read or does not fit the model."""


def load(items: Mapping[str, Any], path: str, modules: Union[str, Sequence[str]]) -> None:
  """Loads modules completely or not at all, and logs what matched.

  Only the routers of a backbone may be missing, all together, and start fresh then: image
  classification, from which a backbone comes, trains none.

  Args:
    items: `checkpoint_items` of a model.
    path: `task.init_checkpoint`, a checkpoint or a folder.
    modules: `task.init_checkpoint_modules`, names of items or `all`; a text may name
      several with commas.

  Raises:
    InitializationError: no such checkpoint or module, or a variable of a module is missing
      in it or has another shape.
  """
  modules = modules.split(',') if isinstance(modules, str) else modules
  names = list(items) if 'all' in modules else [name.strip() for name in modules]
  if not set(names) <= set(items):
    raise InitializationError(f'task.init_checkpoint_modules is {modules}; allowed are `all` and '
                              f'any of {sorted(items)}.')
  checkpoint = (tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path) or path
  try:
    fresh = _read({name: items[name] for name in names}, checkpoint)
  except (AssertionError, ValueError, tf.errors.OpError) as error:
    raise InitializationError(
        f'task.init_checkpoint {path!r} does not give all of {", ".join(names)}: '
        f'{str(error).splitlines()[0].rstrip(".")}. Change the checkpoint, or load less by '
        'task.init_checkpoint_modules.') from error
  for name in names:
    count = sum(len(part.variables) for part in tf.nest.flatten(items[name]))
    if fresh[name]:
      logging.info('%s: %d of %d variables loaded from %s; %d of the routers start fresh.', name,
                   count - fresh[name], count, checkpoint, fresh[name])
    else:
      logging.info('%s: all %d variables loaded from %s.', name, count, checkpoint)
  left = sorted(set(items) - set(names))
  if left:
    logging.info('%s: start from random weights.', ', '.join(left))


def _read(items: Mapping[str, Any], checkpoint: str) -> Mapping[str, int]:
  """Loads modules and returns how many variables of each the checkpoint does not have."""
  root = tf.train.Checkpoint(**items)
  fresh = {name: _missing_routers(root, item, checkpoint) for name, item in items.items()}
  status = root.read(checkpoint).expect_partial()
  if not any(fresh.values()):
    status.assert_existing_objects_matched()
  return fresh


def _missing_routers(root: tf.train.Checkpoint, item: Any, checkpoint: str) -> int:
  """Returns how many variables are missing: none, or all those of the routers.

  Raises:
    ValueError: other variables are missing, or some of the routers'.
  """
  parts = tf.nest.flatten(item)
  routers = {id(variable) for part in parts for layer in part.submodules
             if isinstance(layer, router.PathRouter) for variable in layer.variables}
  if not routers:  # Old checkpoints have no graph of objects to look anything up in.
    return 0
  found = set(map(id, tf.train.CheckpointView(checkpoint).match(root).values()))
  missing = {id(variable): variable.name for part in parts for variable in part.variables
             if id(variable) not in found}
  if missing and set(missing) != routers:
    raise ValueError(f'{len(missing)} variables are not in it, such as '
                     f'{next(iter(missing.values()))}')
  return len(missing)
