// Replaces kernels/checker/memory.cpp if kernels work on torch's own memory, which is not watched:
// copies are done, asynchronous ones late, and addresses must be multiples of the access size.
#include <cstring>
#include <deque>

#include "checker/checker.h"

namespace checker {
namespace {
struct Copy {
  char* to;
  const char* from;  // null: zeros
  size_t bytes;
  int group;  // how many commits came after it; -1 before its own
};

std::deque<Copy> copies[1024];  // per thread, oldest first
}  // namespace

void touch(const void* pointer, size_t bytes, Access, const void* site) {
  if (!running || (bytes & (bytes - 1)) || bytes > 16 || (uintptr_t)pointer % bytes == 0) return;
  report("misaligned", site, "an address that is no multiple of the access");
  stop_kernel();
}

void copy(void* to, const void* from, size_t bytes) {
  touch(from, bytes, Access::read, nullptr);
  touch(to, bytes, Access::write, nullptr);
  memcpy(to, from, bytes);
}

void copy_shared(void* to, const void* from, size_t bytes) { copy(to, from, bytes); }

void update(void* p, size_t, void (*change)(void*, void*), void* operands) { change(p, operands); }

void copy_later(void* to, const void* from, size_t bytes) {
  touch(from, bytes, Access::read, nullptr);
  touch(to, bytes, Access::write, nullptr);
  memset(to, 0xff, bytes);  // NaN until a wait
  copies[here.thread].push_back({(char*)to, (const char*)from, bytes, -1});
}

void commit_copies() {
  for (Copy& copy : copies[here.thread]) ++copy.group;
}

void wait_for_copies(int groups_left) {
  auto& mine = copies[here.thread];
  for (; !mine.empty() && mine.front().group >= groups_left; mine.pop_front()) {
    const Copy& copy = mine.front();
    if (copy.from) memcpy(copy.to, copy.from, copy.bytes);
    else memset(copy.to, 0, copy.bytes);
  }
}

void forget_copies() {
  for (auto& mine : copies) mine.clear();
}
}  // namespace checker
