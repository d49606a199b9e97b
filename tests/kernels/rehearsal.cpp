// The CUDA bindings for CPU tensors: kernels/cuda/*.cpp unchanged, with the CPU's names in place of
// CUDA's. Linked with the kernels compiled by g++, torch.ops.mini_moe then runs the real bindings
// and the real kernels without a GPU.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/operations.h"

namespace torch::stable::accelerator {
struct NoGuard {
  explicit NoGuard(int32_t) {}
};
}  // namespace torch::stable::accelerator

#define CUDA CPU
#define is_cuda is_cpu
#define DeviceGuard NoGuard
#include "cuda/experts.cpp"
#include "cuda/stages.cpp"
#include "cuda/topk_gate.cpp"

void* mini_moe::cuda::current_stream(int32_t) { return nullptr; }

// The operations that kernels/cpu/bindings.cpp registers for the CPU.
namespace mini_moe {

const char* instruction_set() { return "rehearsal"; }
bool use_instruction_set(const char*) { return false; }
int64_t release_scratch() { return 0; }

std::tuple<Tensor, Tensor, Tensor, Tensor> sort_rows_op(const Tensor& ids, int64_t experts) {
  return cuda::sort_rows(ids, experts);
}
std::tuple<Tensor, Tensor, Tensor, Tensor> topk_gate(
    const Tensor& logits, std::optional<Tensor> bias, int64_t top_k, int64_t n_groups,
    int64_t top_k_groups, bool two_best, bool softmax, bool normalise, double route_scale) {
  return cuda::topk_gate(logits, bias, top_k, n_groups, top_k_groups, two_best, softmax, normalise,
                         route_scale);
}
Tensor topk_gate_backward(std::optional<Tensor> grad_gates, std::optional<Tensor> grad_scores,
                          const Tensor& logits, const Tensor& ids, bool softmax, bool normalise,
                          double route_scale) {
  return cuda::topk_gate_backward(grad_gates, grad_scores, logits, ids, softmax, normalise,
                                  route_scale);
}
std::tuple<Tensor, Tensor> grouped_swiglu(
    const Tensor& x, const Tensor& token, const Tensor& offsets, const Tensor& gate_up, bool keep) {
  return cuda::grouped_swiglu(x, token, offsets, gate_up, keep);
}
Tensor grouped_gemm(const Tensor& a, const Tensor& offsets, const Tensor& b, bool transposed) {
  return cuda::grouped_gemm(a, offsets, b, transposed);
}
Tensor grouped_wgrad(const Tensor& a, const Tensor& b, const Tensor& offsets) {
  return cuda::grouped_wgrad(a, b, offsets);
}
Tensor combine(const Tensor& rows, const Tensor& place, std::optional<Tensor> gates) {
  return cuda::combine(rows, place, gates);
}
std::tuple<Tensor, Tensor> experts_forward(
    const Tensor& x, const Tensor& ids, const Tensor& gates, const Tensor& gate_up,
    const Tensor& down, bool keep) {
  return cuda::experts_forward(x, ids, gates, gate_up, down, keep);
}
std::tuple<Tensor, Tensor, Tensor, Tensor> experts_backward(
    const Tensor& grad, const Tensor& x, const Tensor& ids, const Tensor& gates,
    const Tensor& gate_up, const Tensor& down, const Tensor& saved) {
  return cuda::experts_backward(grad, x, ids, gates, gate_up, down, saved);
}

}  // namespace mini_moe
