// Attention over heads rebuilt from a latent. Each thread takes whole heads, so the order of every
// sum is the same with any number of threads; the kernels are in isa/attention.h.
#include "kernels.h"
#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {
namespace {

Attention check(const Tensor& query, const Tensor& kv, const Tensor& key_rope, double scale) {
  check_shape("query", query, {-1, -1, -1, -1});
  const int64_t batch = query.size(0), heads = query.size(2);
  check_shape("kv", kv, {batch, -1, heads, -1});
  const int64_t keys = kv.size(1), d_qk = query.size(3);
  check_shape("key_rope", key_rope, {batch, keys, -1});
  const int64_t d_rope = key_rope.size(2), d_nope = d_qk - d_rope, d_v = kv.size(3) - d_nope;
  require(d_nope >= 0, "key_rope: at most the ", d_qk, " channels of a query expected, got ",
          d_rope);
  require(d_v > 0, "kv: more than ", d_nope, " channels per head expected, got ", kv.size(3));
  require(query.size(1) <= keys, "query: at most as many as the ", keys, " keys expected, got ",
          query.size(1));
  is_bf16("query", query);
  for (const auto& [name, tensor] : {std::pair("query", &query), {"kv", &kv},
                                     {"key_rope", &key_rope}})
    check_type(name, *tensor, query.scalar_type());
  return {heads, query.size(1), keys, d_nope, d_rope, d_v, (float)scale};
}

template <class Work>
void for_heads(const Attention& a, int64_t batch, const Work& work) {
  const int64_t cost = a.queries * a.keys * (a.d_nope + a.d_rope + a.d_v);
  const int64_t n = batch * a.heads, parts = parts_for(n * cost);
  in_parts(parts < n ? parts : n, [&](int64_t part, int64_t parts) {
    for (int64_t i = n * part / parts; i < n * (part + 1) / parts; i++)
      work(i / a.heads, i % a.heads);
  });
}

}  // namespace

// Returns mixed [batch, queries, heads, d_v], and for the backward pass two sums per row of scores.
std::tuple<Tensor, Tensor> latent_attention(
    const Tensor& query_, const Tensor& kv_, const Tensor& key_rope_, double scale) {
  Attention a = check(query_, kv_, key_rope_, scale);
  const Tensor query = dense(query_), kv = dense(kv_), key_rope = dense(key_rope_);
  const int64_t batch = query.size(0);
  Tensor mixed = empty({batch, a.queries, a.heads, a.d_v}, query.scalar_type());
  Tensor row_sums = empty({batch, a.heads, a.queries, 2}, ScalarType::Float);
  a.query = query.const_data_ptr(), a.kv = kv.const_data_ptr();
  a.key_rope = key_rope.const_data_ptr(), a.mixed = mixed.mutable_data_ptr();
  a.row_sums = (float*)row_sums.mutable_data_ptr();
  const Kernels& k = kernels(query.scalar_type() == ScalarType::BFloat16);
  for_heads(a, batch, [&](int64_t b, int64_t head) { k.attention(a, b, head); });
  return {mixed, row_sums};
}

std::tuple<Tensor, Tensor, Tensor> latent_attention_backward(
    const Tensor& grad_, const Tensor& query_, const Tensor& kv_, const Tensor& key_rope_,
    const Tensor& row_sums_, double scale) {
  Attention a = check(query_, kv_, key_rope_, scale);
  const int64_t batch = query_.size(0);
  const ScalarType type = query_.scalar_type();
  check_shape("grad", grad_, {batch, a.queries, a.heads, a.d_v});
  check_type("grad", grad_, type);
  check_shape("row_sums", row_sums_, {batch, a.heads, a.queries, 2});
  check_type("row_sums", row_sums_, ScalarType::Float);
  const Tensor query = dense(query_), kv = dense(kv_), key_rope = dense(key_rope_);
  const Tensor grad = dense(grad_), row_sums = dense(row_sums_);
  Tensor grad_query = empty({batch, a.queries, a.heads, a.d_nope + a.d_rope}, type);
  Tensor grad_kv = empty({batch, a.keys, a.heads, a.d_nope + a.d_v}, type);
  Tensor grad_key_rope = empty({batch, a.keys, a.d_rope}, type);
  a.query = query.const_data_ptr(), a.kv = kv.const_data_ptr();
  a.key_rope = key_rope.const_data_ptr(), a.grad = grad.const_data_ptr();
  a.row_sums = (float*)row_sums.const_data_ptr();
  a.grad_query = grad_query.mutable_data_ptr(), a.grad_kv = grad_kv.mutable_data_ptr();
  a.grad_key_rope = grad_key_rope.mutable_data_ptr();
  a.grad_rope = (float*)scratch(kGradRope, batch * a.heads * a.keys * a.d_rope * sizeof(float));
  const Kernels& k = kernels(type == ScalarType::BFloat16);
  for_heads(a, batch, [&](int64_t b, int64_t head) { k.attention_backward(a, b, head); });
  in_parts(parts_for(grad_key_rope.numel() * a.heads), [&](int64_t part, int64_t parts) {
    for (int64_t b = batch * part / parts; b < batch * (part + 1) / parts; b++)
      k.attention_rope(a, b);
  });
  return {grad_query, grad_kv, grad_key_rope};
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def(
      "latent_attention(Tensor query, Tensor kv, Tensor key_rope, float scale)"
      " -> (Tensor, Tensor)");
  m.def(
      "latent_attention_backward(Tensor grad, Tensor query, Tensor kv, Tensor key_rope,"
      " Tensor row_sums, float scale) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("latent_attention", TORCH_BOX(&mini_moe::latent_attention));
  m.impl("latent_attention_backward", TORCH_BOX(&mini_moe::latent_attention_backward));
}
