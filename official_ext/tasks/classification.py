"""The task of image classification, by which backbones are pre-trained."""
from official.core import task_factory
from official.vision.tasks import image_classification
import tf_keras

from official_ext.configs import classifiers
from official_ext.modeling import classifier
from official_ext.modeling.layers import convolutions


@task_factory.register_task_cls(classifiers.ClassificationTaskConfig)
class ClassificationTask(image_classification.ImageClassificationTask):
  """Model Garden's task of image classification, with a classifier on all maps of a backbone."""

  def build_model(self) -> tf_keras.Model:
    """Builds the classifier that the config describes."""
    config = self.task_config
    model = classifier.build_classifier(
        tf_keras.layers.InputSpec(shape=[None, *config.model.input_size]), config.model,
        convolutions.l2_regularizer(config.losses.l2_weight_decay))
    model.backbone.trainable = not config.freeze_backbone
    return model
