"""Options of image classification, by which backbones are pre-trained."""
import dataclasses

from official.vision.configs import image_classification

from official_ext.configs import components


@dataclasses.dataclass
class ClassifierConfig(image_classification.ImageClassificationModel):
  """Model Garden's classifier, on all maps of any registered backbone."""
  backbone: components.BackboneConfig = dataclasses.field(
      default_factory=lambda: components.backbone(type='caddet'))


@dataclasses.dataclass
class ClassificationTaskConfig(image_classification.ImageClassificationTask):
  """Model Garden's task of image classification."""
  model: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
