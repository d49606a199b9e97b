// Schemas of the operations that the CPU and CUDA share, and their registration for the CPU;
// kernels/cuda/bindings.cpp registers the same for CUDA.
#include <cstring>

#include "support/dispatch.h"
#include "operations.h"

namespace mini_moe {
namespace {

// Found in the file by mini_moe/ops/compiled.py, which compares it with the sources.
#ifdef MINI_MOE_FINGERPRINT
extern "C" __attribute__((used, visibility("default"))) const char mini_moe_built_from[] =
    "mini_moe built from " MINI_MOE_FINGERPRINT;
#endif

// Set by kernels/build.py for the CUDA part: which tools built it, and for which architectures.
#ifndef MINI_MOE_CUDA
#define MINI_MOE_CUDA ": none: not asked for"
#endif
extern "C" __attribute__((used, visibility("default"))) const char mini_moe_cuda[] =
    "mini_moe CUDA by " MINI_MOE_CUDA;

std::string instruction_set_op() { return instruction_set(); }
std::string cuda_kernels_op() { return std::strchr(mini_moe_cuda, ':') + 2; }
bool use_instruction_set_op(std::string name) { return use_instruction_set(name.c_str()); }

}  // namespace
}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("instruction_set() -> str");
  m.def("use_instruction_set(str name) -> bool");
  m.def("cuda_kernels() -> str");
  m.def("release_scratch() -> int");
  m.def(
      "topk_gate(Tensor logits, Tensor? bias, int top_k, int n_groups, int top_k_groups,"
      " bool two_best, bool softmax, bool normalise, float route_scale)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "topk_gate_backward(Tensor? grad_gates, Tensor? grad_scores, Tensor logits,"
      " Tensor expert_ids, bool softmax, bool normalise, float route_scale) -> Tensor");
  m.def("sort_rows(Tensor expert_ids, int n_experts) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "grouped_swiglu(Tensor x, Tensor token, Tensor offsets, Tensor gate_up_proj, bool keep)"
      " -> (Tensor, Tensor)");
  m.def("grouped_gemm(Tensor a, Tensor offsets, Tensor b, bool transposed) -> Tensor");
  m.def("grouped_wgrad(Tensor a, Tensor b, Tensor offsets) -> Tensor");
  m.def("combine(Tensor rows, Tensor place, Tensor? gates) -> Tensor");
  m.def(
      "experts_forward(Tensor x, Tensor expert_ids, Tensor gates, Tensor gate_up_proj, "
      "Tensor down_proj, bool keep) -> (Tensor, Tensor)");
  m.def(
      "experts_backward(Tensor grad, Tensor x, Tensor expert_ids, Tensor gates, "
      "Tensor gate_up_proj, Tensor down_proj, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("topk_gate", TORCH_BOX(&mini_moe::topk_gate));
  m.impl("topk_gate_backward", TORCH_BOX(&mini_moe::topk_gate_backward));
  m.impl("sort_rows", TORCH_BOX(&mini_moe::sort_rows_op));
  m.impl("grouped_swiglu", TORCH_BOX(&mini_moe::grouped_swiglu));
  m.impl("grouped_gemm", TORCH_BOX(&mini_moe::grouped_gemm));
  m.impl("grouped_wgrad", TORCH_BOX(&mini_moe::grouped_wgrad));
  m.impl("combine", TORCH_BOX(&mini_moe::combine));
  m.impl("experts_forward", TORCH_BOX(&mini_moe::experts_forward));
  m.impl("experts_backward", TORCH_BOX(&mini_moe::experts_backward));
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&mini_moe::instruction_set_op));
  m.impl("cuda_kernels", TORCH_BOX(&mini_moe::cuda_kernels_op));
  m.impl("release_scratch", TORCH_BOX(&mini_moe::release_scratch));
  m.impl("use_instruction_set", TORCH_BOX(&mini_moe::use_instruction_set_op));
}
