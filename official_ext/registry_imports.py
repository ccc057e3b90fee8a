"""Importing this module registers every component, task and experiment, Model Garden's included."""
import importlib
import pkgutil

from official.vision import registry_imports

from official_ext import environment
from official_ext.modeling import backbones
from official_ext.modeling import decoders
from official_ext.modeling import heads

environment.check()

# Every module of these folders is imported, so that a new network is one new file or folder.
for _folder in (backbones, decoders, heads):
  for _module in pkgutil.iter_modules(_folder.__path__, _folder.__name__ + '.'):
    importlib.import_module(_module.name)

# Experiments and tasks use what the loop above registers.
from official_ext.configs import caddet_experiments
from official_ext.configs import dense_experiments
from official_ext.configs import dynamic_head_experiments
from official_ext.configs import efficientdet_experiments
from official_ext.configs import experiments
from official_ext.tasks import classification
from official_ext.tasks import dense
from official_ext.tasks import maskrcnn
from official_ext.tasks import retinanet
