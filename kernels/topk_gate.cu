// topk_gate: which experts a token goes to, and the weight of each.
//
//   scores     = sigmoid(logits) or softmax(logits)                    [tokens, experts]
//   choice     = scores + bias, and -inf outside the top_k_groups best groups; a group's score is
//                the sum of its two best choices (DeepSeek-V3) or its best one (DeepSeek-V2)
//   expert_ids = the top_k largest choices, best first; ties go to the lower id; NaN ranks above
//                every number, as in torch.sort, and is chosen at most once
//   gates      = scores[expert_ids], divided by their sum + 1e-20 if `normalise`, · route_scale
//
// Thread → data: one warp per token; lane l holds experts l, l + 32, …: loads are coalesced, and up
// to 32 scores stay in registers. Each round of the choice finds the maximum over the warp, then
// the lowest id that has it; lane r keeps the result of round r.
// Bytes per token: E · sizeof(logit) + 12 K, + 4 E for each of the two score outputs requested.
// FLOPs per token: about 4 E, and 2 K E compares. The gradient is in topk_gate_backward.cu.
// Source: DeepSeek-V3, arXiv 2412.19437 §2.1.2, equations 12-16; DeepSeek-V2, arXiv 2405.04434
// §2.2.1-2.2.2.
#include "topk_gate.cuh"

namespace {
constexpr unsigned kTaken = 0;                   // below every number: already chosen, or no expert
constexpr unsigned kMinusInfinity = 0x007fffff;  // in_order(-inf)
constexpr int kNobody = 0x7fffffff;

// float → unsigned preserving order: NaN above all, -0 equal to 0.
__device__ inline unsigned in_order(float x) {
  if (x != x) return 0xffffffff;
  unsigned bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}
__device__ inline float from_order(unsigned key) {
  return __uint_as_float(key & 0x80000000 ? key ^ 0x80000000 : ~key);
}

// Sets `best` to the warp's largest key and returns the lowest id that has it.
template <int kPerLane>
__device__ int largest_id(const unsigned (&key)[kPerLane], int lane, unsigned& best) {
  unsigned mine = kTaken;
  int id = kNobody;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (key[i] > mine) mine = key[i], id = i * kWarp + lane;
  best = __reduce_max_sync(kAllLanes, mine);
  return __reduce_min_sync(kAllLanes, mine == best ? id : kNobody);
}

// A group's score, as an ordered key.
template <int kPerLane>
__device__ unsigned group_worth(const unsigned (&key)[kPerLane], int group, const Gate& gate,
                                int lane) {
  int size = gate.n_experts / gate.n_groups;
  unsigned inside[kPerLane], first, second;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    inside[i] = (i * kWarp + lane) / size == group ? key[i] : kTaken;
  int best = largest_id(inside, lane, first);
  if (!gate.two_best) return first;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (i * kWarp + lane == best) inside[i] = kTaken;
  largest_id(inside, lane, second);
  return in_order(from_order(first) + from_order(second));
}

// The same if group i is key[i] of all lanes, as in DeepSeek-V3: 256 experts in 8 groups.
__device__ inline unsigned whole_group_worth(unsigned key, const Gate& gate, int lane) {
  unsigned first = __reduce_max_sync(kAllLanes, key);
  if (!gate.two_best) return first;
  int best = __ffs(__ballot_sync(kAllLanes, key == first)) - 1;
  unsigned second = __reduce_max_sync(kAllLanes, lane == best ? kTaken : key);
  return in_order(from_order(first) + from_order(second));
}

// The score of group number `lane`.
template <int kPerLane>
__device__ unsigned my_group_worth(const unsigned (&key)[kPerLane], const Gate& gate, int lane) {
  unsigned mine = kTaken;
  if (gate.n_experts / gate.n_groups == kWarp) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (i >= gate.n_groups) break;
      unsigned here = whole_group_worth(key[i], gate, lane);
      if (lane == i) mine = here;
    }
    return mine;
  }
  for (int group = 0; group < gate.n_groups; ++group) {
    unsigned here = group_worth(key, group, gate, lane);
    if (lane == group) mine = here;
  }
  return mine;
}

template <int kPerLane>
__device__ void exclude_groups(unsigned (&key)[kPerLane], const Gate& gate, int lane) {
  unsigned worth[1] = {my_group_worth(key, gate, lane)};
  unsigned kept = 0, unused;
  for (int round = 0; round < gate.top_k_groups; ++round) {
    int group = largest_id(worth, lane, unused);
    kept |= 1u << group;
    if (lane == group) worth[0] = kTaken;
  }
  int size = gate.n_experts / gate.n_groups;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int expert = i * kWarp + lane, group = size == kWarp ? i : expert / size;
    if (expert < gate.n_experts && !(kept >> group & 1)) key[i] = kMinusInfinity;
  }
}

template <int kPerLane>
__global__ void __launch_bounds__(kTokensPerBlock* kWarp)
    topk_gate_kernel(const void* logits,        // [tokens, experts]
                     DType logits_type,
                     const void* bias,          // [experts], or null
                     DType bias_type,
                     float* scores,             // [tokens, experts], or null
                     float* choice_scores,      // [tokens, experts], or null
                     int64_t* expert_ids,       // [tokens, top_k]
                     float* gates,              // [tokens, top_k]
                     Gate gate) {
  int lane = threadIdx.x % kWarp;
  int64_t token = int64_t(blockIdx.x) * kTokensPerBlock + threadIdx.x / kWarp;
  if (token >= gate.n_tokens) return;
  float score[kPerLane];
  unsigned key[kPerLane];
  load_scores(score, logits, logits_type, gate, token, lane);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int expert = i * kWarp + lane;
    key[i] = kTaken;
    if (expert >= gate.n_experts) continue;
    if (scores) scores[token * gate.n_experts + expert] = score[i];
    key[i] = in_order(bias ? score[i] + read(bias, bias_type, expert) : score[i]);
  }
  if (gate.n_groups > 1) exclude_groups(key, gate, lane);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int expert = i * kWarp + lane;
    if (choice_scores && expert < gate.n_experts)
      choice_scores[token * gate.n_experts + expert] = from_order(key[i]);
  }

  int my_id = 0;
  float my_score = 0;
  for (int round = 0; round < gate.top_k; ++round) {
    unsigned unused;
    int id = largest_id(key, lane, unused);
    float found = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (i * kWarp + lane == id) found = score[i], key[i] = kTaken;
    found = __shfl_sync(kAllLanes, found, id % kWarp);
    if (lane == round) my_id = id, my_score = found;
  }
  float sum = warp_sum(my_score);
  if (lane >= gate.top_k) return;
  if (gate.normalise) my_score /= sum + 1e-20f;
  expert_ids[token * gate.top_k + lane] = my_id;
  gates[token * gate.top_k + lane] = my_score * gate.route_scale;
}
}  // namespace

extern "C" const char* topk_gate_forward(
    const void* logits, int64_t logits_type, const void* bias, int64_t bias_type, float* scores,
    float* choice_scores, int64_t* expert_ids, float* gates, int64_t n_tokens, int64_t n_experts, int64_t top_k,
    int64_t n_groups, int64_t top_k_groups, int64_t two_best, int64_t softmax, int64_t normalise,
    double route_scale, void* stream) {
  Gate gate{n_tokens,          int(n_experts), int(top_k),   int(n_groups),     int(top_k_groups),
            two_best != 0,     softmax != 0,   normalise != 0, float(route_scale)};
  TRY(check(gate, n_experts, top_k, n_groups, top_k_groups));
  TRY(check_type("logits", logits_type));
  if (bias) TRY(check_type("bias", bias_type));
  if (n_tokens == 0) return nullptr;
  LAUNCH_FOR_EXPERTS("topk_gate_forward", topk_gate_kernel, logits, DType(logits_type), bias,
                     DType(bias_type), scores, choice_scores, expert_ids, gates, gate);
}
