"""Options of image classification, which pre-trains backbones."""
import dataclasses

from official.vision.configs import image_classification

from official_ext.configs import components


@dataclasses.dataclass
class ClassifierConfig(image_classification.ImageClassificationModel):
  """Options of `modeling.classifier.Classifier`, on any registered backbone."""
  backbone: components.BackboneConfig = dataclasses.field(
      default_factory=lambda: components.backbone(type='caddet'))


@dataclasses.dataclass
class ClassificationTaskConfig(image_classification.ImageClassificationTask):
  """Model Garden's image classification task with this classifier."""
  model: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
