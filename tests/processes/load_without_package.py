"""Runs a SavedModel with TensorFlow alone: SAVED_MODEL IMAGES.npy OUTPUTS.npz.

Writes the classes that the SavedModel brings along to standard output.
"""
import sys

import numpy as np
import tensorflow as tf

saved_model, images, outputs = sys.argv[1:]
model = tf.saved_model.load(saved_model)
function = model.signatures['serving_default']
results = function(inputs=tf.constant(np.load(images)))
np.savez(outputs, **{name: value.numpy() for name, value in results.items()})
sys.stdout.write(tf.io.read_file(model.categories.asset_path).numpy().decode())
loaded = {name.split('.')[0] for name in sys.modules} & {'official', 'official_ext', 'tf_keras'}
if loaded:
  raise SystemExit(f'{sorted(loaded)} were imported')
