"""Importing this registers every component, task and experiment, Model Garden's included."""
import importlib
import pkgutil

from official.vision import registry_imports  # pylint: disable=unused-import

from official_ext import environment
from official_ext.modeling import decoders
from official_ext.modeling import heads

environment.check()

# A new decoder or head is one new file: the folders are scanned, nothing is listed.
for _folder in (decoders, heads):
  for _module in pkgutil.iter_modules(_folder.__path__, _folder.__name__ + '.'):
    importlib.import_module(_module.name)

# pylint: disable=g-import-not-at-top,unused-import,wrong-import-position
from official_ext.configs import dense_experiments
from official_ext.configs import dynamic_head_experiments
from official_ext.configs import experiments
from official_ext.tasks import dense
from official_ext.tasks import routed
