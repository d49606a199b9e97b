// swiglu_backward: gradient of the experts' hidden rows -> gradients of gate, up and gates.
//
//   row = place[choice],  g | u = saved[row],  σ = 1 / (1 + e^-g),  h = g σ u,  dh = grad_hidden[row]
//   grad_gates[choice] = ⟨dh, h⟩         grad_hidden is unweighted: ⟨W_downᵀ dout, h⟩ = ⟨dout, y⟩
//   weighted[row]      = gate · h        an operand of W_down's gradient
//   grad_both[row]     = gate · (dh u σ (1 + g (1 - σ)) | dh g σ)
//   A place outside [0, rows) is skipped: its gate's gradient is 0, and no row is written.
//
// fp32 sums; every output is written by one thread, and dot products are summed in a fixed order:
// the same bits on every run. Addresses are 64 bits wide.
// Thread → data: one warp per choice; lane l takes 16-byte vectors l, l + 32, … of its row.
// Bytes per choice (e per element): 6 e · d_expert, three vectors read and three written. FLOPs:
// about 20 d_expert, and d_expert exponentials.
// Source: SwiGLU, arXiv 2002.05202 §2, differentiated; h is recomputed as in SonicMoE's
// gemm_dgated.
#include "device.cuh"

namespace {
constexpr int kThreads = 256;

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(const T* grad_hidden,  // [rows, d_expert]
                           const T* saved,        // [rows, 2, d_expert]
                           const int64_t* place,  // [choices]
                           const float* gates,    // [choices]
                           T* grad_both,          // [rows, 2, d_expert]
                           T* weighted,           // [rows, d_expert]
                           float* grad_gates,     // [choices]
                           int64_t n_choices, int64_t n_rows, int64_t d_expert) {
  int lane = threadIdx.x % kWarp;
  int64_t choice = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (choice >= n_choices) return;
  int64_t row = place[choice];
  bool exists = row >= 0 && row < n_rows;
  float gate = gates[choice], dot = 0;
  for (int64_t d = lane * kVector; exists && d < d_expert; d += kWarp * kVector) {
    int64_t at_gate = 2 * row * d_expert + d, at_up = at_gate + d_expert;
    float dh[kVector], g[kVector], u[kVector];
    load_vector(grad_hidden + row * d_expert + d, dh);
    load_vector(saved + at_gate, g);
    load_vector(saved + at_up, u);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      float sigmoid = 1 / (1 + expf(-g[i])), silu = g[i] * sigmoid, hidden = silu * u[i];
      float slope = sigmoid * (1 + g[i] * (1 - sigmoid));
      dot += dh[i] * hidden;
      dh[i] *= gate;
      g[i] = dh[i] * u[i] * slope;
      u[i] = dh[i] * silu;
      dh[i] = gate * hidden;
    }
    store_vector(grad_both + at_gate, g);
    store_vector(grad_both + at_up, u);
    store_vector(weighted + row * d_expert + d, dh);
  }
  dot = warp_sum(dot);
  if (lane == 0) grad_gates[choice] = dot;
}

template <class T>
const char* backward_of(const void* grad_hidden, const void* saved, const int64_t* place,
                        const float* gates, void* grad_both, void* weighted, float* grad_gates,
                        int64_t n_choices, int64_t n_rows, int64_t d_expert, void* stream) {
  bool wide = aligned16(grad_hidden) && aligned16(saved) && aligned16(grad_both) &&
              aligned16(weighted) && d_expert % kPerVector<T> == 0;
  auto kernel = wide ? swiglu_backward_kernel<T, kPerVector<T>> : swiglu_backward_kernel<T, 1>;
  return launch("swiglu_backward", kernel, ceil_div(n_choices, kThreads / kWarp), kThreads, 0,
                stream, static_cast<const T*>(grad_hidden), static_cast<const T*>(saved), place,
                gates, static_cast<T*>(grad_both), static_cast<T*>(weighted), grad_gates,
                n_choices, n_rows, d_expert);
}
}  // namespace

extern "C" const char* swiglu_backward(const void* grad_hidden, const void* saved, int64_t type,
                                       const int64_t* place, const float* gates, void* grad_both,
                                       void* weighted, float* grad_gates, int64_t n_choices,
                                       int64_t n_rows, int64_t d_expert, void* stream) {
  if (type != kFloat32 && type != kBFloat16)
    return fail("grad_hidden: expected fp32 (0) or bf16 (1), got %lld", shown(type));
  if (d_expert < 1) return fail("d_expert: expected at least 1, got %lld", shown(d_expert));
  if (n_choices < 0 || n_choices > 0x7fffffff)
    return fail("n_choices: expected 0 to 2^31 - 1, got %lld", shown(n_choices));
  if (n_rows < 0 || n_rows > INT64_MAX / 16 / d_expert)
    return fail("n_rows: expected a size that fits 64 bits, got %lld", shown(n_rows));
  if (!n_choices) return nullptr;
  auto run = type == kFloat32 ? backward_of<float> : backward_of<bf16>;
  return run(grad_hidden, saved, place, gates, grad_both, weighted, grad_gates, n_choices, n_rows,
             d_expert, stream);
}
