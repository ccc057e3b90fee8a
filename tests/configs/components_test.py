"""Components are registered, chosen by type, overridden, and refused if misspelt."""
import dataclasses

import numpy as np
from official.modeling import hyperparams
from official.vision.configs import common
from official.vision.modeling.backbones import factory as backbone_factory
from official.vision.modeling.decoders import factory
import pytest
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.configs import components
from official_ext.configs import options
from official_ext.modeling.decoders import bifpn
from official_ext.modeling.decoders import carafe
from official_ext.modeling.decoders import deformable_fpn
from official_ext.modeling.decoders import drfpn
from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.decoders import pafpn
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.heads import plain_tower
from official_ext.ops import checks
import reference

NAME = 'fpn_of_the_components_test'


@dataclasses.dataclass
class MyFPNConfig(hyperparams.Config):
  """Options of MyFPN, as they appear in YAML."""
  num_filters: int = 256
  slope: float = 1.0
  branches: list = dataclasses.field(default_factory=lambda: [1])


@components.register_decoder(NAME, MyFPNConfig)
class MyFPN(pyramid.PyramidDecoder):
  """A neck as a user would write it."""

  def __init__(self, slope=1.0, branches=(1,), **kwargs):
    super().__init__(**kwargs)
    self.slope, self.branches = slope, branches
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in self.backbone_levels}

  def build_pyramid(self, inputs, training):
    return self.top_down(
        {level: self.slope * self._laterals[level](inputs[level]) for level in inputs})


@dataclasses.dataclass
class Model(hyperparams.Config):
  """The options of a detector that Model Garden's factory reads."""
  min_level: int = 3
  max_level: int = 5
  decoder: components.DecoderConfig = dataclasses.field(
      default_factory=lambda: components.decoder(type=NAME))
  norm_activation: common.NormActivation = dataclasses.field(
      default_factory=lambda: common.NormActivation(
          activation='swish', use_sync_bn=False, norm_momentum=0.9, norm_epsilon=0.01))


SPECS = {'3': tf.TensorShape([None, None, None, 6]), '4': tf.TensorShape([None, None, None, 5]),
         '5': tf.TensorShape([None, None, None, 7])}


def _build(model):
  return factory.build_decoder(SPECS, model, tf_keras.regularizers.L2(0.5))


def test_model_gardens_factory_builds_it_with_the_models_options():
  model = Model()
  model.override({'decoder': {NAME: {'num_filters': 4, 'slope': 2.0, 'branches': [1, 3]}}})
  layer = _build(model)
  assert isinstance(layer, MyFPN)
  assert (layer.slope, list(layer.branches), layer.name) == (2.0, [1, 3], NAME)
  config = layer.get_config()
  assert {key: config[key] for key in (
      'min_level', 'max_level', 'num_filters', 'activation', 'use_sync_bn', 'norm_momentum',
      'norm_epsilon')} == {
          'min_level': 3, 'max_level': 5, 'num_filters': 4, 'activation': 'swish',
          'use_sync_bn': False, 'norm_momentum': 0.9, 'norm_epsilon': 0.01}
  outputs = layer(reference.pyramid_inputs({'3': 6, '4': 5, '5': 7}))
  assert {level: x.shape[-1] for level, x in outputs.items()} == {'3': 4, '4': 4, '5': 4}
  kernels = [v for v in layer.trainable_variables if 'kernel' in v.name]
  np.testing.assert_allclose(
      tf.add_n(layer.losses), 0.5 * sum(np.sum(k.numpy()**2) for k in kernels), 1e-5)


def test_registering_returns_the_class_and_refuses_a_second_of_the_name():
  assert MyFPN.__name__ == 'MyFPN'
  with pytest.raises(KeyError, match=NAME):
    components.register_decoder(NAME, MyFPNConfig)(MyFPN)


def test_options_from_yaml(tmp_path):
  path = tmp_path / 'model.yaml'
  path.write_text(f'decoder:\n  type: {NAME}\n  {NAME}:\n    num_filters: 8\n    slope: 0.5\n')
  model = hyperparams.override_params_dict(Model(), str(path), is_strict=True)
  assert model.decoder.type == NAME
  assert model.decoder.get().as_dict() == {'num_filters': 8, 'slope': 0.5, 'branches': [1]}


def test_switching_the_type():
  model = Model()
  model.override({'decoder': {'type': 'dyfpn', 'dyfpn': {
      'num_filters': 4, 'block': 'A', 'gate': {'type': 'recurrent', 'direction': 'downward'}}}})
  layer = _build(model)
  assert isinstance(layer, dyfpn.DyFPN)
  assert layer.get_config()['block'] == 'A'
  assert layer.get_config()['gate'] == {
      **options.GateConfig().as_dict(), 'type': 'recurrent', 'direction': 'downward'}
  model.override({'decoder': {'type': 'fpn', 'fpn': {'num_filters': 4}}})
  assert type(_build(model)).__name__ == 'FPN'


def test_dictionaries_round_trip():
  first = components.decoder(type='dyfpn', dyfpn={'num_filters': 96, 'gate': {'seed': 7}})
  options = first.as_dict()
  assert options['type'] == 'dyfpn'
  assert options['dyfpn']['num_filters'] == 96
  assert options['dyfpn']['gate']['seed'] == 7
  second = components.decoder(type='dyfpn')
  second.override(options)
  assert second.as_dict() == options
  model = Model()
  model.override({'decoder': options})
  again = Model()
  again.override(model.as_dict())
  assert again.as_dict() == model.as_dict()
  assert again.decoder.get().gate.seed == 7


def test_options_of_one_config_do_not_leak_into_another():
  first, second = components.decoder(type=NAME), components.decoder(type=NAME)
  first.override({NAME: {'num_filters': 8}})
  first.get().branches.append(5)
  assert second.get().num_filters == 256
  assert second.get().branches == [1]
  assert components.decoder(type=NAME).get().branches == [1]


def test_every_decoder_of_the_package_and_of_model_garden_is_known():
  names = components.decoder_names()
  assert {'fpn', 'nasfpn', 'identity', 'aspp', 'dyfpn', 'inception_fpn', NAME} <= set(names)
  assert names == sorted(names)


@pytest.mark.parametrize('options', [
    {'type': 'dyfnp'}, {'type': 'dyfnp', 'dyfnp': {'num_filters': 3}},
    {'dyfnp': {'num_filters': 3}}])
def test_a_misspelt_type_names_the_known_ones(options):
  message = r"'dyfnp'; known are .*dyfpn.*Did you mean 'dyfpn'\?.*--import="
  with pytest.raises(ValueError, match=message):
    components.decoder().override(options)
  with pytest.raises(ValueError, match=message):
    Model().override({'decoder': options})


def test_towers_are_registered_and_refused_alike():
  tower = components.tower(type='plain', plain={'num_convs': 2})
  assert tower.as_dict() == {'type': 'plain', 'plain': {
      'num_convs': 2, 'norm': 'group_norm', 'deformable': False, 'offset_rate': 1.0}}
  with pytest.raises(ValueError, match=r"tower.type is 'plian'; known are .*plain.*Did you mean "
                     r"'plain'\?.*--import="):
    tower.override({'type': 'plian'})
  with pytest.raises(ValueError, match="tower.type is 'fpn'"):
    components.tower(type='fpn').as_dict()
  with pytest.raises(KeyError, match="'plain' is registered already: PlainTower"):
    components.register_tower('plain', plain_tower.PlainTowerConfig)
  with pytest.raises(KeyError, match='num_conv'):
    tower.override({'plain': {'num_conv': 1}})


def test_a_misspelt_type_given_at_once_is_refused_before_anything_is_built():
  with pytest.raises(ValueError, match="Did you mean 'dyfpn'"):
    components.decoder(type='dyfnp').as_dict()
  with pytest.raises(ValueError, match='known are .*--import=my_package.my_module'):
    components.check_decoder('nothing_like_it')


@pytest.mark.parametrize('options', [
    {'num_filter': 3}, {'gate': {'typ': 'channel'}}, {'gate': {'tau': 2.0}}])
def test_a_misspelt_option_is_refused_and_named(options):
  wrong, = (options.get('gate') or options).keys()
  with pytest.raises(KeyError, match=wrong):
    components.decoder(type='dyfpn').override({'dyfpn': options})


@pytest.mark.parametrize('options, message', [
    ({'block': 'C'}, "block is 'C'.*Change decoder.dyfpn.block"),
    ({'gate': {'type': 'spatial'}}, "gate.type is 'spatial'.*Change decoder.dyfpn.gate.type"),
    ({'gate': {'evaluation': 'sampled'}},
     "gate.evaluation is 'sampled'; allowed are 'argmax', 'random'.*decoder.dyfpn.gate.evaluation"),
    ({'gate': {'type': 'random', 'random_probability': 2.0}},
     'gate.random_probability is 2.0.*Change decoder.dyfpn.gate.random_probability'),
    ({'gate': {'temperature': 0.0}}, 'Change decoder.dyfpn.gate.temperature'),
    ({'branches': ['2x2']}, 'Change decoder.dyfpn.branches'),
    ({'inference': 'fast'}, "inference is 'fast'.*Change decoder.dyfpn.inference"),
    ({'norm': 'group'}, 'Change decoder.dyfpn.norm'),
    ({'coarse_levels': 'mean'}, 'Change decoder.dyfpn.coarse_levels'),
])
def test_a_wrong_value_is_refused_when_the_network_is_built(options, message):
  model = Model()
  model.override({'decoder': {'type': 'dyfpn', 'dyfpn': options}})
  with pytest.raises(ValueError, match=message):
    _build(model)


# A misspelt choice, a number of no use, or one of another type, of every neck to compare with.
@pytest.mark.parametrize('name, field, value, allowed', [
    ('pafpn', 'chain', 'out', "'output', 'sum'"),
    ('pafpn', 'path_norm', 'batch_norm', "'none', 'group_norm'"),
    ('pafpn', 'path_activation', 'swish', "'none', 'relu'"),
    ('pafpn', 'num_filters', 0, 'positive'),
    ('pafpn', 'num_filters', -4, 'positive'),
    ('pafpn', 'symmetric_padding', 'perhaps', 'true or false'),
    ('bifpn', 'num_repeats', 0, 'at least 1'),
    ('bifpn', 'num_repeats', 1.5, 'a whole number'),
    ('bifpn', 'num_filters', 7.5, 'a whole number'),
    ('bifpn', 'num_filters', -3, 'positive'),
    ('bifpn', 'fusion', 'fast', "'fast_normalized', 'softmax', 'sum'"),
    ('carafe', 'upsample', 'bicubic', "'carafe', 'nearest', 'bilinear', 'deconv', 'pixel_shuffle'"),
    ('carafe', 'kernel_size', 4, 'odd numbers'),
    ('carafe', 'encoder_kernel_size', -1, 'odd numbers'),
    ('carafe', 'compressed_filters', 0, 'positive'),
    ('carafe', 'groups', 5, 'must divide num_filters, 256'),
    ('carafe', 'groups', 'two', 'a whole number'),
    ('deformable_fpn', 'where', 'input', "'output', 'lateral_output'"),
    ('deformable_fpn', 'modulated', 2, 'true or false'),
    ('deformable_fpn', 'offset_rate', 'fast', 'a finite number'),
    ('deformable_fpn', 'offset_rate', float('nan'), 'a finite number'),
    ('deformable_fpn', 'offset_rate', 0.0, 'above 0 and at most 1'),
    ('ifpn', 'offset_rate', 2.0, 'above 0 and at most 1'),
    ('ifpn', 'deformable_kernels', 3, 'true or false')])
def test_a_wrong_value_of_a_neck_names_its_field(name, field, value, allowed):
  model = Model()
  model.override({'decoder': {'type': name, name: {field: value}}})
  with pytest.raises(checks.FieldError) as caught:
    _build(model)
  text = str(caught.value)
  assert text.startswith(f'{field} is {value!r}') and allowed in text
  assert text.endswith(f' Change decoder.{name}.{field}.')


@pytest.mark.parametrize('name, field, value, allowed', [
    ('resnet50_dcn', 'offset_rate', 0.0, 'above 0 and at most 1'),
    ('resnet50_dcn', 'offset_rate', float('nan'), 'a finite number'),
    ('resnet50_dcn', 'modulated', 7, 'true or false'),
    ('resnet50_dcn', 'deformable_stages', [1, 9], '[2, 3, 4, 5]'),
    ('resnet50_dcn', 'deformable_stages', ['x'], 'a list, each of it a whole number'),
    ('resnext50_32x4d', 'bn_trainable', 'no', 'true or false'),
    ('imported', 'network', 'resnext101_64x4', "'resnext101_64x4d'"),
    ('imported', 'network', 3, 'a text')])
def test_a_wrong_value_of_a_backbone_names_its_field(name, field, value, allowed):
  config = components.backbone(type=name)
  config.override({name: {field: value}})
  with pytest.raises(checks.FieldError) as caught:
    backbone_factory.build_backbone(
        tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), config, common.NormActivation())
  text = str(caught.value)
  assert text.startswith(f'{field} is {value!r}') and allowed in text
  assert text.endswith(f' Change backbone.{name}.{field}.')


@pytest.mark.parametrize('options, field', [
    ({'context': 'aspp'}, 'context'), ({'padding': 'same'}, 'padding'),
    ({'use_offset': False, 'use_weight': False}, 'use_offset')])
def test_errors_of_inner_layers_name_the_decoders_field(options, field):
  model = Model()
  model.override({'decoder': {'type': 'drfpn', 'drfpn': options}})
  with pytest.raises(ValueError, match=f'Change decoder.drfpn.{field}'):
    _build(model)


def test_errors_about_levels_name_the_models_field():
  model = Model(min_level=2)
  with pytest.raises(ValueError, match='min_level is 2.*Change model.min_level'):
    _build(model)


class _Refusing:
  """A component that accepts no argument."""

  def __init__(self, argument, **options):
    del options
    raise checks.ArgumentError(argument, 'No.')


@dataclasses.dataclass
class RefusingConfig(hyperparams.Config):
  """Options of a component that accepts no argument."""
  argument: str = 'argument'


BACKBONE = 'backbone_of_the_components_test'
TOWER = 'tower_of_the_components_test'
components.register_backbone(BACKBONE, RefusingConfig)(_Refusing)
components.register_tower(TOWER, RefusingConfig)(_Refusing)


@pytest.mark.parametrize('argument, field', [
    ('argument', f'backbone.{BACKBONE}.argument'),
    ('norm_epsilon', 'model.norm_activation.norm_epsilon')])
def test_errors_of_backbones_name_the_field(argument, field):
  config = components.backbone(type=BACKBONE)
  config.override({BACKBONE: {'argument': argument}})
  with pytest.raises(ValueError, match=f'^No. Change {field}.$'):
    backbone_factory.build_backbone(
        tf_keras.layers.InputSpec(shape=[None, 64, 64, 3]), config, common.NormActivation())


@pytest.mark.parametrize('argument, field', [
    ('argument', f'head.tower.{TOWER}.argument'), ('num_filters', 'head.num_filters')])
def test_errors_of_towers_name_the_field(argument, field):
  with pytest.raises(ValueError, match=f'^No. Change {field}.$'):
    components.build_tower(TOWER, {'argument': argument}, 4, 'tower')


def test_defaults_of_configs_and_classes_agree():
  for name, cls in (('dyfpn', dyfpn.DyFPN), ('inception_fpn', dyfpn.InceptionFPN),
                    ('drfpn', drfpn.DRFPN), ('pafpn', pafpn.PAFPN), ('bifpn', bifpn.BiFPN),
                    ('carafe', carafe.CARAFE), ('deformable_fpn', deformable_fpn.DeformableFPN)):
    config = cls(input_specs=SPECS).get_config()
    options = components.decoder(type=name).get().as_dict()
    assert {key: config[key] for key in options} == options
