// Registers the operations for CUDA; their schemas are in kernels/cpu/bindings.cpp.
#include "operations.h"

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CUDA, m) {
  m.impl("topk_gate", TORCH_BOX(&mini_moe::cuda::topk_gate));
  m.impl("topk_gate_backward", TORCH_BOX(&mini_moe::cuda::topk_gate_backward));
  m.impl("sort_rows", TORCH_BOX(&mini_moe::cuda::sort_rows));
  m.impl("grouped_swiglu", TORCH_BOX(&mini_moe::cuda::grouped_swiglu));
  m.impl("grouped_gemm", TORCH_BOX(&mini_moe::cuda::grouped_gemm));
  m.impl("grouped_wgrad", TORCH_BOX(&mini_moe::cuda::grouped_wgrad));
  m.impl("combine", TORCH_BOX(&mini_moe::cuda::combine));
  m.impl("experts_forward", TORCH_BOX(&mini_moe::cuda::experts_forward));
  m.impl("experts_backward", TORCH_BOX(&mini_moe::cuda::experts_backward));
}
