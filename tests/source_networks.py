"""Networks of Keras Applications with random numbers, and torchvision's networks in TensorFlow."""
import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf, tf_keras

MEAN, DEVIATION = (np.array(values) for values in (
    preprocess_ops.MEAN_NORM, preprocess_ops.STDDEV_NORM))

_CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # blue first
# Network -> its function in Keras, its input of pixels, and the layers that end levels 2 to 5.
_KERAS = {
    'resnet50': ('ResNet50', lambda pixels: pixels[..., ::-1] - _CAFFE_MEAN, (
        'conv2_block3_out', 'conv3_block4_out', 'conv4_block6_out', 'conv5_block3_out')),
    'mobilenet_v1': ('MobileNet', lambda pixels: pixels / 127.5 - 1, (
        'conv_pw_3_relu', 'conv_pw_5_relu', 'conv_pw_11_relu', 'conv_pw_13_relu')),
    'mobilenet_v2': ('MobileNetV2', lambda pixels: pixels / 127.5 - 1, (
        'block_2_add', 'block_5_add', 'block_12_add', 'block_16_project_BN')),
    'efficientnet_b0': ('EfficientNetB0', lambda pixels: pixels, (
        'block2b_add', 'block3b_add', 'block5c_add', 'block7a_project_bn')),
}


def keras_network(name, size):
  """A network of Keras with random weights, statistics and biases, for images of one size."""
  generator = np.random.default_rng(0)
  model = getattr(tf_keras.applications, _KERAS[name][0])(
      weights=None, include_top=False, input_shape=(*size, 3))
  for layer in model.layers:
    if isinstance(layer, tf_keras.layers.BatchNormalization):
      layer.set_weights([generator.uniform(low, high, layer.gamma.shape) for low, high in (
          (0.6, 1.4), (-0.3, 0.3), (-0.3, 0.3), (0.5, 1.5))])
    elif isinstance(layer, tf_keras.layers.Normalization):
      layer.set_weights([MEAN, DEVIATION**2, np.int64(0)])
    elif getattr(layer, 'use_bias', False):
      layer.set_weights([layer.get_weights()[0], generator.uniform(-0.3, 0.3, layer.bias.shape)])
  return model


def keras_features(name, model, pixels):
  """The features of levels 2 to 5, computed by Keras from pixels of 0 to 255, red first."""
  outputs = [model.get_layer(layer).output for layer in _KERAS[name][2]]
  values = tf_keras.Model(model.input, outputs)(_KERAS[name][1](pixels), training=False)
  return {str(level): value.numpy() for level, value in enumerate(values, 2)}


def normalized(pixels):
  """The input that Model Garden's parsers make of pixels."""
  return ((pixels / 255 - MEAN) / DEVIATION).astype(np.float32)


class TorchNetwork:
  """The operations of torchvision's networks, on a state_dict, with its padding written out."""

  def __init__(self, state, epsilon):
    self._state, self._epsilon = state, epsilon

  def conv(self, name, x, stride=1):
    """Convolution with the norm that follows it, named alike but for the last number."""
    kernel = self._state[f'{name}.weight']
    side = kernel.shape[-1] // 2
    x = tf.pad(x, [[0, 0], [side, side], [side, side], [0, 0]])
    if kernel.shape[1] == 1 and kernel.shape[0] == x.shape[-1]:
      return tf.nn.depthwise_conv2d(
          x, kernel.transpose(2, 3, 0, 1), [1, stride, stride, 1], 'VALID')
    return tf.nn.conv2d(x, kernel.transpose(2, 3, 1, 0), stride, 'VALID')

  def norm(self, name, x):
    weight, bias, mean, variance = (self._state[f'{name}.{part}'] for part in (
        'weight', 'bias', 'running_mean', 'running_var'))
    return (x - mean) / np.sqrt(variance + self._epsilon) * weight + bias

  def mobilenet_v2(self, images):
    """Level -> features."""
    x = tf.nn.relu6(self.norm('features.0.1', self.conv('features.0.0', images, 2)))
    levels = {}
    for block in range(1, 18):
      name, before = f'features.{block}.conv', x
      stride = 2 if block in (2, 4, 7, 14) else 1
      depthwise = 0 if block == 1 else 1
      for part in range(depthwise + 1):
        x = self.conv(f'{name}.{part}.0', x, stride if part == depthwise else 1)
        x = tf.nn.relu6(self.norm(f'{name}.{part}.1', x))
      x = self.norm(f'{name}.{depthwise + 2}', self.conv(f'{name}.{depthwise + 1}', x))
      if stride == 1 and x.shape[-1] == before.shape[-1]:
        x += before
      if block in (3, 6, 13, 17):
        levels[str(len(levels) + 2)] = x.numpy()
    return levels

  def resnet50(self, images):
    """Level -> features."""
    x = tf.nn.relu(self.norm('bn1', self.conv('conv1', images, 2)))
    x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf),
                         3, 2, 'VALID')
    levels = {}
    for stage, count in enumerate((3, 4, 6, 3), 1):
      for block in range(count):
        name, before = f'layer{stage}.{block}', x
        stride = 2 if stage > 1 and block == 0 else 1
        for part in (1, 2, 3):
          x = self.conv(f'{name}.conv{part}', x, stride if part == 2 else 1)
          x = self.norm(f'{name}.bn{part}', x)
          x = tf.nn.relu(x) if part < 3 else x
        if block == 0:
          before = self.norm(f'{name}.downsample.1',
                             self.conv(f'{name}.downsample.0', before, stride))
        x = tf.nn.relu(x + before)
      levels[str(stage + 1)] = x.numpy()
    return levels


def torch_state(backbone, names):
  """A state_dict of random numbers for the layers of an `ImportedBackbone`, named in its order."""
  generator = np.random.default_rng(0)
  state = {}
  for name, layer in zip(names, backbone.weighted_layers(), strict=True):
    shapes = [tuple(weight.shape) for weight in layer.weights]
    if isinstance(layer, tf_keras.layers.BatchNormalization):
      for part, low, high in (('weight', 0.6, 1.4), ('bias', -0.3, 0.3),
                              ('running_mean', -0.3, 0.3), ('running_var', 0.5, 1.5)):
        state[f'{name}.{part}'] = generator.uniform(low, high, shapes[0]).astype(np.float32)
      state[f'{name}.num_batches_tracked'] = np.array(7)
      continue
    height, width, first, second = shapes[0]
    is_depthwise = isinstance(layer, tf_keras.layers.DepthwiseConv2D)
    outputs, inputs = (first, second) if is_depthwise else (second, first)
    deviation = (height * width * inputs) ** -0.5
    state[f'{name}.weight'] = generator.normal(
        0, deviation, (outputs, inputs, height, width)).astype(np.float32)
    if layer.use_bias:
      state[f'{name}.bias'] = generator.uniform(-0.3, 0.3, outputs).astype(np.float32)
  return state
