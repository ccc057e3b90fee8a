"""Dynamic necks, heads and detectors for TensorFlow Model Garden.

Importing this package is cheap: TensorFlow is not loaded.  It only asks for
Keras 2 (`tf_keras`), which Model Garden 2.20 is written for, and which has to be
chosen before TensorFlow is imported.  `official_ext.environment.check()` says in
one sentence what is wrong when that came too late.
"""
import os

__version__ = '0.1.0'

os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
# TensorFlow leaves oneDNN off on processors without AVX-512, where it is twice as fast too.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
