"""What the tests of experiments and of the YAML files share."""
import contextlib
import copy
import functools
import json
import pathlib
import re

from official.core import exp_factory
from official.vision.modeling import backbones
from official.vision.modeling.decoders import factory
import tensorflow as tf, tf_keras

from official_ext.configs import options
from official_ext.utils import experiment

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
ALL = sorted((CHECKOUT / 'configs').glob('**/*.yaml'))


def yaml_name(path):
  return path.relative_to(CHECKOUT / 'configs').as_posix().removesuffix('.yaml')


def comment(path):
  """The first comment as one line."""
  lines = []
  for line in path.read_text(encoding='utf-8').splitlines():
    if not line.startswith('#'):
      break
    lines.append(line.lstrip('# '))
  return ' '.join(lines)


def resolve(path):
  """The experiment that a YAML's comment names, with the YAML."""
  return experiment.resolve(
      re.search(r'Experiment: (\w+)\.', comment(path))[1], [str(path)], lock=False)


def check_command(path):
  """Asserts that the comment has the command that trains this file; returns its experiment."""
  text = comment(path)
  name = re.search(r'Experiment: (\w+)\.', text)[1]
  file = path.relative_to(CHECKOUT).as_posix()
  assert (f'python -m official_ext.train --experiment={name} \\ --config_file={file} \\ '
          f'--mode=train_and_eval --model_dir=runs/{path.parent.name}_{path.stem}') in text
  assert name.startswith(f'{path.parent.name}_')
  return name


def _zeros(next_creator, **options):
  """Makes a variable of zeros."""
  shape, dtype = options['shape'], options['dtype']
  return next_creator(**{**options, 'initial_value': lambda: tf.zeros(shape, dtype)})


def zeros():
  """Returns a scope of variables of zeros: random ones take longer than all else of a layer."""
  return tf.variable_creator_scope(_zeros)


@contextlib.contextmanager
def _graph():
  """A graph for shapes alone: variables take no memory, and norms no conditional for training."""
  with tf.Graph().as_default(), tf_keras.backend.learning_phase_scope(0), zeros():
    yield


@functools.cache
def backbone_specs(as_json):
  config = exp_factory.get_exp_config('fasterrcnn_dyfpn_resnet50_coco').task.model
  config.backbone.override(json.loads(as_json))
  with _graph():
    return backbones.factory.build_backbone(
        tf_keras.layers.InputSpec(shape=[None, 64, 64, 3]), config.backbone,
        config.norm_activation).output_specs


_COUNTED = {}


def count_parameters(model):
  """Trainable parameters of a detector's decoder; rows of tables that share one build it once."""
  model = copy.deepcopy(model)
  if model.decoder.type == 'dyfpn':  # Conditionals have no weights, and take long to trace.
    model.decoder.dyfpn.inference = 'mask'
  if model.decoder.type == 'ifpn':  # Nor has a solver.
    count = min(1, model.decoder.ifpn.solver.training_evaluations)  # none: the base features
    model.decoder.ifpn.solver = options.SolverConfig(
        solver='unroll', gradient='unroll', training_evaluations=count,
        inference_evaluations=count)
  if model.backbone.type.startswith('resne'):  # ResNet-50 has the channels of all of them.
    model.backbone.override({'type': 'resnet', 'resnet': {'model_id': 50, 'bn_trainable': False}})
  parts = [getattr(model, name).as_dict() for name in ('backbone', 'decoder', 'norm_activation')]
  key = json.dumps([*parts, model.min_level, model.max_level], sort_keys=True)
  if key not in _COUNTED:
    _COUNTED[key] = _count_parameters(model)
  return _COUNTED[key]


def _count_parameters(model):
  """Builds the decoder in a graph, and counts."""
  specs = backbone_specs(json.dumps(model.backbone.as_dict(), sort_keys=True))
  with _graph():
    decoder = factory.build_decoder(specs, model)
    inputs = {level: tf_keras.Input(shape[1:]) for level, shape in specs.items()}
    outputs = decoder(inputs)
    assert {int(level) for level in outputs} == set(range(model.min_level, model.max_level + 1))
    return sum(v.shape.num_elements() for v in decoder.variables if v.trainable)
