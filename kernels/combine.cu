// combine: every token gathers the rows of its experts and adds them up, weighted.
//
//   out[t] = Σ_k gates[t, k] · y[place[t, k]]          (without gates: the plain sum)
//   backward: dy[place[t, k]] = gates[t, k] · dout[t],  dgates[t, k] = ⟨dout[t], y[place[t, k]]⟩,
//             and dy = 0 in padding rows
//   A place outside of [0, rows) is skipped: nothing is added, its dgate is 0.
// The plain sum is also the gradient of the gather x[token]: dx[t] = Σ_k drows[place[t, k]].
//
// fp32 sums, always in the order of k, and every output is written by one thread: the same bits on
// every run, no atomics. Addresses are 64 bits wide: rows · d_model may pass 2^31.
// Thread → data: forward: `lanes` threads of a block share a token, each takes vectors of 16 bytes
// lanes apart; several tokens a block where rows are short. Four rows are asked for together before
// the first is added. Backward: a warp a row.
// Bytes (e a element): forward e · d (K + 1) a token; backward e · d (3 K) a token, of which dout,
// read K times, comes from the cache K - 1 times. FLOPs: 2 d K a token; backward 3 d K.
// Source: SonicMoE, functional/reduction_over_k_gather.py: gather and sum a token, no atomics.
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

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    combine_backward_kernel(const T* grad,  // [tokens, d_model] by strides
                            int64_t token_stride, int64_t d_stride,
                            const T* y,            // [rows, d_model]
                            const int64_t* place,  // [tokens, top_k]
                            const float* gates,    // [tokens, top_k]
                            T* grad_y,             // [rows, d_model]
                            float* grad_gates,     // [tokens, top_k]
                            int64_t n_choices, int64_t n_rows, int64_t d_model, int top_k) {
  int lane = threadIdx.x % kWarp;
  int64_t choice = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (choice >= n_choices) return;
  int64_t row = place[choice];
  bool exists = row >= 0 && row < n_rows;
  float dot = 0, gate = gates[choice];
  const T* from = grad + choice / top_k * token_stride;
  for (int64_t d = lane * kVector; exists && d < d_model; d += kWarp * kVector) {
    float g[kVector], value[kVector];
    load_vector(from + d * d_stride, g);
    load_vector(y + row * d_model + d, value);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      dot += g[i] * value[i];
      g[i] *= gate;
    }
    store_vector(grad_y + row * d_model + d, g);
  }
  dot = warp_sum(dot);
  if (lane == 0) grad_gates[choice] = dot;
}

// Block e clears the padding behind expert e's rows; the last block what is behind all of them.
template <class T>
__global__ void clear_padding_kernel(T* rows,                 // [rows, d_model]
                                     const int64_t* counts,   // [experts]
                                     const int64_t* offsets,  // [experts + 1]
                                     int64_t n_rows, int64_t d_model, int n_experts) {
  int e = blockIdx.x;
  bool last = e == n_experts;
  int64_t begin = last ? offsets[e] : offsets[e] + counts[e], end = last ? n_rows : offsets[e + 1];
  for (int64_t i = begin * d_model + threadIdx.x; i < end * d_model; i += blockDim.x)
    rows[i] = from_float<T>(0);
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
  int lanes = 1;  // of a token: a power of two with enough threads for its vectors
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

template <class T>
const char* backward_of(const void* grad, int64_t token_stride, int64_t d_stride, const void* y,
                        const int64_t* place, const float* gates, void* grad_y, float* grad_gates,
                        const int64_t* counts, const int64_t* offsets, int64_t n_tokens,
                        int64_t n_rows, int64_t d_model, int64_t top_k, int64_t n_experts,
                        void* stream) {
  bool wide = aligned16(grad) && aligned16(y) && aligned16(grad_y) && d_stride == 1 &&
              d_model % kPerVector<T> == 0 && token_stride % kPerVector<T> == 0;
  if (n_rows)
    TRY(launch("combine_backward: padding", clear_padding_kernel<T>, n_experts + 1, 128, 0, stream,
               static_cast<T*>(grad_y), counts, offsets, n_rows, d_model, int(n_experts)));
  int64_t n_choices = n_tokens * top_k;
  if (!n_choices) return nullptr;
  auto kernel = wide ? combine_backward_kernel<T, kPerVector<T>> : combine_backward_kernel<T, 1>;
  return launch("combine_backward", kernel, ceil_div(n_choices, kThreads / kWarp), kThreads, 0,
                stream, static_cast<const T*>(grad), token_stride, d_stride,
                static_cast<const T*>(y), place, gates, static_cast<T*>(grad_y), grad_gates,
                n_choices, n_rows, d_model, int(top_k));
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

extern "C" const char* combine_backward(const void* grad, int64_t token_stride, int64_t d_stride,
                                        const void* y, int64_t type, const int64_t* place,
                                        const float* gates, void* grad_y, float* grad_gates,
                                        const int64_t* counts, const int64_t* offsets,
                                        int64_t n_tokens, int64_t n_rows, int64_t d_model,
                                        int64_t top_k, int64_t n_experts, void* stream) {
  TRY(check(type, n_tokens, n_rows, d_model, top_k));
  if (n_experts < 1 || n_experts > 1 << 20)
    return fail("n_experts: expected 1 to 2^20, got %lld", shown(n_experts));
  auto run = type == kFloat32 ? backward_of<float> : backward_of<bf16>;
  return run(grad, token_stride, d_stride, y, place, gates, grad_y, grad_gates, counts, offsets,
             n_tokens, n_rows, d_model, top_k, n_experts, stream);
}
