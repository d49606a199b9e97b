// Compiled once for each instruction set, with -DMINI_MOE_ISA=<name> and that set's flags.
#include "backward.h"
#include "combine.h"
#include "forward.h"
#include "scores.h"
#include "thin.h"
#include "weight_gradient.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
constexpr Kernels table() {
  return {swiglu<T>,      forward<T>,   backward<T>,        product<T>,
          thin_swiglu<T>, thin_down<T>, weight_gradient<T>, combine<T>,
          scores<T>};
}
extern const Kernels kTables[2] = {table<float>(), table<bf16>()};

}  // namespace mini_moe::MINI_MOE_ISA
