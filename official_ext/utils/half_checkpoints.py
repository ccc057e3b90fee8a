"""Keeps the weights of a training in one small file: float16, compressed, without the optimizer."""
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from official_ext.utils import command_line
from official_ext.utils import files

_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
_NAME = 'ckpt-0'


def pack(checkpoint: str, path: pathlib.Path) -> None:
  """Writes the model of a checkpoint as `.npz`.

  Args:
    checkpoint: a checkpoint that the trainer wrote, with `tf.train.Checkpoint(model=...)`.
    path: the file to write.

  Raises:
    CommandError: a weight is too large for float16.
  """
  reader = tf.train.load_checkpoint(checkpoint)
  graph = reader.get_tensor(_GRAPH)
  known = reader.get_variable_to_shape_map()
  arrays: dict[str, Any] = {
      name: _half(name, np.asarray(reader.get_tensor(name)))
      for name in sorted(_names_of_model(graph) & set(known))}
  arrays[_GRAPH] = np.frombuffer(graph, np.uint8)
  with files.atomic_file(path) as temporary, open(temporary, 'wb') as file:
    np.savez_compressed(file, **arrays)


def _names_of_model(graph: bytes) -> set[str]:
  """Returns the names of what the object `model` of a checkpoint holds, in all depths."""
  nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(graph).nodes
  waiting = [child.node_id for child in nodes[0].children if child.local_name == 'model']
  found: set[int] = set()
  while waiting:
    number = waiting.pop()
    if number not in found:
      found.add(number)
      waiting += [child.node_id for child in nodes[number].children]
  return {attribute.checkpoint_key for number in found for attribute in nodes[number].attributes}


def _half(name: str, weight: np.ndarray) -> np.ndarray:
  """Returns a weight as float16 if it has decimals, and as it is if not."""
  if weight.dtype != np.float32:
    return weight
  if np.any(np.abs(weight) > np.finfo(np.float16).max):
    raise command_line.CommandError(
        f'{name} has a value of {np.abs(weight).max():.3g}, too large for float16.')
  return weight.astype(np.float16)


def unpack(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes a checkpoint, as the trainer would, of what `pack` wrote.

  Args:
    path: the `.npz` file.
    folder: an existing folder, whose latest checkpoint this becomes.
  """
  with np.load(path) as arrays:
    tensors = {
        name: tf.constant(arrays[name].tobytes()) if name == _GRAPH else tf.constant(
            arrays[name].astype(np.float32) if arrays[name].dtype == np.float16 else arrays[name])
        for name in arrays.files}
  tf.raw_ops.SaveV2(
      prefix=files.plain_path(folder / _NAME), tensor_names=list(tensors),
      shape_and_slices=[''] * len(tensors), tensors=list(tensors.values()))
  (folder / 'checkpoint').write_text(f'model_checkpoint_path: "{_NAME}"\n', encoding='utf-8')
