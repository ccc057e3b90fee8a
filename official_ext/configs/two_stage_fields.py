"""Options of Faster, Mask and Cascade R-CNN that have to agree with each other."""
from typing import Any

from official_ext.ops import checks

# Records of a detector with masks.
_MASK_BRANCH = ('mask_head', 'mask_sampler', 'mask_roi_aligner')


def check_mask_branch(model: Any) -> None:
  """Checks that a detector that is to find masks has what finds them.

  Args:
    model: config of the model.

  Raises:
    FieldError: a record is missing; the message names it.
  """
  missing = [name for name in _MASK_BRANCH if getattr(model, name, None) is None]
  if getattr(model, 'include_mask', False) and missing:
    raise checks.FieldError(
        f'task.model.include_mask is true, but task.model.{missing[0]} is null: take an experiment '
        f'of Mask R-CNN, or give {", ".join(missing)} too.')


def check_samples(task: Any) -> None:
  """Checks that the second stage of a detector gets as many boxes as it is to sample of.

  Args:
    task: config of the task.

  Raises:
    FieldError: there are fewer; the message names the fields.
  """
  model = task.model
  sampled = model.roi_sampler.num_sampled_rois
  masks = model.mask_sampler.num_sampled_masks if model.include_mask else 0
  if masks > sampled:
    raise checks.FieldError(
        f'task.model.mask_sampler.num_sampled_masks is {masks}, and roi_sampler.num_sampled_rois '
        f'{sampled}: the first must not be above the second.')
  proposals = _num_proposals(model)
  objects = task.train_data.parser.max_num_instances if model.roi_sampler.mix_gt_boxes else 0
  if sampled > proposals + objects:
    raise checks.FieldError(
        f'task.model.roi_sampler.num_sampled_rois is {sampled}, but there are {proposals} '
        f'proposals, by task.model.roi_generator, and {objects} objects of '
        'task.train_data.parser.max_num_instances: it must not be above their sum.')


def _num_proposals(model: Any) -> int:
  """Returns how many boxes the first stage of a detector proposes in training."""
  options, anchor = model.roi_generator, model.anchor
  if None in model.input_size:
    return options.num_proposals
  height, width = model.input_size[:2]
  found = 0
  for stride in (2**level for level in range(model.min_level, model.max_level + 1)):
    boxes = (-(-height // stride) * -(-width // stride)
             * anchor.num_scales * len(anchor.aspect_ratios))
    found += min(boxes, options.num_proposals)
  return min(found, options.num_proposals)
