// The entry points that the compiler's instrumentation calls.
//
// g++ -fsanitize=thread calls `__tsan_read4(address)` before a load and `__tsan_write4` before a
// store; -fsanitize=bounds,signed-integer-overflow,integer-divide-by-zero,shift call
// `__ubsan_handle_…` on undefined behaviour. The libraries that usually define these functions are
// not linked; this file defines them.
#include "checker.h"

using namespace checker;

#define SITE __builtin_return_address(0)
#define HOOKS(n)                                                                        \
  extern "C" void __tsan_read##n(void* p) { touch(p, n, Access::read, SITE); }          \
  extern "C" void __tsan_write##n(void* p) { touch(p, n, Access::write, SITE); }        \
  extern "C" void __tsan_unaligned_read##n(void* p) { touch(p, n, Access::read, SITE); } \
  extern "C" void __tsan_unaligned_write##n(void* p) { touch(p, n, Access::write, SITE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
extern "C" void __tsan_read_range(void* p, long n) { touch(p, n, Access::read, SITE); }
extern "C" void __tsan_write_range(void* p, long n) { touch(p, n, Access::write, SITE); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

namespace {
struct Type {
  uint16_t kind, info;
  char name[1];
};
struct Place {
  struct {
    const char* file;
    uint32_t line, column;
  } where;
  const Type* type;
  const Type* index_type;
};

long long value_of(const Type* type, uintptr_t bits) {
  return type->info == 11 ? (int32_t)bits : (long long)bits;  // 11: a signed 32-bit integer
}

void undefined(const char* kind, const void* site, const std::string& text) {
  report(kind, site, (running ? describe(here.block, here.thread) : "the launcher") + " " + text);
  if (running) stop_kernel();
}

void overflow(const Place* place, const char* sign, uintptr_t a, uintptr_t b, const void* site) {
  undefined("overflow", site,
            "computes " + std::to_string(value_of(place->type, a)) + " " + sign + " " +
                std::to_string(value_of(place->type, b)) + " in " + place->type->name);
}
}  // namespace

extern "C" void __ubsan_handle_out_of_bounds(const Place* place, uintptr_t index) {
  undefined("out of bounds", SITE,
            "takes element " + std::to_string(value_of(place->index_type, index)) + " of " +
                place->type->name);
}
extern "C" void __ubsan_handle_add_overflow(const Place* p, uintptr_t a, uintptr_t b) {
  overflow(p, "+", a, b, SITE);
}
extern "C" void __ubsan_handle_sub_overflow(const Place* p, uintptr_t a, uintptr_t b) {
  overflow(p, "-", a, b, SITE);
}
extern "C" void __ubsan_handle_mul_overflow(const Place* p, uintptr_t a, uintptr_t b) {
  overflow(p, "*", a, b, SITE);
}
extern "C" void __ubsan_handle_divrem_overflow(const Place* p, uintptr_t a, uintptr_t b) {
  if (value_of(p->type, b)) return overflow(p, "/", a, b, SITE);
  undefined("division by zero", SITE, "divides " + std::to_string(value_of(p->type, a)) +
                                          " by 0 in " + p->type->name);
}
extern "C" void __ubsan_handle_negate_overflow(const Place* p, uintptr_t a) {
  overflow(p, "-", 0, a, SITE);
}
extern "C" void __ubsan_handle_shift_out_of_bounds(const Place* p, uintptr_t a, uintptr_t b) {
  overflow(p, "shifted by", a, b, SITE);
}
