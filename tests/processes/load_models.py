"""Loads saved models, knowing only the registry, and compares what they compute."""
import pathlib
import sys

from official_ext import registry_imports
import numpy as np
import tensorflow as tf, tf_keras

paths = sorted(pathlib.Path(sys.argv[1]).glob('*.keras'))
for path in paths:
  model = tf_keras.models.load_model(path)
  inputs, outputs = (
      dict(np.load(path.with_name(f'{path.stem}_{kind}.npz'))) for kind in ('inputs', 'outputs'))
  answer = model(inputs)
  for level, expected in outputs.items():
    np.testing.assert_array_equal(tf.cast(answer[level], tf.float32), expected)
print(f'{len(paths)} models equal')
