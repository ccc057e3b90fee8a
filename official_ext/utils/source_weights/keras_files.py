"""Reads the tensors of Keras's weights and models without building the model."""
from collections.abc import Iterator
import io
import json
import pathlib
import re
from typing import Any
import zipfile

import h5py
import numpy as np

from official_ext.utils import command_line

# The variables of a layer in the order in which Keras writes them.
_VARIABLES = {
    'BatchNormalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
    'Normalization': ('mean', 'variance', 'count'),
    'DepthwiseConv2D': ('depthwise_kernel', 'bias'),
}
_OTHER_VARIABLES = ('kernel', 'bias')


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a file of Keras 2 or 3.

  Args:
    path: weights or a whole model in HDF5 (`.h5`, `.hdf5`), or a whole model in `.keras`.

  Returns:
    `<layer>/<variable>` -> array, such as `conv1_conv/kernel`.

  Raises:
    CommandError: no such file, or one whose layers have no names (`.weights.h5`).
  """
  try:
    if zipfile.is_zipfile(path):
      return _read_archive(path)
    with h5py.File(path, 'r') as file:
      return dict(_legacy_tensors(file))
  except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise command_line.CommandError(
        f'--weights={path} holds no weights that this command can read ({error}): give .h5 or '
        '.keras of Keras Applications, or .pth of torchvision.') from error


def _legacy_tensors(file: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the tensors of weights, or of a whole model, in HDF5."""
  root = file['model_weights'] if 'model_weights' in file else file
  if 'layer_names' not in root.attrs:
    raise ValueError('it has no names of layers, as .weights.h5: save the whole model as .keras')
  for layer in root.attrs['layer_names']:
    group = root[_text(layer)]
    for name in group.attrs['weight_names']:
      # The layers of a model within the model have its name before theirs.
      layer_name, variable = _text(name).removesuffix(':0').split('/')[-2:]
      yield f'{layer_name}/{variable}', np.asarray(group[_text(name)])


def _text(name: str | bytes) -> str:
  return name.decode() if isinstance(name, bytes) else str(name)


def _read_archive(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a `.keras` file; its configuration names the layers."""
  with zipfile.ZipFile(path) as archive:
    layers = json.loads(archive.read('config.json'))['config']['layers']
    content = io.BytesIO(archive.read('model.weights.h5'))
  with h5py.File(content, 'r') as file:
    return dict(_archived_tensors(file, layers))


def _archived_tensors(file: h5py.File, layers: list[dict[str, Any]]
                      ) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the tensors of the layers that a configuration lists."""
  is_keras_2 = '_layer_checkpoint_dependencies' in file
  root = file['_layer_checkpoint_dependencies' if is_keras_2 else 'layers']
  counts: dict[str, int] = {}
  for layer in layers:
    name, kind = layer['config']['name'], layer['class_name']
    if is_keras_2:
      group_name = name
    else:
      # Keras 3 numbers the layers of each class.
      base = _snake_case(kind)
      number = counts[base] = counts.get(base, -1) + 1
      group_name = f'{base}_{number}' if number else base
    values = root[group_name]['vars'] if f'{group_name}/vars' in root else {}
    for number, variable in enumerate(_VARIABLES.get(kind, _OTHER_VARIABLES)):
      if str(number) in values:
        yield f'{name}/{variable}', np.asarray(values[str(number)])


def _snake_case(name: str) -> str:
  """Returns the name of a class as Keras 3 writes it: `Conv2D` is `conv2d`."""
  name = re.sub(r'\W+', '', name)
  name = re.sub('(.)([A-Z][a-z]+)', r'\1_\2', name)
  return re.sub('([a-z])([A-Z])', r'\1_\2', name).lower()
