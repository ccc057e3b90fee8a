"""The task of Faster, Mask and Cascade R-CNN."""
from official.core import task_factory
from official.vision.tasks import maskrcnn

from official_ext.configs import detectors
from official_ext.tasks import routed


@task_factory.register_task_cls(detectors.MaskRCNNTaskConfig)
class RoutedMaskRCNNTask(routed.RoutedTask, maskrcnn.MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task, with routed parts."""
