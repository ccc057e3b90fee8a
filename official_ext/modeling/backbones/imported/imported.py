"""A backbone of Model Garden that computes what Keras Applications or torchvision compute."""
from collections.abc import Sequence
import dataclasses
from typing import Any

from official.modeling import hyperparams
from official.vision.modeling.backbones import efficientnet
from official.vision.modeling.backbones import mobilenet
from official.vision.modeling.backbones import resnet
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.backbones.imported import blocks
from official_ext.modeling.backbones.imported import conventions
from official_ext.modeling.backbones.imported import paddings
from official_ext.modeling.layers import deformable
from official_ext.ops import checks

_CLASSES = {'resnet': resnet.ResNet, 'mobilenet': mobilenet.MobileNet,
            'efficientnet': efficientnet.EfficientNet}
_SQUEEZE_EXCITATION = {'se_ratio': 0.25, 'activation': 'swish', 'se_inner_activation': 'swish'}


@dataclasses.dataclass
class ImportedConfig(hyperparams.Config):
  """Options of `ImportedBackbone`; see its arguments."""
  network: str = 'resnet50'
  source: str = 'torchvision'
  deformable_stages: list[int] = dataclasses.field(default_factory=list)
  modulated: bool = False
  offset_rate: float = 1.0
  bn_trainable: bool = True


# The fields of `norm_activation` that the backbone takes.
NORM_OPTIONS = ('use_sync_bn', 'norm_momentum')


@components.register_backbone('imported', ImportedConfig, NORM_OPTIONS)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class ImportedBackbone(tf_keras.Model):
  """Model Garden's backbone, with padding, stride, input and epsilon of the source of its weights.

  Model Garden's own types cannot compute the features of these sources with any weights: at even
  sizes their convolutions of stride 2 stand half a pixel aside (torchvision, and the stem of
  Keras's ResNet), bottlenecks have their stride in another convolution (Keras's ResNet), and
  squeeze and excitation has ReLU for swish (EfficientNet).  The variables, and so the checkpoints,
  are those of Model Garden's backbone of the same network.

  The input is Model Garden's, as its parsers normalize images; where the source takes another, the
  first convolution makes it of this.  Activation and epsilon of the norms are the source's, and
  not those of `norm_activation`.

  References: Kaiming He et al., Deep Residual Learning for Image Recognition,
  https://arxiv.org/abs/1512.03385; Andrew Howard et al., MobileNets,
  https://arxiv.org/abs/1704.04861; Mark Sandler et al., MobileNetV2,
  https://arxiv.org/abs/1801.04381; Mingxing Tan, Quoc Le, EfficientNet,
  https://arxiv.org/abs/1905.11946; Saining Xie et al., Aggregated Residual Transformations for Deep
  Neural Networks, https://arxiv.org/abs/1611.05431; Jifeng Dai et al., Deformable Convolutional
  Networks, https://arxiv.org/abs/1703.06211.
  """

  def __init__(self,
               network: str = 'resnet50',
               source: str = 'torchvision',
               deformable_stages: Sequence[int] = (),
               modulated: bool = False,
               offset_rate: float = 1.0,
               bn_trainable: bool = True,
               input_specs: Any = (None, None, None, 3),
               use_sync_bn: bool = False,
               norm_momentum: float = 0.99,
               kernel_regularizer: Any | None = None,
               name: str | None = None):
    """Initializes the backbone.

    Args:
      network: a key of `conventions.NETWORKS`, such as `resnet101`.
      source: `keras`, Keras Applications, or `torchvision`.
      deformable_stages: levels, of 2 to 5, whose stages have deformable 3x3 convolutions in every
        block, for a ResNet; [3, 4, 5] is usual.  They start as the plain ones and take their
        weights, and their offsets start at 0.
      modulated: whether deformable convolutions have masks (version 2); they start at half of the
        plain convolution.
      offset_rate: factor of the gradients of their offsets' convolutions, see
        `layers.deformable.WithOffsets`.
      bn_trainable: whether batch norms train; if not, they use and keep their moving averages,
        scales and offsets, as most detectors with few images on each device have it.
      input_specs: `InputSpec` or shape of the images, `[batch, height, width, 3]`.
      use_sync_bn: whether batch norm uses the statistics of all replicas' images.
      norm_momentum: momentum of the moving averages.
      kernel_regularizer: regularizer of all kernels.
      name: of the model.

    Raises:
      ArgumentError: an unknown network or source, a source that has no such network, stages that
        it has not, or a wrong rate.
    """
    self._convention = conventions.convention(network, source)
    kind, model_id = conventions.NETWORKS[network]
    _check_stages(network, kind, deformable_stages)
    deformable.check_offset_rate(offset_rate)
    self._deformed = blocks.Deformable(tuple(deformable_stages), modulated, offset_rate)
    shape = tf.TensorShape(getattr(input_specs, 'shape', input_specs)).as_list()
    self._options = {
        'network': network, 'source': source, 'deformable_stages': list(deformable_stages),
        'modulated': modulated, 'offset_rate': offset_rate,
        'bn_trainable': bn_trainable, 'input_specs': shape, 'use_sync_bn': use_sync_bn,
        'norm_momentum': norm_momentum,
        'kernel_regularizer': tf_keras.regularizers.serialize(
            tf_keras.regularizers.get(kernel_regularizer))}
    stock = _CLASSES[kind](
        model_id=model_id, input_specs=tf_keras.layers.InputSpec(shape=shape),
        use_sync_bn=use_sync_bn, norm_momentum=norm_momentum,
        norm_epsilon=self._convention.epsilon, kernel_regularizer=kernel_regularizer,
        **(_SQUEEZE_EXCITATION if kind == 'efficientnet' else {}))
    copy = tf_keras.models.clone_model(stock, clone_function=self._imported_layer)
    outputs = dict(zip(stock.output, copy.outputs))
    super().__init__(inputs=copy.inputs, outputs=outputs, name=name)
    self._output_specs = {level: outputs[level].shape for level in stock.output_specs}
    for norm in self._batch_norms():
      norm.trainable = bn_trainable

  def _imported_layer(self, layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    """Returns a layer of Model Garden's backbone as the source has it."""
    cls = blocks.IMPORTED.get(type(layer))
    if cls is blocks.Bottleneck:
      return cls(convention=self._convention, deformed=self._deformed, **layer.get_config())
    if cls:
      return cls(convention=self._convention, **layer.get_config())
    if isinstance(layer, tf_keras.layers.Conv2D) and max(layer.strides) > 1:
      return blocks.padded_stem(layer, self._convention)
    if isinstance(layer, tf_keras.layers.MaxPool2D):
      return paddings.changed(layer, paddings.PaddedMaxPool2D, pads=self._convention.padding)
    return paddings.changed(layer)

  @property
  def output_specs(self) -> dict[str, tf.TensorShape]:
    """Level -> shape of the result, without the last layer of MobileNetV2 and EfficientNet."""
    return self._output_specs

  @property
  def convention(self) -> conventions.Convention:
    """How the source computes the network."""
    return self._convention

  def _batch_norms(self) -> blocks.Layers:
    return [layer for layer in self.submodules
            if isinstance(layer, tf_keras.layers.BatchNormalization)]

  def weighted_layers(self) -> blocks.Layers:
    """Returns the layers with variables, in the order in which the sources name them."""
    found = []
    for layer in self.layers:
      if isinstance(layer, blocks.Imported):
        found.extend(layer.weighted_layers())
      elif layer.weights:
        found.append(layer)
    return found

  def get_config(self) -> dict[str, Any]:
    return {**self._options, 'name': self.name}

  @classmethod
  def from_config(cls, config: dict[str, Any], custom_objects: Any | None = None
                  ) -> 'ImportedBackbone':
    return cls(**config)


def _check_stages(network: str, kind: str, stages: Sequence[int]) -> None:
  """Checks that a network has the stages whose convolutions are to be deformable."""
  allowed = [2, 3, 4, 5] if kind == 'resnet' else []
  if not set(stages) <= set(allowed):
    raise checks.ArgumentError(
        'deformable_stages', f'deformable_stages is {list(stages)}; allowed for {network} are '
        f'{"any of " + str(allowed) if allowed else "none, because it is no ResNet"}.')
