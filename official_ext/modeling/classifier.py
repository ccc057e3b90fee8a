"""Image classification from all maps of a backbone, to pre-train backbones that return several."""
from collections.abc import Mapping
from typing import Any

from official.vision.modeling import backbones
from official.vision.modeling import classification_model
import tensorflow as tf, tf_keras


class _Averages(tf_keras.layers.Layer):
  """Concatenates the global averages of all maps of a backbone."""

  def __init__(self, backbone: tf_keras.layers.Layer, **kwargs):
    super().__init__(**kwargs)
    self.backbone = backbone

  def call(self, images: tf.Tensor, training: bool | None = None) -> dict[str, tf.Tensor]:
    """Averages the maps of the backbone.

    Args:
      images: `[batch, height, width, 3]`.
      training: None counts as False.

    Returns:
      `{'averages': [batch, channels of all maps]}`, finest map first.
    """
    features = self.backbone(images, training=training)
    # A sum over thousands of positions needs more precision than float16 and bfloat16 have.
    averages = [tf.reduce_mean(tf.cast(features[level], tf.float32), [1, 2])
                for level in sorted(features, key=int)]
    return {'averages': tf.concat(averages, -1)}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class Classifier(classification_model.ClassificationModel):
  """Model Garden's classifier on the concatenated averages of all maps of a backbone.

  Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
  https://arxiv.org/abs/2012.04265, section 4.1, where the supernet is pre-trained this way.
  """

  def __init__(self, backbone: tf_keras.layers.Layer, num_classes: int, **kwargs):
    """Initializes the classifier.

    Args:
      backbone: returns `{level: features}`.  Its checkpoint item is `backbone`, as in a detector,
        so that a detector can start from it.
      num_classes: number of classes.
      **kwargs: arguments of `ClassificationModel`.
    """
    super().__init__(_Averages(backbone), num_classes, **kwargs)
    self._backbone = self._config_dict['backbone'] = backbone

  def get_config(self) -> Mapping[str, Any]:
    return dict(self._config_dict)


def build_classifier(input_specs: tf_keras.layers.InputSpec, model_config: Any,
                     l2_regularizer: Any | None = None) -> Classifier:
  """Builds the classifier of a `configs.classifiers.ClassifierConfig`.

  Args:
    input_specs: shape of the images.
    model_config: a `ClassifierConfig`.
    l2_regularizer: regularizer of all kernels.
  """
  norm = model_config.norm_activation
  backbone = backbones.factory.build_backbone(
      input_specs, model_config.backbone, norm, l2_regularizer)
  return Classifier(
      backbone, model_config.num_classes, input_specs=input_specs,
      dropout_rate=model_config.dropout_rate, kernel_initializer=model_config.kernel_initializer,
      kernel_regularizer=l2_regularizer, add_head_batch_norm=model_config.add_head_batch_norm,
      use_sync_bn=norm.use_sync_bn, norm_momentum=norm.norm_momentum,
      norm_epsilon=norm.norm_epsilon)
