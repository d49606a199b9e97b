// Argument checks before any memory is touched, and small helpers for stable tensors. Every message
// names the argument, what was expected and what it got.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <exception>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>

namespace mini_moe {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
void require(bool fine, const Parts&... parts) {
  if (fine) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error("mini_moe: " + message.str());
}

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); i++)
    text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

inline const char* type_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Long: return "int64";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::Int: return "int32";
    case ScalarType::Bool: return "bool";
    default: return "another type";
  }
}

// A size of -1 accepts anything.
inline void check_shape(
    const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  bool fits = tensor.dim() == (int64_t)expected.size();
  int64_t i = 0;
  for (int64_t size : expected) fits = fits && (tensor.size(i++) == size || size < 0);
  if (fits) return;  // building a message costs more than a small kernel: only if it is needed
  std::string text = "[";
  for (int64_t size : expected)
    text += (text.size() > 1 ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
  require(false, name, ": ", text, "] expected, got ", shape_of(tensor));
}

inline void check_type(const char* name, const Tensor& tensor, ScalarType expected) {
  require(tensor.is_cpu(), name, ": a tensor on the CPU expected, got one elsewhere");
  ScalarType type = tensor.scalar_type();
  require(type == expected, name, ": ", type_name(expected), " expected, got ", type_name(type));
}

inline bool is_bf16(const char* name, const Tensor& tensor) {
  ScalarType type = tensor.scalar_type();
  require(type == ScalarType::Float || type == ScalarType::BFloat16, name,
          ": float32 or bfloat16 expected, got ", type_name(type));
  return type == ScalarType::BFloat16;
}

// Returns contiguous rows, copied if necessary, so any strides are fine.
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// New memory for results; large results request huge pages before they are touched.
Tensor empty(std::initializer_list<int64_t> shape, ScalarType type);

// Flushes numbers below 2^-126 to zero while in scope: the processor takes several times as long
// for them, and gradients of confident predictions are full of them.
struct TinyIsZero {
#if defined(__SSE2__)
  unsigned before = __builtin_ia32_stmxcsr();
  TinyIsZero() { __builtin_ia32_ldmxcsr(before | 0x8040); }
  ~TinyIsZero() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
  uint64_t before = control();
  TinyIsZero() { set_control(before | 1 << 24); }
  ~TinyIsZero() { set_control(before); }

 private:
  static uint64_t control() {
    uint64_t bits;
    asm volatile("mrs %0, fpcr" : "=r"(bits));
    return bits;
  }
  static void set_control(uint64_t bits) { asm volatile("msr fpcr, %0" ::"r"(bits)); }
#endif
};

// Runs task(part, parts) for every part, one per thread; a single part runs on the calling thread.
// An exception from a part is rethrown here; the other parts still run to completion.
template <class Task>
void in_parts(int64_t parts, const Task& task) {
  if (parts <= 1) {
    TinyIsZero mode;
    return task(0, 1);
  }
  std::exception_ptr error;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    TinyIsZero mode;
    try {
      for (int64_t part = begin; part < end; part++) task(part, parts);
    } catch (...) {
      if (!failed.test_and_set()) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

// Threads worth waking for this much work, in multiply-adds or elements moved.
inline int64_t parts_for(int64_t work) {
  int64_t threads = torch::stable::get_num_threads(), most = work / 32768 + 1;
  return threads < most ? threads : most;
}

}  // namespace mini_moe
