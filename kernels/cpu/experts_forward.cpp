// The layer forward: sort, the experts' products, combine. The order of every sum is the same with
// any number of threads.
#include "operations.h"
#include "rows.h"

namespace mini_moe {
namespace {

// Few rows per active expert: reading weights is most of the work, so threads share columns.
void thin_forward(const Kernels& k, const Forward& f, const Sorted& s, int64_t parts) {
  auto share = [](int64_t width, int64_t part, int64_t parts) {
    return part == parts ? width : width * part / parts / 4 * 4;
  };
  in_parts(parts, [&](int64_t part, int64_t parts) {
    for_experts_in(s, 0, s.n_rows, [&](int64_t e, int64_t begin, int64_t end) {
      k.thin_swiglu(f, e, begin, end, share(f.d_expert, part, parts),
                    share(f.d_expert, part + 1, parts));
    });
  });
  in_parts(parts, [&](int64_t part, int64_t parts) {
    for_experts_in(s, 0, s.n_rows, [&](int64_t e, int64_t begin, int64_t end) {
      k.thin_down(f, e, begin, end, share(f.d_model, part, parts),
                  share(f.d_model, part + 1, parts));
    });
  });
}

bool is_thin(const Sorted& s) {
  int64_t active = 0;
  for (int64_t e = 0; e < s.experts; e++) active += s.offsets[e] < s.offsets[e + 1];
  return s.n_rows <= 8 * active;
}

}  // namespace

std::tuple<Tensor, Tensor> experts_forward(
    const Tensor& x_, const Tensor& ids, const Tensor& gates_, const Tensor& gate_up_,
    const Tensor& down_, bool keep) {
  const Shape s = check(x_, ids, gates_, gate_up_, down_);
  const ScalarType type = x_.scalar_type();
  const bool bf16 = type == ScalarType::BFloat16;
  const int64_t size = bf16 ? 2 : 4;
  const Tensor x = dense(x_), gate_up = dense(gate_up_), down = dense(down_);
  const Sorted sorted = sort(ids, s);
  const float* gates = as_floats(gates_);
  Tensor out = empty({s.tokens, s.d_model}, type);
  Tensor saved = empty({keep ? s.rows() : 0, 2 * s.d_expert}, type);
  void* output = scratch(kOutputRows, s.rows() * s.d_model * size);
  const Kernels& k = kernels(bf16);
  Forward f{s.d_model, s.d_expert, sorted.token, x.const_data_ptr(), gate_up.const_data_ptr(),
            down.const_data_ptr(), keep ? saved.mutable_data_ptr() : nullptr, nullptr, output};
  const int64_t parts = parts_for(s.rows() * s.d_model * s.d_expert);
  if (is_thin(sorted)) {
    f.hidden = scratch(kWeighted, s.rows() * s.d_expert * size);
    thin_forward(k, f, sorted, parts);
  } else {
    in_parts(parts, [&](int64_t part, int64_t parts) {
      for_experts_in(sorted, cut(sorted, part, parts), cut(sorted, part + 1, parts),
                     [&](int64_t e, int64_t begin, int64_t end) { k.forward(f, e, begin, end); });
    });
  }
  combine_rows(k, {s.top_k, s.d_model, output, sorted.place, gates, out.mutable_data_ptr()},
               s.tokens);
  return {out, saved};
}

}  // namespace mini_moe
