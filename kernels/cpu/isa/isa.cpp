// Compiled once for each instruction set, with -DMINI_MOE_ISA=<name> and that set's flags.
#include "attention.h"
#include "backward.h"
#include "combine.h"
#include "cross_entropy.h"
#include "few_rows.h"
#include "forward.h"
#include "rms_norm.h"
#include "rotate.h"
#include "scores.h"
#include "swiglu.h"
#include "thin.h"
#include "weight_gradient.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
constexpr Kernels table() {
  return {swiglu<T>,      forward<T>,   backward<T>,        product<T>,
          thin_swiglu<T>, thin_down<T>, weight_gradient<T>, combine<T>,
          scores<T>,      scores_gradient<T>, best,           few_rows<T>,      mix<T>,     softmax,
          attention<T>,   attention_backward<T>, attention_rope<T>,
          rotate<T>,      swiglu_product<T>, swiglu_gradient<T>, rms_norm<T>,
          rms_norm_backward<T>, cross_entropy<T>, cross_entropy_backward<T>};
}
extern const Kernels kTables[2] = {table<float>(), table<bf16>()};

}  // namespace mini_moe::MINI_MOE_ISA
