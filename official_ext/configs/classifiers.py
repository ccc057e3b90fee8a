"""Options of image classification, by which backbones are pre-trained."""
import dataclasses

from official.vision.configs import image_classification

from official_ext.configs import components


@dataclasses.dataclass
class Classifier(image_classification.ImageClassificationModel):
  """Model Garden's classifier, on all maps of any registered backbone."""
  backbone: components.Backbone = dataclasses.field(
      default_factory=lambda: components.backbone(type='caddet'))


@dataclasses.dataclass
class ClassificationTask(image_classification.ImageClassificationTask):
  """Model Garden's task of image classification."""
  model: Classifier = dataclasses.field(default_factory=Classifier)
