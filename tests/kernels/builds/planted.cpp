// Errors that the sanitizers must find, in the same library as the kernels; sanitize.py calls them.
#include <climits>
#include <cstdint>
#include <vector>

extern "C" __attribute__((visibility("default"))) int64_t planted_overrun(int64_t n) {
  std::vector<int64_t> numbers(n, 1);
  return numbers.data()[n];
}
extern "C" __attribute__((visibility("default"))) int64_t planted_overflow(int64_t n) {
  int large = INT_MAX - 8 + int(n);
  return large + int(n);
}
