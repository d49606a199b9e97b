// Launches a kernel whose arguments Python packed; mini_moe/checker/source.py appends this to a
// kernel given as text.
#pragma once
#include <cstring>
#include <type_traits>

#include "../device.cuh"

namespace checker {
union Argument {
  int64_t integer;
  double real;
  void* pointer;
};

template <class T>
constexpr const char* letter() {
  using U = std::remove_const_t<T>;
  if (std::is_same_v<U, float>) return "float";
  if (std::is_same_v<U, double>) return "double";
  if (std::is_same_v<U, bf16>) return "bf16";
  if (std::is_same_v<U, int>) return "int";
  if (std::is_same_v<U, unsigned>) return "unsigned";
  if (std::is_same_v<U, int64_t> || std::is_same_v<U, long long>) return "int64_t";
  return std::is_integral_v<U> ? "an integer" : "a type that Python cannot pass";
}

// "const float*|int|": the parameter types of a kernel. No std::string here: this file is
// instrumented, and the checker itself would share the instrumented copy of its functions.
template <class P>
void add_type(char* text, size_t room) {
  using T = std::remove_pointer_t<P>;
  bool pointer = std::is_pointer_v<P>, constant = pointer && std::is_const_v<T>;
  size_t length = strlen(text);
  snprintf(text + length, room - length, "%s%s%s|", constant ? "const " : "", letter<T>(),
           pointer ? "*" : "");
}
template <class... P>
const char* types_of(void (*)(P...)) {
  static char text[4096];
  text[0] = 0;
  (add_type<P>(text, sizeof text), ...);
  return text;
}

template <class P>
P unpack(const Argument& a) {
  if constexpr (std::is_pointer_v<P>)
    return static_cast<P>(a.pointer);
  else if constexpr (std::is_floating_point_v<P>)
    return P(a.real);
  else
    return P(a.integer);
}
template <class... P, size_t... i>
const char* call(const char* name, void (*kernel)(P...), const int64_t* sizes, const Argument* a,
                 std::index_sequence<i...>) {
  dim3 grid(sizes[0], sizes[1], sizes[2]), block(sizes[3], sizes[4], sizes[5]);
  return launch(name, kernel, grid, block, sizes[6], nullptr, unpack<P>(a[i])...);
}
template <class... P>
const char* call(const char* name, void (*kernel)(P...), const int64_t* sizes, const Argument* a) {
  return call(name, kernel, sizes, a, std::index_sequence_for<P...>());
}
}  // namespace checker

#define CALLABLE(kernel)                                                                       \
  extern "C" const char* types_##kernel() { return checker::types_of(&kernel); }               \
  extern "C" const char* call_##kernel(const int64_t* sizes, const checker::Argument* a) {     \
    return checker::call(#kernel, &kernel, sizes, a);                                          \
  }
