"""Loads saved models, knowing only the registry, and compares what they compute."""
import pathlib
import sys

from official_ext import registry_imports  # noqa: F401, I001 (before TensorFlow; registers)
import numpy as np
import tf_keras

paths = sorted(pathlib.Path(sys.argv[1]).glob('*.keras'))
for path in paths:
  model = tf_keras.models.load_model(path)
  inputs, outputs = (
      dict(np.load(path.with_name(f'{path.stem}_{kind}.npz'))) for kind in ('inputs', 'outputs'))
  answer = model(inputs)
  for level, expected in outputs.items():
    np.testing.assert_array_equal(answer[level], expected)
print(f'{len(paths)} models equal')
