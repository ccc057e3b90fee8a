"""Restores a whole model from a checkpoint, or says what does not fit."""
from collections.abc import Iterator
import os

import tensorflow as tf, tf_keras
from tensorflow.core.protobuf import trackable_object_graph_pb2

from official_ext.utils import command_line
from official_ext.utils import files

_NAMED = 3
_OBJECT_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'


def find(path: files.PathLike, flag: str = '--checkpoint_path') -> str:
  """Returns the checkpoint of a path, or the latest one of a folder.

  Args:
    path: a checkpoint such as `runs/dyfpn/ckpt-400`, or a folder that the trainer wrote.
    flag: the command's flag that gave the path, for the error message.

  Raises:
    CommandError: there is no checkpoint.
  """
  path = os.fspath(path)
  if os.path.isdir(path):
    latest = tf.train.latest_checkpoint(files.plain_path(path))
    if latest is None:
      raise command_line.CommandError(
          f'{flag}={path} is a folder without a checkpoint: give the --model_dir of a training, '
          'or a checkpoint such as ckpt-400.')
    return os.path.join(path, os.path.basename(latest))
  checkpoint = path.removesuffix('.index')
  if not os.path.isfile(checkpoint + '.index'):
    raise command_line.CommandError(
        f'{flag}={path}: there is no such checkpoint (no file {checkpoint}.index).')
  return checkpoint


def restore(model: tf_keras.Model, path: files.PathLike, flag: str = '--checkpoint_path') -> str:
  """Restores every variable of a model from a checkpoint of exactly this model.

  Args:
    model: a built model; the checkpoint holds it as `tf.train.Checkpoint(model=model, ...)`, as
      the trainer writes it.
    path: a checkpoint, or a folder whose latest checkpoint is read.
    flag: the command's flag that gave the path, for error messages.

  Returns:
    The path of the checkpoint that was read.

  Raises:
    CommandError: there is no checkpoint, it is damaged, or it is of another model.
  """
  checkpoint = find(path, flag)
  plain = files.plain_path(checkpoint)
  root = tf.train.Checkpoint(model=model)
  try:
    problems = _misfits(root, plain)
    if not problems:
      root.read(plain).assert_existing_objects_matched().expect_partial()
  except (tf.errors.OpError, ValueError, IndexError) as error:
    text = str(error).strip().splitlines()[0]
    raise command_line.CommandError(
        f'{flag}={path}: {checkpoint} is damaged or not a TensorFlow 2 checkpoint ({text}).'
    ) from error
  if problems:
    raise command_line.CommandError(
        f'{flag}={path}: {checkpoint} is of another model: {"; ".join(problems)}. Give the '
        '--experiment, --config_file (params.yaml beside the checkpoint) and --params_override '
        'that it was trained with.')
  return checkpoint


def _misfits(root: tf.train.Checkpoint, checkpoint: str) -> list[str]:
  """Describes which variables only the model of `root` or only a checkpoint has."""
  reader = tf.train.load_checkpoint(checkpoint)
  shapes = reader.get_variable_to_shape_map()
  nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
      reader.get_tensor(_OBJECT_GRAPH) if _OBJECT_GRAPH in shapes else b'').nodes
  if not nodes:
    raise ValueError('it has no object graph')
  matched = tf.train.CheckpointView(checkpoint).match(root)
  found = {id(variable): number for number, variable in matched.items()
           if nodes[number].attributes}
  missing, reshaped = [], []
  for variable in root.model.variables:
    if id(variable) not in found:
      missing.append(variable.name)
      continue
    shape = shapes[nodes[found[id(variable)]].attributes[0].checkpoint_key]
    if variable.shape != shape:
      reshaped.append(f'{variable.name} {shape} instead of {variable.shape.as_list()}')
  known = set(found.values())
  unknown = [nodes[number].attributes[0].full_name for number in _model_nodes(nodes)
             if nodes[number].attributes and number not in known]
  findings = {
      'variables of this model are not in it': missing,
      'variables have another shape in it': reshaped,
      'of its variables are not in this model': unknown,
  }
  return [f'{len(names)} {finding}, such as {", ".join(names[:_NAMED])}'
          for finding, names in findings.items() if names]


def _model_nodes(nodes) -> Iterator[int]:
  """Yields the node numbers of a checkpoint's `model` and of everything in it."""
  children: dict[str, int] = {child.local_name: child.node_id for child in nodes[0].children}
  to_visit = [children['model']] if 'model' in children else []
  seen = set(to_visit)
  while to_visit:
    number = to_visit.pop(0)
    yield number
    for child in nodes[number].children:
      if child.node_id not in seen:
        seen.add(child.node_id)
        to_visit.append(child.node_id)
