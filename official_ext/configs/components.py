"""The registries of backbones, decoders and towers, which any module may extend.

One decorator registers the class of a decoder and its options:

    @components.register_decoder('my_fpn', MyFPNConfig)
    class MyFPN(pyramid.PyramidDecoder): ...

Then `decoder: {type: my_fpn, my_fpn: {num_filters: 128}}` works in every experiment of this
package.  `register_tower` does the same for `head.tower` of one-stage detectors, and
`register_backbone` for `backbone`.
"""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import difflib
import sys
from typing import Any

from official.modeling import hyperparams
from official.vision.configs import backbones
from official.vision.configs import decoders
from official.vision.modeling.backbones import factory as backbone_factory
from official.vision.modeling.decoders import factory

from official_ext import environment
from official_ext.ops import checks

environment.check()

_BACKBONE_OPTIONS: dict[str, type[hyperparams.Config]] = {}
_DECODER_OPTIONS: dict[str, type[hyperparams.Config]] = {}
_TOWER_OPTIONS: dict[str, type[hyperparams.Config]] = {}
_TOWERS: dict[str, type] = {}

# Argument -> field, for arguments that do not come from the component's own options.
_NORM_FIELDS = {name: f'model.norm_activation.{name}'
                for name in ('use_sync_bn', 'norm_momentum', 'norm_epsilon')}
_DECODER_FIELDS = {**_NORM_FIELDS, 'activation': 'model.norm_activation.activation',
                   'min_level': 'model.min_level', 'max_level': 'model.max_level'}


class _OpenOneOf(hyperparams.OneOfConfig):
  """The choice of one component by its type; a subclass checks the types of one kind."""

  def _override(self, override_dict: Mapping[str, Any], is_strict: bool = True) -> None:
    """Overrides options.

    `override` calls this method, also if it is called for a config that contains this one.

    Args:
      override_dict: `type` and options by component.
      is_strict: whether unknown options are errors.

    Raises:
      ValueError: an unknown component; the message lists the known ones.
    """
    for name in {override_dict.get('type'), *override_dict} - {None, 'type'}:
      self.check(name)
    super()._override(override_dict, is_strict)

  def as_dict(self) -> dict[str, Any]:
    """Returns the type and the options of the chosen component."""
    if self.type is not None:
      self.check(self.type)
    return super().as_dict()


@dataclasses.dataclass
class BackboneConfig(_OpenOneOf, backbones.Backbone):
  """The choice of a backbone, Model Garden's; `backbone()` adds the registered ones."""

  @staticmethod
  def check(name: str) -> None:
    _check('backbone', name, _names(backbones.Backbone, _BACKBONE_OPTIONS))


@dataclasses.dataclass
class DecoderConfig(_OpenOneOf, decoders.Decoder):
  """The choice of a decoder, Model Garden's; `decoder()` adds the registered ones."""

  @staticmethod
  def check(name: str) -> None:
    check_decoder(name)


@dataclasses.dataclass
class TowerConfig(_OpenOneOf):
  """The choice of a tower, the layers before a head's predictors; `tower()` adds them."""
  type: str | None = None

  @staticmethod
  def check(name: str) -> None:
    _check('tower', name, sorted(_TOWER_OPTIONS))


def _check(kind: str, name: str, names: list[str]) -> None:
  """Raises a ValueError, with a close name if there is one, if a name is not a known one."""
  if name not in names:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    if 'official_ext.registry_imports' not in sys.modules:
      hint += ' `import official_ext.registry_imports` registers those of the package.'
    raise ValueError(
        f'{kind}.type is {name!r}; known are {", ".join(names) or "none"}.{hint} To register a '
        f'{kind} outside the package, give --import=my_package.my_module.')


def _with_fields(cls: type[_OpenOneOf], registered: Mapping[str, type[hyperparams.Config]],
                 options: Mapping[str, Any]) -> Any:
  """Returns a config of class `cls` with a field for every registered component."""
  fields = [(name, config, dataclasses.field(default_factory=config))
            for name, config in registered.items()]
  return dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,))(**options)


def _names(stock: type[hyperparams.OneOfConfig],
           registered: Mapping[str, type[hyperparams.Config]]) -> list[str]:
  """Returns the names of Model Garden's components of one kind and of the registered ones."""
  fields = [field.name for field in dataclasses.fields(stock) if field.name != 'type']
  return sorted([*fields, *registered])


def decoder_names() -> list[str]:
  """Returns the names that `decoder.type` may have."""
  return _names(decoders.Decoder, _DECODER_OPTIONS)


def check_decoder(name: str) -> None:
  """Raises a ValueError if `decoder.type` must not have this name."""
  _check('decoder', name, decoder_names())


def backbone(**options: Any) -> BackboneConfig:
  """Returns the options of a backbone, with a field for every registered one.

  Args:
    **options: `type`, and the options of backbones by their names.
  """
  return _with_fields(BackboneConfig, _BACKBONE_OPTIONS, options)


def decoder(**options: Any) -> DecoderConfig:
  """Returns the options of a decoder, with a field for every registered one.

  Args:
    **options: `type`, and the options of decoders by their names.
  """
  return _with_fields(DecoderConfig, _DECODER_OPTIONS, options)


def tower(**options: Any) -> TowerConfig:
  """Returns the options of a tower, with a field for every registered one.

  Args:
    **options: `type`, and the options of towers by their names.
  """
  return _with_fields(TowerConfig, _TOWER_OPTIONS, options)


def register_backbone(name: str, options: type[hyperparams.Config],
                      norm_options: Sequence[str] = tuple(_NORM_FIELDS)
                      ) -> Callable[[Any], Any]:
  """Registers a backbone class for `backbone.type: name` in Model Garden's factory.

  A function that makes a backbone may stand for the class, which has `output_specs`, level ->
  shape, and maps images to `{level: features}`.  The factory raises a ValueError that names the
  field for each `checks.ArgumentError` of the class.

  Args:
    name: the type in YAML.
    options: dataclass whose fields are arguments of the class.  The factory adds `input_specs`,
      `kernel_regularizer`, `name` and `norm_options`.
    norm_options: the fields of `norm_activation` that are arguments of the class.

  Returns:
    A class decorator that returns the class unchanged.
  """

  def register(cls):

    def build(input_specs, backbone_config, norm_activation_config, l2_regularizer=None):
      with checks.naming_field(f'backbone.{name}', _NORM_FIELDS):
        chosen = backbone_config.get().as_dict()
        checks.check_types(options, chosen)
        return cls(
            input_specs=input_specs,
            kernel_regularizer=l2_regularizer,
            name=name,
            **{option: getattr(norm_activation_config, option) for option in norm_options},
            **chosen)

    backbone_factory.register_backbone_builder(name)(build)
    _BACKBONE_OPTIONS[name] = options
    return cls

  return register


def register_decoder(name: str, options: type[hyperparams.Config]) -> Callable[[type], type]:
  """Registers a decoder class for `decoder.type: name` in Model Garden's factory.

  The factory raises a ValueError that names the field for each `checks.ArgumentError` of the
  class.

  Args:
    name: the type in YAML.
    options: dataclass whose fields are arguments of the class.  The factory adds `input_specs`,
      `min_level`, `max_level`, `activation`, `use_sync_bn`, `norm_momentum`, `norm_epsilon`,
      `kernel_regularizer` and `name`.

  Returns:
    A class decorator that returns the class unchanged.
  """

  def register(cls):

    def build(input_specs, model_config, l2_regularizer=None):
      norm_activation = model_config.norm_activation
      with checks.naming_field(f'decoder.{name}', _DECODER_FIELDS):
        chosen = model_config.decoder.get().as_dict()
        checks.check_types(options, chosen)
        return cls(
            input_specs=input_specs,
            min_level=model_config.min_level,
            max_level=model_config.max_level,
            activation=norm_activation.activation,
            use_sync_bn=norm_activation.use_sync_bn,
            norm_momentum=norm_activation.norm_momentum,
            norm_epsilon=norm_activation.norm_epsilon,
            kernel_regularizer=l2_regularizer,
            name=name,
            **chosen)

    factory.register_decoder_builder(name)(build)
    _DECODER_OPTIONS[name] = options
    return cls

  return register


def register_tower(name: str, options: type[hyperparams.Config]) -> Callable[[type], type]:
  """Registers a layer for `head.tower.type: name`.

  `build_tower` calls `cls(num_filters=..., kernel_regularizer=..., name=..., dtype=...,
  **options)`.  The layer, called as `tower(features, training=...)`, maps `{level: [batch,
  height, width, channels]}` to `{level: [batch, height, width, num_filters]}`.

  Args:
    name: the type in YAML.
    options: dataclass whose fields are arguments of the class.

  Returns:
    A class decorator that returns the class unchanged.

  Raises:
    KeyError: the name is taken.
  """
  if name in _TOWERS:
    raise KeyError(f'A tower {name!r} is registered already: {_TOWERS[name].__name__}.')

  def register(cls):
    _TOWERS[name], _TOWER_OPTIONS[name] = cls, options
    return cls

  return register


def build_tower(tower_type: str, options: Mapping[str, Any], num_filters: int, name: str,
                kernel_regularizer: Any | None = None, dtype: Any | None = None) -> Any:
  """Makes a registered tower.

  Args:
    tower_type: the name under which the tower is registered.
    options: the tower's own options.
    num_filters: channels of every level of the result.
    name: name of the layer.
    kernel_regularizer: regularizer of all kernels.
    dtype: dtype or dtype policy of the layer; None: the global policy.

  Returns:
    The layer.

  Raises:
    ValueError: no tower of this name is registered, or an option is not allowed; the message
      names the field.
  """
  TowerConfig.check(tower_type)
  with checks.naming_field(f'head.tower.{tower_type}', {'num_filters': 'head.num_filters'}):
    checks.check_types(_TOWER_OPTIONS[tower_type], options)
    return _TOWERS[tower_type](num_filters=num_filters, kernel_regularizer=kernel_regularizer,
                               name=name, dtype=dtype, **options)
