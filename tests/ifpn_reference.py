"""The maps of the implicit pyramid in plain NumPy, from weights by name."""
import numpy as np
import reference


def conv(inputs, kernel, stride=1):
  """Convolution with zero padding of half the kernel on all sides, one position at a time."""
  pad = kernel.shape[0] // 2
  padded = np.pad(inputs, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
  height, width = (-(-size // stride) for size in inputs.shape[1:3])
  result = np.zeros([inputs.shape[0], height, width, kernel.shape[3]])
  for row, column in np.ndindex(height, width):
    top, left = row * stride, column * stride
    patch = padded[:, top:top + kernel.shape[0], left:left + kernel.shape[1]]
    result[:, row, column] = np.einsum('nhwc,hwcf->nf', patch, kernel)
  return result


def bilinear(inputs, size):
  """Bilinear resizing in which corners fall on corners, one pixel at a time."""
  result = np.zeros([inputs.shape[0], *size, inputs.shape[3]])
  ratio = [(a - 1) / (b - 1) if b > 1 else 0.0 for a, b in zip(inputs.shape[1:3], size)]
  for row, column in np.ndindex(*size):
    y, x = row * ratio[0], column * ratio[1]
    top, left = (min(int(np.floor(v + 1e-9)), n - 1) for v, n in zip((y, x), inputs.shape[1:3]))
    bottom, right = min(top + 1, inputs.shape[1] - 1), min(left + 1, inputs.shape[2] - 1)
    upper = inputs[:, top, left] * (1 - (x - left)) + inputs[:, top, right] * (x - left)
    lower = inputs[:, bottom, left] * (1 - (x - left)) + inputs[:, bottom, right] * (x - left)
    result[:, row, column] = upper * (1 - (y - top)) + lower * (y - top)
  return result


def nearest(inputs, size):
  rows = np.arange(size[0]) * inputs.shape[1] // size[0]
  columns = np.arange(size[1]) * inputs.shape[2] // size[1]
  return inputs[:, rows][:, :, columns]


def max_pool(inputs, window, stride):
  """Max-pooling with Keras's `same` padding."""
  result = np.zeros([inputs.shape[0], *(-(-s // stride) for s in inputs.shape[1:3]),
                     inputs.shape[3]])
  before = [max((r - 1) * stride + window - s, 0) // 2
            for r, s in zip(result.shape[1:3], inputs.shape[1:3])]
  for row, column in np.ndindex(*result.shape[1:3]):
    top, left = row * stride - before[0], column * stride - before[1]
    patch = inputs[:, max(top, 0):top + window, max(left, 0):left + window]
    result[:, row, column] = patch.max((1, 2))
  return result


def relu(values):
  return np.maximum(values, 0)


class Map:
  """The map G, from its weights `{name: array}`; names are relative to the map's own."""

  def __init__(self, weights, num_levels, masks=None):
    self.weights, self.num_levels = weights, num_levels
    self.masks = masks or [1.0] * num_levels

  def conv(self, name, inputs, stride=1, depthwise=False):
    kernel, scale = self.weights[f'{name}/kernel'], self.weights[f'{name}/scale']
    if depthwise:
      kernel = kernel[:, :, :, 0]
      kernel = kernel / np.sqrt((kernel**2).sum((0, 1))) * scale
      outputs = np.concatenate([
          conv(inputs[..., [c]], kernel[:, :, [c], None]) for c in range(inputs.shape[3])], -1)
    else:
      kernel = kernel / np.sqrt((kernel**2).sum((0, 1, 2))) * scale
      if f'{name}/offset/kernel' in self.weights:
        raw = conv(inputs, self.weights[f'{name}/offset/kernel'], stride)
        outputs = reference.deformable_conv2d(
            inputs, kernel, raw + self.weights[f'{name}/offset/bias'], stride, 2.0)
      else:
        outputs = conv(inputs, kernel, stride)
    return outputs + self.weights.get(f'{name}/bias', 0.0)

  def norm(self, name, inputs):
    if f'{name}/moving_mean' in self.weights:
      mean = self.weights[f'{name}/moving_mean']
      normal = (inputs - mean) / np.sqrt(self.weights[f'{name}/moving_variance'] + 0.001)
    else:
      grouped = inputs.reshape(*inputs.shape[:3], -1, 8)
      mean = grouped.mean((1, 2, 4), keepdims=True)
      variance = ((grouped - mean)**2).mean((1, 2, 4), keepdims=True)
      normal = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(inputs.shape)
    return normal * self.weights[f'{name}/gamma'] + self.weights[f'{name}/beta']

  def residual(self, level, z):
    name = f'residual_{level}'
    hidden = relu(self.norm(f'{name}/norm_1', self.conv(f'{name}/conv_1', z)))
    hidden = self.conv(f'{name}/conv_2', hidden) * self.masks[level]
    return relu(self.norm(f'{name}/norm_2', hidden) + z)

  def none(self, r):
    return [self.norm('cross_scale/norm', x) for x in r]

  def pyramid(self, r, is_shared=True):
    results = []
    for i, target in enumerate(r):
      def name(kind, i=i):
        return f'cross_scale/{kind}' if is_shared else f'cross_scale/{kind}_{i}'
      total = self.conv(name('same'), target)
      if i + 1 < len(r):
        total = total + bilinear(self.conv(name('coarser'), r[i + 1]), target.shape[1:3])
      if i > 0:
        finer = self.conv(name('finer'), r[i - 1], stride=2)
        total = total + bilinear(finer, target.shape[1:3])
      results.append(self.norm('cross_scale/norm', total))
    return results

  def dense(self, r):
    results = []
    for i, target in enumerate(r):
      total = 0
      for j, x in enumerate(r):
        for step in range(max(i - j, 1)):
          x = self.conv(f'cross_scale/{j}_to_{i}_{step}', relu(x) if step else x, 2 if i > j else 1)
        total = total + (nearest(x, target.shape[1:3]) if j > i else x)
      results.append(self.norm('cross_scale/norm', total))
    return results

  def bifpn(self, p):
    def node(name, *inputs):
      shares = relu(self.weights[f'cross_scale/{name}_weights'])
      shares = shares / (shares.sum() + 1e-4)
      x = sum(share * value for share, value in zip(shares, inputs))
      x = x / (1 + np.exp(-x))
      x = self.conv(f'cross_scale/{name}_depthwise', x, depthwise=True)
      return self.norm(f'cross_scale/{name}_norm', self.conv(f'cross_scale/{name}_pointwise', x))

    def size(level):
      return p[level].shape[1:3]

    six = node('down_3', p[3], nearest(p[4], size(3)))
    five = node('down_2', p[2], nearest(six, size(2)))
    four = node('down_1', p[1], nearest(five, size(1)))
    out = [node('out_0', p[0], nearest(four, size(0)))]
    out.append(node('out_1', p[1], four, max_pool(out[0], 3, 2)))
    out.append(node('out_2', p[2], five, max_pool(out[1], 3, 2)))
    out.append(node('out_3', p[3], six, max_pool(out[2], 3, 2)))
    out.append(node('out_4', p[4], max_pool(out[3], 3, 2)))
    return out

  def nasfpn(self, p):
    """Figure 6 of the NAS-FPN paper; levels 3 to 7 are p[0] to p[4]."""
    def cell(number, x):
      x = self.conv(f'cross_scale/cell_{number}', relu(x))
      return self.norm(f'cross_scale/norm_{number}', x)

    def attend(coarse, fine):
      return coarse + fine / (1 + np.exp(-coarse.max((1, 2), keepdims=True)))

    def up(x, level):
      return nearest(x, p[level].shape[1:3])

    a = cell(0, attend(up(p[3], 1), p[1]))
    b = cell(1, p[1] + a)
    three = cell(2, p[0] + up(b, 0))
    four = cell(3, b + max_pool(three, 2, 2))
    # No cell has used the input of level 5 so far, so its output cell adds it.
    five = cell(4, attend(max_pool(four, 2, 2), max_pool(three, 4, 4)) + p[2])
    seven = cell(5, attend(max_pool(five, 4, 4), max_pool(b, 8, 8)) + p[4])
    six = cell(6, attend(up(seven, 3), max_pool(five, 2, 2)))
    return [three, four, five, six, seven]

  def sum_injection(self, state, basis, kind, is_residual=True, is_shared=True):
    z = [p + b for p, b in zip(state, basis)]
    r = [self.residual(i, x) for i, x in enumerate(z)] if is_residual else z
    return self.pyramid(r, is_shared) if kind == 'pyramid' else getattr(self, kind)(r)

  def mdeq(self, state, basis):
    levels = []
    for i, (p, b) in enumerate(zip(state, basis)):
      x = relu(self.norm(f'block_{i}_norm_1', self.conv(f'block_{i}_conv_1', p)))
      x = self.conv(f'block_{i}_conv_2', x) * self.masks[i]
      x = self.norm(f'block_{i}_norm_2', x + b)
      levels.append(self.norm(f'block_{i}_norm_3', relu(x + p)))
    results = []
    for i, target in enumerate(levels):
      total = target
      for j, x in enumerate(levels):
        if j > i:
          x = self.norm(f'fuse_{j}_to_{i}_norm_0', self.conv(f'fuse_{j}_to_{i}_0', x))
          total = total + nearest(x, target.shape[1:3])
        elif j < i:
          for step in range(i - j):
            x = self.conv(f'fuse_{j}_to_{i}_{step}', relu(x) if step else x, 2)
            x = self.norm(f'fuse_{j}_to_{i}_norm_{step}', x)
          total = total + x
      results.append(self.norm(f'output_norm_{i}', self.conv(f'output_{i}', relu(total))))
    return results
