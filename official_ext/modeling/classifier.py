"""Image classification by all maps of a backbone, to pre-train those that end in several."""
from typing import Any, Dict, Mapping, Optional

from official.vision.modeling import backbones
from official.vision.modeling import classification_model
import tensorflow as tf, tf_keras


class _Averages(tf_keras.layers.Layer):
  """A backbone whose result is one vector: the averages of all its maps, side by side."""

  def __init__(self, backbone: tf_keras.layers.Layer, **kwargs):
    super().__init__(**kwargs)
    self.backbone = backbone

  def call(self, images: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
    """Maps `[batch, height, width, 3]` to `{'averages': [batch, channels of all maps]}`."""
    features = self.backbone(images, training=training)
    # Over thousands of positions float16 and bfloat16 would lose the sum.
    averages = [tf.reduce_mean(tf.cast(features[level], tf.float32), [1, 2])
                for level in sorted(features, key=int)]
    return {'averages': tf.concat(averages, -1)}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class Classifier(classification_model.ClassificationModel):
  """Model Garden's classifier on the concatenated averages of all maps of a backbone.

  Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
  https://arxiv.org/abs/2012.04265, section 4.1: so the supernet is pre-trained.
  """

  def __init__(self, backbone: tf_keras.layers.Layer, num_classes: int, **kwargs):
    """Initializes the classifier.

    Args:
      backbone: gives `{level: features}`; its checkpoint item is `backbone`, as a detector's.
      num_classes: number of classes.
      **kwargs: arguments of `ClassificationModel`.
    """
    super().__init__(_Averages(backbone), num_classes, **kwargs)
    self._backbone = self._config_dict['backbone'] = backbone

  def get_config(self) -> Mapping[str, Any]:
    return dict(self._config_dict)


def build_classifier(input_specs: tf_keras.layers.InputSpec, model_config: Any,
                     l2_regularizer: Optional[Any] = None) -> Classifier:
  """Builds the classifier of a `configs.classifiers.ClassifierConfig`.

  Args:
    input_specs: of the images.
    model_config: the options.
    l2_regularizer: of all kernels.
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
