// Grouped product, step 1: one thread per output, straight from global memory.
//
// Idea: write down the definition. Thread → data: threads that are neighbours in x compute
// neighbours in d_out of one row. They all read the same x[r, i], but each its own row of w: 32
// lanes touch 32 rows, so loading 2 bytes per lane moves 32 sectors of 32 bytes, of which one
// sixteenth is used.
// Bytes requested: 4 · rows · d_out · d_in; FLOPs: 2 · rows · d_out · d_in: half a FLOP per byte.
// Expected: bound by the caches, below 1 % of the tensor cores.
#include "tiles.cuh"

namespace {
constexpr int kThreads = 128;

__device__ inline int expert_of(const Product& p, int64_t row) {
  int low = 0, high = p.n_experts;  // the last e with offsets[e] <= row has it; empty ones do not
  while (low < high) {
    int middle = (low + high) / 2;
    if (p.offsets[middle + 1] <= row)
      low = middle + 1;
    else
      high = middle;
  }
  return low;  // n_experts: past all of them
}

__global__ void __launch_bounds__(kThreads) naive_kernel(Product p) {
  int64_t row = blockIdx.x;
  int column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= p.d_out) return;
  int expert = expert_of(p, row);
  float sum = 0;
  if (expert < p.n_experts) {
    const bf16* x = p.x + row * p.d_in;
    const bf16* w = p.w + (int64_t(expert) * p.d_out + column) * p.d_in;
    for (int i = 0; i < p.d_in; ++i) sum += to_float(x[i]) * to_float(w[i]);
  }
  p.out[row * p.d_out + column] = from_float<bf16>(sum);
}
}  // namespace

extern "C" const char* grouped_gemm_1(const bf16* x, const bf16* w, const int64_t* offsets,
                                      bf16* out, int64_t n_rows, int64_t n_experts, int64_t d_in,
                                      int64_t d_out, void* stream) {
  Product p{x, w, offsets, out, n_rows, int(n_experts), int(d_in), int(d_out)};
  TRY(check(p, n_experts, d_in, d_out));
  if (!n_rows) return nullptr;
  dim3 grid(n_rows, ceil_div(d_out, kThreads));
  return launch("grouped_gemm_1", naive_kernel, grid, kThreads, 0, stream, p);
}
