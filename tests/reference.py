"""Plain NumPy versions of operations that networks use, for comparison."""
import numpy as np


def conv2d(inputs, kernel, bias=0.0, stride=1, dilation=1):
  """A `same`-padded convolution, one kernel position at a time."""
  size = np.array(inputs.shape[1:3])
  out = -(-size // stride)
  reach = (np.array(kernel.shape[:2]) - 1) * dilation + 1
  total = np.maximum((out - 1) * stride + reach - size, 0)
  before = total // 2
  padded = np.pad(inputs, [(0, 0), *zip(before, total - before), (0, 0)])
  result = np.zeros([inputs.shape[0], *out, kernel.shape[3]], inputs.dtype) + bias
  for row, column in np.ndindex(*kernel.shape[:2]):
    top, left = row * dilation, column * dilation
    patch = padded[:, top:top + (out[0] - 1) * stride + 1:stride,
                   left:left + (out[1] - 1) * stride + 1:stride]
    result += patch @ kernel[row, column]
  return result


def separable_conv2d(inputs, depthwise, pointwise, bias=0.0, stride=1, dilation=1):
  """A depthwise convolution, each channel by itself, then a 1x1 convolution."""
  channels = [conv2d(inputs[..., c:c + 1], depthwise[:, :, c:c + 1], 0.0, stride, dilation)
              for c in range(inputs.shape[-1])]
  return conv2d(np.concatenate(channels, -1), pointwise, bias)


def batch_norm(inputs, gamma, beta, mean=None, variance=None, epsilon=1e-3):
  """Normalizes each channel, by statistics of the batch if none are given."""
  if mean is None:
    mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
  return (inputs - mean) / np.sqrt(variance + epsilon) * gamma + beta


def symmetric_conv2d(inputs, kernel, bias=0.0, stride=2):
  """A convolution with half a kernel of zeros on every side, at every `stride`-th pixel."""
  return conv2d(inputs, kernel, bias)[:, ::stride, ::stride]


def transposed_conv2d(inputs, kernel, bias=0.0):
  """A transposed convolution of stride 2.

  Pixel (i, j) of the input adds its kernel `[3, 3, out, in]` around pixel (2 i, 2 j) of the result.
  """
  batch, height, width, _ = inputs.shape
  result = np.zeros([batch, 2 * height + 1, 2 * width + 1, kernel.shape[2]]) + bias
  for row, column in np.ndindex(height, width):
    patch = np.einsum('bi,xyoi->bxyo', inputs[:, row, column], kernel)
    result[:, 2 * row:2 * row + 3, 2 * column:2 * column + 3] += patch
  return result[:, 1:, 1:]


def group_norm(inputs, mask, gamma, beta, groups, epsilon=1e-5):
  """Group norm with statistics of the active positions only; 0 at all others."""
  inputs = np.asarray(inputs, np.float64)
  result, size = np.zeros(inputs.shape), inputs.shape[-1] // groups
  for image, first in np.ndindex(len(inputs), groups):
    active, group = mask[image, ..., 0], slice(first * size, (first + 1) * size)
    values = inputs[image, ..., group][active]
    if values.size:
      normal = (values - values.mean()) / np.sqrt(values.var() + epsilon)
      result[image, active, group] = normal * gamma[group] + beta[group]
  return result


def dilate(mask):
  """Returns the 3x3 neighborhoods of the active positions of `[batch, height, width, 1]`."""
  result = np.zeros_like(mask)
  for image, row, column, _ in np.argwhere(mask):
    result[image, max(row - 1, 0):row + 2, max(column - 1, 0):column + 2] = True
  return result


def sample_bilinear(inputs, positions, padding='zeros'):
  """Sums all pixels, each weighted by max(1 - distance, 0) along both axes."""
  last = np.array(inputs.shape[1:3]) - 1
  if padding == 'border':
    positions = np.clip(positions, 0, last)
  rows, columns = (np.maximum(1 - abs(positions[..., axis, None] - np.arange(last[axis] + 1)), 0)
                   for axis in (0, 1))
  return np.einsum('bijr,bijs,brsc->bijc', rows, columns, inputs)


def deformable_conv2d(inputs, kernel, raw, stride=1, mask_scale=1.0):
  """Sums over the taps of a kernel: of `raw` a pair of each is its offset, the rest its logits."""
  sides = kernel.shape[:2]
  taps = sides[0] * sides[1]
  grid = stride * np.stack(np.meshgrid(*map(np.arange, raw.shape[1:3]), indexing='ij'), -1)
  total = 0
  for tap, place in enumerate(np.ndindex(*sides)):
    start = grid + place - np.array(sides) // 2
    sampled = sample_bilinear(inputs, start + raw[..., 2 * tap:2 * tap + 2])
    mask = mask_scale * sigmoid(raw[..., 2 * taps + tap, None])
    total = total + (mask * sampled) @ kernel[place]
  return total


def aligned_grid(size_in, size_out):
  """Returns where the pixels of one map lie in another, with corners on corners."""
  axes = [np.arange(b) * (a - 1) / max(b - 1, 1) for a, b in zip(size_in, size_out)]
  return np.stack(np.meshgrid(*axes, indexing='ij'), -1)


def resize_bilinear(inputs, size):
  grid = np.broadcast_to(aligned_grid(inputs.shape[1:3], size), [len(inputs), *size, 2])
  return sample_bilinear(inputs, grid)


def resize_nearest(inputs, size):
  """Takes the source pixel floor(i * in / out) for pixel i, along both axes."""
  result = np.zeros([inputs.shape[0], *size, inputs.shape[3]], inputs.dtype)
  for row, column in np.ndindex(*size):
    result[:, row, column] = inputs[:, row * inputs.shape[1] // size[0],
                                    column * inputs.shape[2] // size[1]]
  return result


def softmax(logits):
  exponents = np.exp(logits - logits.max(-1, keepdims=True))
  return exponents / exponents.sum(-1, keepdims=True)


def sigmoid(values):
  return 1 / (1 + np.exp(-values))


def pyramid_inputs(channels, size=(32, 40), batch=2, seed=0, dtype=np.float32):
  """Returns features `{level: [batch, h, w, channels]}`, not negative, like a backbone's."""
  rng = np.random.default_rng(seed)
  features = {}
  for level, depth in channels.items():
    height, width = (-(-length // 2**int(level)) for length in size)
    features[level] = rng.uniform(0, 1, [batch, height, width, depth]).astype(dtype)
  return features


def conv_variables(layer):
  """Returns kernel and bias of a convolution as NumPy arrays."""
  return layer.kernel.numpy(), layer.bias.numpy()
