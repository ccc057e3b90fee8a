"""Dynamic necks, heads and detectors for TensorFlow Model Garden.

Importing this package does not load TensorFlow.  It chooses Keras 2 (`tf_keras`), which Model
Garden 2.20 is written for, by an environment variable that TensorFlow reads when it is imported.
If TensorFlow was imported before, `official_ext.environment.check()` says so.
"""
import os

__version__ = '0.1.0'

os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
# TensorFlow leaves oneDNN off on processors without AVX-512, although it is twice as fast there.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
