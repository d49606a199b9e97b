// Warp-level operations for g++: __syncwarp, shuffles, votes, matches, reductions.
// Included by cuda_on_cpu.h, never by nvcc.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace checker {
void synchronise_lanes(void** lanes, unsigned mask);
void check_width(const char* name, int width);
void lane_is_absent(int lane, int source);  // which `lane` tries to read

template <class T>
struct Exchange {
  T value;
  int source;
  T result;
};
template <class T>
UNWATCHED void exchange(void** lanes, unsigned mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    auto* mine = (Exchange<T>*)lanes[lane];
    if (mask >> mine->source & 1) {
      mine->result = ((Exchange<T>*)lanes[mine->source])->value;
    } else {
      lane_is_absent(lane, mine->source);
      memset(&mine->result, 0xff, sizeof(T));
    }
  }
}
template <class T>
ALWAYS_INLINE T shuffle(const char* name, unsigned mask, T value, int source, const char* file,
                        int line) {
  Exchange<T> mine{value, source, value};
  meet(name, mask, &mine, exchange<T>, file, line);
  return mine.result;
}

enum class Fold { ballot, maximum, minimum, sum, both, either, odd, same };
struct Vote {
  uint64_t value;
  uint64_t result;
};
template <Fold fold>
UNWATCHED void vote(void** lanes, unsigned mask) {
  uint64_t all = fold == Fold::minimum || fold == Fold::both ? ~0ull : 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    uint64_t v = ((Vote*)lanes[lane])->value;
    if (fold == Fold::ballot) all |= uint64_t(v != 0) << lane;
    if (fold == Fold::maximum) all = v > all ? v : all;
    if (fold == Fold::minimum) all = v < all ? v : all;
    if (fold == Fold::sum) all += v;
    if (fold == Fold::both) all &= v;
    if (fold == Fold::either) all |= v;
    if (fold == Fold::odd) all ^= v;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    auto* mine = (Vote*)lanes[lane];
    mine->result = all;
    if (fold != Fold::same) continue;
    mine->result = 0;
    for (int other = 0; other < 32; ++other)
      if (mask >> other & 1 && ((Vote*)lanes[other])->value == mine->value)
        mine->result |= 1u << other;
  }
}
template <Fold fold>
ALWAYS_INLINE uint64_t ask(const char* name, unsigned mask, uint64_t value, const char* file,
                           int line) {
  Vote mine{value, 0};
  meet(name, mask, &mine, vote<fold>, file, line);
  return mine.result;
}
template <class T>
ALWAYS_INLINE uint64_t bits_of(T value) {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <Fold fold, class T>
ALWAYS_INLINE T reduce(const char* name, unsigned mask, T value, const char* file, int line) {
  constexpr bool ordered = fold == Fold::maximum || fold == Fold::minimum;
  constexpr unsigned lowest = ordered && std::is_signed_v<T> ? 1u << 31 : 0;
  return T(unsigned(ask<fold>(name, mask, unsigned(value) ^ lowest, file, line)) ^ lowest);
}
}  // namespace checker

ALWAYS_INLINE int this_lane() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}
ALWAYS_INLINE void __syncwarp(unsigned mask = 0xffffffff, HERE) {
  checker::meet("__syncwarp", mask, nullptr, checker::synchronise_lanes, file, line);
}

// ---- shuffles
template <class T>
ALWAYS_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32, HERE) {
  checker::check_width("__shfl_sync", width);
  source = (this_lane() & -width) | (source & (width - 1));
  return checker::shuffle("__shfl_sync", mask, value, source, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, HERE) {
  checker::check_width("__shfl_xor_sync", width);
  int lane = this_lane(), source = lane ^ (bits & 31);
  if (source >= (lane & -width) + width) source = lane;
  return checker::shuffle("__shfl_xor_sync", mask, value, source, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HERE) {
  checker::check_width("__shfl_up_sync", width);
  unsigned lane = this_lane(), room = lane & (width - 1);  // lower lanes in its segment
  int source = lane - (delta > room ? 0 : delta);
  return checker::shuffle("__shfl_up_sync", mask, value, source, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HERE) {
  checker::check_width("__shfl_down_sync", width);
  unsigned lane = this_lane(), room = width - 1 - (lane & (width - 1));
  int source = lane + (delta > room ? 0 : delta);
  return checker::shuffle("__shfl_down_sync", mask, value, source, file, line);
}

// ---- votes and matches
ALWAYS_INLINE unsigned __ballot_sync(unsigned mask, int vote, HERE) {
  return checker::ask<checker::Fold::ballot>("__ballot_sync", mask, vote, file, line);
}
ALWAYS_INLINE int __any_sync(unsigned mask, int vote, HERE) {
  return checker::ask<checker::Fold::ballot>("__any_sync", mask, vote, file, line) != 0;
}
ALWAYS_INLINE int __all_sync(unsigned mask, int vote, HERE) {
  return checker::ask<checker::Fold::ballot>("__all_sync", mask, !vote, file, line) == 0;
}
template <class T>
ALWAYS_INLINE unsigned __match_any_sync(unsigned mask, T value, HERE) {
  return checker::ask<checker::Fold::same>("__match_any_sync", mask, checker::bits_of(value), file,
                                           line);
}
template <class T>
ALWAYS_INLINE unsigned __match_all_sync(unsigned mask, T value, int* all, HERE) {
  constexpr const char* name = "__match_all_sync";
  uint64_t here = checker::ask<checker::Fold::ballot>(name, mask, 1, file, line);
  *all = here == checker::ask<checker::Fold::same>(name, mask, checker::bits_of(value), file, line);
  return *all ? mask : 0;
}

// ---- reductions over the lanes, of int or unsigned
#define REDUCE(name, fold, T)                                                       \
  ALWAYS_INLINE T name(unsigned mask, T value, HERE) {                              \
    return checker::reduce<checker::Fold::fold>(#name, mask, value, file, line);    \
  }
REDUCE(__reduce_max_sync, maximum, int)
REDUCE(__reduce_max_sync, maximum, unsigned)
REDUCE(__reduce_min_sync, minimum, int)
REDUCE(__reduce_min_sync, minimum, unsigned)
REDUCE(__reduce_add_sync, sum, int)
REDUCE(__reduce_add_sync, sum, unsigned)
REDUCE(__reduce_and_sync, both, unsigned)
REDUCE(__reduce_or_sync, either, unsigned)
REDUCE(__reduce_xor_sync, odd, unsigned)
#undef REDUCE
