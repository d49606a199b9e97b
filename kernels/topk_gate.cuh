// Shared by the two gate kernels: the settings, their checks, and a token's scores.
#pragma once
#include "device.cuh"

constexpr int kTokensPerBlock = 8;  // one warp each

struct Gate {
  int64_t n_tokens;
  int n_experts, top_k, n_groups, top_k_groups;
  bool two_best, softmax, normalise;
  float route_scale;
};

__device__ inline float read(const void* values, DType type, int64_t i) {
  return type == kFloat32 ? static_cast<const float*>(values)[i]
                          : to_float(static_cast<const bf16*>(values)[i]);
}

// Lane l gets the scores of experts l, l + 32, …
template <int kPerLane>
__device__ void load_scores(float (&score)[kPerLane], const void* logits, DType type,
                            const Gate& gate, int64_t token, int lane) {
  float largest = -INFINITY, sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int expert = i * kWarp + lane;
    score[i] = expert < gate.n_experts ? read(logits, type, token * gate.n_experts + expert)
                                       : -INFINITY;
    largest = fmaxf(largest, score[i]);
  }
  if (gate.softmax) largest = warp_max(largest);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    bool exists = i * kWarp + lane < gate.n_experts;
    if (!gate.softmax)
      score[i] = 1 / (1 + expf(-score[i]));
    else
      sum += score[i] = exists ? expf(score[i] - largest) : 0;
  }
  if (!gate.softmax) return;
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) score[i] /= sum;
}

inline const char* check(const Gate& gate, int64_t n_experts, int64_t top_k, int64_t n_groups,
                  int64_t top_k_groups) {
  if (gate.n_tokens < 0 || gate.n_tokens > int64_t(kTokensPerBlock) * 0x7fffffff)
    return fail("n_tokens: expected 0 to 8 * (2^31 - 1), got %lld", shown(gate.n_tokens));
  if (n_experts < 1 || n_experts > 1024)
    return fail("n_experts: expected 1 to 1024, got %lld", shown(n_experts));
  if (top_k < 1 || top_k > 32 || top_k > n_experts)
    return fail("top_k: expected 1 to 32 and at most n_experts=%lld, got %lld",
                shown(n_experts), shown(top_k));
  if (n_groups < 1 || n_groups > 32 || n_experts % n_groups)
    return fail("n_groups: expected 1 to 32 and a divisor of n_experts=%lld, got %lld",
                shown(n_experts), shown(n_groups));
  if (top_k_groups < 1 || top_k_groups > n_groups)
    return fail("top_k_groups: expected 1 to n_groups=%lld, got %lld", shown(n_groups),
                shown(top_k_groups));
  if (top_k > n_experts / n_groups * top_k_groups)
    return fail("top_k: expected at most the %lld experts of top_k_groups, got %lld",
                shown(n_experts / n_groups * top_k_groups), shown(top_k));
  if (n_groups > 1 && gate.two_best && n_experts / n_groups < 2)
    return fail("two_best: expected groups of at least two experts, got n_groups=%lld",
                shown(n_groups));
  if (gate.route_scale - gate.route_scale != 0)
    return fail("route_scale: expected a finite number, got %g", gate.route_scale);
  return nullptr;
}

inline const char* check_type(const char* name, int64_t type) {
  if (type == kFloat32 || type == kBFloat16) return nullptr;
  return fail("%s: expected fp32 (0) or bf16 (1), got %lld", name, shown(type));
}

// Runs `kernel<registers per lane>` for the number of experts.
#define LAUNCH_FOR_EXPERTS(name, kernel, ...)                                             \
  do {                                                                                    \
    dim3 grid(ceil_div(n_tokens, kTokensPerBlock)), block(kTokensPerBlock* kWarp);        \
    if (n_experts <= 32) return launch(name, kernel<1>, grid, block, 0, stream, __VA_ARGS__);    \
    if (n_experts <= 64) return launch(name, kernel<2>, grid, block, 0, stream, __VA_ARGS__);    \
    if (n_experts <= 128) return launch(name, kernel<4>, grid, block, 0, stream, __VA_ARGS__);   \
    if (n_experts <= 256) return launch(name, kernel<8>, grid, block, 0, stream, __VA_ARGS__);   \
    if (n_experts <= 512) return launch(name, kernel<16>, grid, block, 0, stream, __VA_ARGS__);  \
    return launch(name, kernel<32>, grid, block, 0, stream, __VA_ARGS__);                 \
  } while (0)
