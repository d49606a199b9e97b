// CUDA's atomics, and loads and stores with a hint for the caches, for g++. Included by
// cuda_on_cpu.h, never by nvcc.
#pragma once
#include <cstddef>

// ---- atomics: fibers never interrupt each other, so informing the checker is enough
namespace checker {
void update(void* p, size_t bytes, void (*change)(void* p, void* operands), void* operands);
template <class T>
struct Operands {
  T value, compare, old;
};
template <class T>
struct Same {  // keeps a parameter from taking part in the deduction of T
  using type = T;
};
}  // namespace checker
#define ATOMIC(name, updated)                                                                  \
  namespace checker {                                                                          \
  template <class T>                                                                           \
  UNWATCHED void name##_now(void* p, void* operands) {                                         \
    [[maybe_unused]] auto& [value, compare, old] = *(Operands<T>*)operands;                    \
    old = *(T*)p;                                                                              \
    *(T*)p = updated;                                                                          \
  }                                                                                            \
  }                                                                                            \
  template <class T>                                                                           \
  ALWAYS_INLINE T name(T* p, typename checker::Same<T>::type a,                                \
                       typename checker::Same<T>::type b = T()) {                              \
    checker::Operands<T> operands{a, b, T()};                                                  \
    checker::update(p, sizeof(T), checker::name##_now<T>, &operands);                          \
    return operands.old;                                                                       \
  }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicSub, old - value)
ATOMIC(atomicMax, value > old ? value : old)
ATOMIC(atomicMin, value < old ? value : old)
ATOMIC(atomicOr, old | value)
ATOMIC(atomicAnd, old& value)
ATOMIC(atomicXor, old ^ value)
ATOMIC(atomicInc, old >= value ? 0 : old + 1)
ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
ATOMIC(atomicExch, value)
ATOMIC(atomicCAS, old == value ? compare : old)  // atomicCAS(p, compare, value): in this order
#undef ATOMIC

// ---- hints for the caches
#define LOAD(name)      \
  template <class T>    \
  ALWAYS_INLINE T name(const T* p) { return *p; }
#define STORE(name)     \
  template <class T>    \
  ALWAYS_INLINE void name(T* p, typename checker::Same<T>::type value) { *p = value; }
LOAD(__ldg)
LOAD(__ldca)
LOAD(__ldcg)
LOAD(__ldcs)
STORE(__stcg)
STORE(__stcs)
STORE(__stwt)
#undef LOAD
#undef STORE
