// combine: every token gathers the rows of its experts and adds them up, weighted.
//
//   out[t] = Σ_k gates[t, k] · y[place[t, k]]          (without gates: the plain sum)
//   A place outside [0, rows) is skipped: it adds nothing.
// The plain sum is also the gradient of the gather x[token]: dx[t] = Σ_k drows[place[t, k]]. The
// gradients of y and of the gates need no kernel of their own: experts.cpp derives them from
// quantities that the hidden rows' gradient needs anyway.
//
// fp32 sums, always in the order of k, and every output is written by one thread: the same bits on
// every run, no atomics. Addresses are 64 bits wide: rows · d_model may exceed 2^31.
// Thread → data: `lanes` threads of a block share a token; each takes 16-byte vectors `lanes`
// apart. Short rows put several tokens in a block. Four rows are loaded together before the first
// is added.
// Bytes (e per element): e · d (K + 1) per token. FLOPs: 2 d K per token.
// Source: SonicMoE, functional/reduction_over_k_gather.py: gather and sum per token, no atomics.
#include "device.cuh"

namespace {
constexpr int kThreads = 256, kAtOnce = 4;

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const T* y,            // [rows, d_model]
                   const int64_t* place,  // [tokens, top_k]
                   const float* gates,    // [tokens, top_k], or null
                   T* out,                // [tokens, d_model]
                   int64_t n_tokens, int64_t n_rows, int64_t d_model, int top_k) {
  int64_t token = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (token >= n_tokens) return;
  for (int64_t d = int64_t(threadIdx.x) * kVector; d < d_model; d += blockDim.x * kVector) {
    float sum[kVector] = {};
    for (int first = 0; first < top_k; first += kAtOnce) {
      float gate[kAtOnce], value[kAtOnce][kVector] = {};
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        int64_t choice = token * top_k + first + k;
        int64_t row = first + k < top_k ? place[choice] : -1;
        bool exists = row >= 0 && row < n_rows;
        gate[k] = exists && gates ? gates[choice] : 1;
        if (exists) load_vector(y + row * d_model + d, value[k]);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[i] += gate[k] * value[k][i];
    }
    store_vector(out + token * d_model + d, sum);
  }
}

const char* check(int64_t type, int64_t n_tokens, int64_t n_rows, int64_t d_model, int64_t top_k) {
  if (type != kFloat32 && type != kBFloat16)
    return fail("y: expected fp32 (0) or bf16 (1), got %lld", shown(type));
  if (d_model < 1) return fail("d_model: expected at least 1, got %lld", shown(d_model));
  if (top_k < 1 || top_k > 1024)
    return fail("top_k: expected 1 to 1024, got %lld", shown(top_k));
  if (n_tokens < 0 || n_tokens > 0x7fffffff / top_k)
    return fail("n_tokens: expected 0 to (2^31 - 1) / top_k, got %lld", shown(n_tokens));
  if (n_rows < 0 || n_rows > INT64_MAX / 8 / d_model)
    return fail("n_rows: expected a size that fits 64 bits, got %lld", shown(n_rows));
  return nullptr;
}

template <class T, int kVector>
const char* forward(const T* y, const int64_t* place, const float* gates, T* out, int64_t n_tokens,
                    int64_t n_rows, int64_t d_model, int64_t top_k, void* stream) {
  int lanes = 1;  // per token: a power of two, enough threads for its vectors
  while (lanes < kThreads && lanes * kVector < d_model) lanes *= 2;
  dim3 block(lanes, kThreads / lanes), grid(ceil_div(n_tokens, kThreads / lanes));
  return launch("combine_forward", combine_kernel<T, kVector>, grid, block, 0, stream, y, place,
                gates, out, n_tokens, n_rows, d_model, int(top_k));
}

template <class T>
const char* forward_of(const void* y, const int64_t* place, const float* gates, void* out,
                       int64_t n_tokens, int64_t n_rows, int64_t d_model, int64_t top_k,
                       void* stream) {
  bool wide = aligned16(y) && aligned16(out) && d_model % kPerVector<T> == 0;
  auto run = wide ? forward<T, kPerVector<T>> : forward<T, 1>;
  return run(static_cast<const T*>(y), place, gates, static_cast<T*>(out), n_tokens, n_rows,
             d_model, top_k, stream);
}
}  // namespace

extern "C" const char* combine_forward(const void* y, int64_t type, const int64_t* place,
                                       const float* gates, void* out, int64_t n_tokens,
                                       int64_t n_rows, int64_t d_model, int64_t top_k,
                                       void* stream) {
  TRY(check(type, n_tokens, n_rows, d_model, top_k));
  if (!n_tokens) return nullptr;
  auto run = type == kFloat32 ? forward_of<float> : forward_of<bf16>;
  return run(y, place, gates, out, n_tokens, n_rows, d_model, top_k, stream);
}
