// Logits -> scores -> + bias -> groups -> top-k -> gates, and back, one token at a time.
//
// The bias affects the choice but never the gates. Ties go to the lower id; NaN ranks highest, as
// in torch.sort, and is chosen at most once. Gates are the chosen scores, divided by their sum if
// `normalise`, times route_scale. Source: DeepSeek-V3, arXiv 2412.19437 section 2.1.2, equations
// 12-16.
#include <cmath>
#include <vector>

#include "gate.h"
#include "operations.h"
#include "support/dispatch.h"

namespace mini_moe {
namespace {

struct Ranked {
  float value;
  int64_t id;
};

bool better(float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); }

// The k best of n, best first: kept as a sorted list, which few values ever enter.
void choose(const float* values, const uint8_t* allowed, int64_t n, int64_t k, Ranked* best) {
  int64_t filled = 0;
  for (int64_t i = 0; i < n; i++) {
    if (allowed && !allowed[i]) continue;
    float value = values[i];
    if (filled == k && !better(value, best[k - 1].value)) continue;
    int64_t at = filled < k ? filled++ : k - 1;
    for (; at > 0 && better(value, best[at - 1].value); at--) best[at] = best[at - 1];
    best[at] = {value, i};
  }
}

// Marks the experts of the best groups.
void allow_groups(const Gate& g, const float* values, uint8_t* allowed) {
  int64_t size = g.experts / g.n_groups;
  std::vector<float> worth(g.n_groups);
  std::vector<Ranked> groups(g.top_k_groups);
  for (int64_t group = 0; group < g.n_groups; group++) {
    Ranked best[2];
    choose(values + group * size, nullptr, size, g.two_best ? 2 : 1, best);
    worth[group] = best[0].value + (g.two_best ? best[1].value : 0);
  }
  choose(worth.data(), nullptr, g.n_groups, g.top_k_groups, groups.data());
  for (int64_t i = 0; i < g.experts; i++) allowed[i] = 0;
  for (const Ranked& group : groups)
    for (int64_t i = 0; i < size; i++) allowed[group.id * size + i] = 1;
}

}  // namespace

void check_gate(const Gate& g) {
  require(g.experts >= 1 && g.experts <= 1024, "n_experts: 1 to 1024 expected, got ", g.experts);
  require(g.top_k >= 1 && g.top_k <= 32 && g.top_k <= g.experts,
          "top_k: 1 to 32 and at most n_experts=", g.experts, " expected, got ", g.top_k);
  require(g.n_groups >= 1 && g.experts % g.n_groups == 0, "n_groups: a divisor of n_experts=",
          g.experts, " expected, got ", g.n_groups);
  require(g.top_k_groups >= 1 && g.top_k_groups <= g.n_groups, "top_k_groups: 1 to n_groups=",
          g.n_groups, " expected, got ", g.top_k_groups);
  const int64_t size = g.experts / g.n_groups;
  require(g.n_groups == 1 || !g.two_best || size >= 2,
          "two_best: groups of at least 2 experts expected, got ", size);
  require(g.top_k <= g.top_k_groups * size, "top_k: at most the ", g.top_k_groups * size,
          " experts of the chosen groups expected, got ", g.top_k);
}

void choose_experts(const Gate& g, const Kernels& k, int64_t element_size, const Decisions& d,
                    int64_t first, int64_t last) {
  std::vector<float> own_choice(d.choice_scores ? 0 : g.experts);
  std::vector<uint8_t> allowed(g.experts);
  std::vector<Ranked> best(g.top_k);
  for (int64_t t = first; t < last; t++) {
    float* own = d.scores + t * g.experts;
    k.scores((const char*)d.logits + t * g.experts * element_size, g.experts, g.softmax, own);
    float* choice = d.choice_scores ? d.choice_scores + t * g.experts : own_choice.data();
    for (int64_t e = 0; e < g.experts; e++) choice[e] = own[e] + (d.bias ? d.bias[e] : 0);
    int64_t* own_id = d.ids + t * g.top_k;
    if (g.n_groups > 1) {
      allow_groups(g, choice, allowed.data());
      choose(choice, allowed.data(), g.experts, g.top_k, best.data());
      for (int64_t i = 0; i < g.top_k; i++) own_id[i] = best[i].id;
      for (int64_t e = 0; e < g.experts; e++)
        if (!allowed[e]) choice[e] = -INFINITY;
    } else {
      k.best(choice, g.experts, g.top_k, own_id);
    }
    float sum = 1e-20f;
    for (int64_t i = 0; i < g.top_k; i++) sum += own[own_id[i]];
    const float scale = g.normalise ? (float)g.route_scale / sum : (float)g.route_scale;
    for (int64_t i = 0; i < g.top_k; i++) d.gates[t * g.top_k + i] = own[own_id[i]] * scale;
  }
}

// Returns gates and expert_ids [tokens, top_k]; scores and choice_scores [tokens, experts]
std::tuple<Tensor, Tensor, Tensor, Tensor> topk_gate(
    const Tensor& logits_, std::optional<Tensor> bias_, int64_t top_k, int64_t n_groups,
    int64_t top_k_groups, bool two_best, bool softmax, bool normalise, double route_scale) {
  check_shape("logits", logits_, {-1, -1});
  const bool bf16 = is_bf16("logits", logits_);
  check_type("logits", logits_, logits_.scalar_type());
  const Gate g{logits_.size(0), logits_.size(1), top_k,   n_groups,   top_k_groups,
               two_best,        softmax,         normalise, route_scale};
  check_gate(g);
  if (bias_) {
    check_shape("bias", *bias_, {g.experts});
    check_type("bias", *bias_, ScalarType::Float);
  }
  const Tensor logits = dense(logits_), bias = bias_ ? dense(*bias_) : Tensor();
  Tensor ids = empty({g.tokens, g.top_k}, ScalarType::Long);
  Tensor gates = empty({g.tokens, g.top_k}, ScalarType::Float);
  Tensor scores = empty({g.tokens, g.experts}, ScalarType::Float);
  Tensor choice_scores = empty({g.tokens, g.experts}, ScalarType::Float);
  const Decisions d{logits.const_data_ptr(), bias_ ? (const float*)bias.const_data_ptr() : nullptr,
                    (float*)scores.mutable_data_ptr(), (int64_t*)ids.mutable_data_ptr(),
                    (float*)gates.mutable_data_ptr(), (float*)choice_scores.mutable_data_ptr()};
  in_parts(parts_for(g.tokens * g.experts * 4), [&](int64_t part, int64_t parts) {
    choose_experts(g, kernels(bf16), bf16 ? 2 : 4, d, g.tokens * part / parts,
                   g.tokens * (part + 1) / parts);
  });
  return {gates, ids, scores, choice_scores};
}

// With q the chosen scores and S their sum + 1e-20: dq = scale (dgate - sum of dgate q / S) / S
// if `normalise`, otherwise scale dgate. Then dlogits = ds s (1 - s), or for softmax
// s (ds - sum of ds s).
// A missing gradient counts as zero.
Tensor topk_gate_backward(std::optional<Tensor> grad_gates_, std::optional<Tensor> grad_scores_,
                          const Tensor& logits_, const Tensor& ids_, bool softmax, bool normalise,
                          double route_scale) {
  check_shape("logits", logits_, {-1, -1});
  const bool bf16 = is_bf16("logits", logits_);
  check_type("logits", logits_, logits_.scalar_type());
  const int64_t tokens = logits_.size(0), experts = logits_.size(1);
  check_shape("expert_ids", ids_, {tokens, -1});
  check_type("expert_ids", ids_, ScalarType::Long);
  const int64_t top_k = ids_.size(1);
  Tensor grad_gates, grad_scores;
  if (grad_gates_) {
    check_shape("grad_gates", *grad_gates_, {tokens, top_k});
    check_type("grad_gates", *grad_gates_, ScalarType::Float);
    grad_gates = dense(*grad_gates_);
  }
  if (grad_scores_) {
    check_shape("grad_scores", *grad_scores_, {tokens, experts});
    check_type("grad_scores", *grad_scores_, ScalarType::Float);
    grad_scores = dense(*grad_scores_);
  }
  const Tensor logits = dense(logits_), ids = dense(ids_);
  Tensor out = empty({tokens, experts}, logits.scalar_type());
  auto* id = (const int64_t*)ids.const_data_ptr();
  for (int64_t i = 0; i < tokens * top_k; i++)
    require(id[i] >= 0 && id[i] < experts, "expert_ids must lie in [0, ", experts, "), got ", id[i]);
  auto* gates = grad_gates_ ? (const float*)grad_gates.const_data_ptr() : nullptr;
  auto* direct = grad_scores_ ? (const float*)grad_scores.const_data_ptr() : nullptr;
  auto* from = (const char*)logits.const_data_ptr();
  auto* to = (char*)out.mutable_data_ptr();
  const int64_t row = experts * (int64_t)logits.element_size();
  in_parts(parts_for(tokens * experts * 4), [&](int64_t part, int64_t parts) {
    std::vector<float> score(experts), grad(experts);
    for (int64_t t = tokens * part / parts; t < tokens * (part + 1) / parts; t++) {
      const Kernels& k = kernels(bf16);
      k.scores(from + t * row, experts, softmax, score.data());
      for (int64_t e = 0; e < experts; e++) grad[e] = direct ? direct[t * experts + e] : 0;
      const int64_t* own = id + t * top_k;
      float sum = 1e-20f, weighted = 0;
      for (int64_t i = 0; gates && i < top_k; i++) {
        sum += score[own[i]];
        weighted += gates[t * top_k + i] * score[own[i]];
      }
      for (int64_t i = 0; gates && i < top_k; i++) {
        const float g = gates[t * top_k + i];
        grad[own[i]] += (float)route_scale * (normalise ? (g - weighted / sum) / sum : g);
      }
      k.scores_gradient(score.data(), grad.data(), experts, softmax, to + t * row);
    }
  });
  return out;
}

// Ids of the k largest of every row, best first.
Tensor choose_best(const Tensor& values_, int64_t k) {
  check_shape("values", values_, {-1, -1});
  check_type("values", values_, ScalarType::Float);
  const Tensor values = dense(values_);
  const int64_t rows = values.size(0), n = values.size(1);
  require(k >= 1 && k <= n, "k: 1 to ", n, " expected, got ", k);
  Tensor ids = empty({rows, k}, ScalarType::Long);
  auto* from = (const float*)values.const_data_ptr();
  auto* to = (int64_t*)ids.mutable_data_ptr();
  in_parts(parts_for(rows * n * 4), [&](int64_t part, int64_t parts) {
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++)
      kernels(false).best(from + r * n, n, k, to + r * k);
  });
  return ids;
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("choose_best(Tensor values, int k) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("choose_best", TORCH_BOX(&mini_moe::choose_best));
}
