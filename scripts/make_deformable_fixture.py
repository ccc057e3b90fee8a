"""Writes what torchvision's deformable convolution gives, for tests that run without it.

    PYTHON scripts/make_deformable_fixture.py tests/ops/deformable_conv.npz

PYTHON is the interpreter of an environment in which `pip install torch torchvision` was done; the
environment of this project has neither.  Inputs are random, offsets reach beyond the map, and some
positions lie exactly on pixels.  All is float64, in the layouts of
`official_ext.ops.deformable_conv`.
"""
import sys

import numpy as np

# Name -> height, width, channels, filters, groups, sets of offsets, stride, dilation, masks.
CASES = {
    'plain': (5, 6, 3, 4, 1, 1, 1, 1, False),
    'strided': (6, 7, 2, 3, 1, 1, 2, 1, True),
    'grouped': (4, 5, 4, 6, 2, 2, 1, 2, True),
}


def arrays(name: str) -> dict[str, np.ndarray]:
  """Returns inputs, result and gradients of a case."""
  import torch
  import torchvision
  height, width, channels, filters, groups, sets, stride, dilation, has_masks = CASES[name]
  rng = np.random.default_rng(sorted(CASES).index(name))
  out = [-(-size // stride) for size in (height, width)]
  offsets = rng.normal(0, 2, [2, *out, sets * 18])
  offsets[0, 0] = np.round(offsets[0, 0])
  inputs = {'features': rng.normal(size=[2, height, width, channels]),
            'kernel': rng.normal(size=[3, 3, channels // groups, filters]), 'offsets': offsets,
            'masks': rng.uniform(size=[2, *out, sets * 9]),
            'upstream': rng.normal(size=[2, *out, filters])}
  tensors = {key: torch.tensor(value, requires_grad=True) for key, value in inputs.items()}

  def first(key):
    return tensors[key].permute(0, 3, 1, 2)

  result = torchvision.ops.deform_conv2d(
      first('features'), first('offsets'), tensors['kernel'].permute(3, 2, 0, 1), stride=stride,
      padding=dilation, dilation=dilation, mask=first('masks') if has_masks else None)
  (result * first('upstream')).sum().backward()
  found = {**inputs, 'result': result.permute(0, 2, 3, 1).detach().numpy(),
           'options': np.array([stride, dilation])}
  for key in ('features', 'kernel', 'offsets', *(['masks'] if has_masks else [])):
    found[f'gradient_{key}'] = tensors[key].grad.numpy()
  if not has_masks:
    del found['masks']
  return {f'{name}/{key}': value for key, value in found.items()}


if __name__ == '__main__':
  np.savez_compressed(
      sys.argv[1], **{key: value for name in CASES for key, value in arrays(name).items()})
