// 2x2 max pooling of 16-bit floats, channels last, that are not negative, as after a ReLU. As signed integers the bits of
// such numbers, of f16 and of bf16, have the same order, and -0 is less than all of them.
//
// libtorch's own pooling also writes the index of each maximum, 8 bytes for each 2-byte value. This one writes only the
// values, and moves 16 bytes at a time. `compile-pool` compiles it to `pool.ptx`.
//
// `columns` are those of a row of the result, `chunks` the groups of 8 channels. The rows of all pictures are contiguous, an
// even number for each, so that the rows 2i and 2i + 1 are pooled together.
extern "C" __global__ void headswap_pool(const uint4* input, uint4* output, unsigned total, unsigned columns,
                                         unsigned chunks) {
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const unsigned chunk = index % chunks;
  const unsigned column = index / chunks % columns;
  const unsigned row = index / chunks / columns;
  const size_t next_row = (size_t)2 * columns * chunks;
  const uint4* at = input + 2 * row * next_row + (size_t)2 * column * chunks + chunk;
  const uint4 a = at[0], b = at[chunks], c = at[next_row], d = at[next_row + chunks];
  uint4 most;
  most.x = __vmaxs2(__vmaxs2(a.x, b.x), __vmaxs2(c.x, d.x));
  most.y = __vmaxs2(__vmaxs2(a.y, b.y), __vmaxs2(c.y, d.y));
  most.z = __vmaxs2(__vmaxs2(a.z, b.z), __vmaxs2(c.z, d.z));
  most.w = __vmaxs2(__vmaxs2(a.w, b.w), __vmaxs2(c.w, d.w));
  output[index] = most;
}
