"""Importing this registers every component, task and experiment, Model Garden's included."""
import importlib
import pkgutil

from official.vision import registry_imports  # pylint: disable=unused-import

from official_ext import environment
from official_ext.modeling import decoders

environment.check()

# A new decoder is one new file: the folder is scanned, nothing is listed.
for _module in pkgutil.iter_modules(decoders.__path__, decoders.__name__ + '.'):
  importlib.import_module(_module.name)

# pylint: disable=g-import-not-at-top,unused-import,wrong-import-position
from official_ext.configs import experiments
from official_ext.tasks import routed
