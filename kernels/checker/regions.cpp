// The memory that a kernel may touch, and the list of reports.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "checker.h"

namespace checker {
namespace {
constexpr uintptr_t kNullReach = 1 << 20;
constexpr size_t kEmptyReach = 228 << 10;      // an access this close is to the empty buffer
constexpr size_t kGuard = size_t(4) << 30;  // unmapped bytes on either side of a buffer

struct Reservation {
  void* begin;
  size_t bytes;
};

std::vector<Region*> regions;  // by address
std::vector<Reservation> reservations;
std::set<std::string> seen;
std::string reports;

uintptr_t base() {  // this library's, so that sites fit 32 bits
  static uintptr_t address = [] {
    Dl_info info;
    dladdr((void*)&touch, &info);
    return (uintptr_t)info.dli_fbase;
  }();
  return address;
}

Region* after(uintptr_t address) {  // the first region that ends after the address
  auto it = std::upper_bound(regions.begin(), regions.end(), address,
                             [](uintptr_t a, const Region* r) { return a < r->end; });
  return it == regions.end() ? nullptr : *it;
}

Region* last = nullptr;  // the region of the last access
}  // namespace

uint32_t offset_of(const void* site) { return (uintptr_t)site - base(); }
const void* site_at(uint32_t offset) { return (const void*)(base() + offset); }

Region* region_of(uintptr_t address) {
  if (!last || address - last->begin >= last->end - last->begin) {
    last = after(address);
    if (last && address < last->begin) last = nullptr;
  }
  return last;
}

std::string nearest(uintptr_t address) {
  Region* next = after(address);
  if (Region* inside = region_of(address)) return "across the end of `" + inside->name + "`";
  Region* before = nullptr;
  for (Region* r : regions)
    if (r->end <= address && (!before || r->end > before->end)) before = r;
  if (address < kNullReach) return "a null pointer";
  if (before && before->begin == before->end && address - before->end < kEmptyReach)
    return "in `" + before->name + "`, of which there are 0 bytes";
  uintptr_t behind = before ? address - before->end : kGuard;
  uintptr_t ahead = next ? next->begin - address : kGuard;
  if (behind >= kGuard && ahead >= kGuard) return "nowhere near a buffer";
  if (behind <= ahead)
    return std::to_string(behind) + " bytes behind the end of `" + before->name + "`";
  return std::to_string(ahead) + " bytes before `" + next->name + "`";
}

void fill(void* to, int byte, size_t bytes) {
  memset(to, byte, bytes);
  Region* region = region_of((uintptr_t)to);
  if (!region) return;
  for (size_t i = 0; i < bytes; i += region->element)
    region->cells[((uintptr_t)to + i - region->begin) / region->element].write_block = 1;
}

Region* declare(uintptr_t begin, size_t bytes, size_t element, Space space, bool writable,
                bool written, const char* name) {
  auto* region = new Region{begin, begin, element, space, writable, nullptr, name};
  auto it = std::upper_bound(regions.begin(), regions.end(), begin,
                             [](uintptr_t a, const Region* r) { return a < r->begin; });
  regions.insert(it, region);
  last = nullptr;
  if (!resize(region, bytes)) return nullptr;
  for (size_t i = 0; written && i < bytes / element; ++i) region->cells[i].write_block = 1;
  return region;
}

bool resize(Region* region, size_t bytes) {
  if (region->begin + bytes == region->end) return true;
  if (region->cells)
    munmap(region->cells, (region->end - region->begin) / region->element * sizeof(Cell) + 1);
  size_t size = bytes / region->element * sizeof(Cell) + 1;  // pages exist once they are touched
  void* cells = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  bool there = cells != MAP_FAILED;
  region->cells = there ? (Cell*)cells : nullptr;
  region->end = region->begin + (there ? bytes : 0);
  return there;
}

std::string site_name(const void* site) {
  char text[24];
  snprintf(text, sizeof text, "@%x", offset_of(site));
  return text;
}

void report(const char* kind, const void* site, const std::string& text) {
  if (reports.size() > 100000) return;
  reports += std::string(kind) + "\t" + site_name(site) + "\t" + text + "\n";
}

void poison_shared_memory() {
  for (Region* region : regions)
    if (region->space == Space::shared)
      memset((void*)region->begin, 0xff, region->end - region->begin);
}

bool first_time(const std::string& key) { return seen.insert(key).second; }
}  // namespace checker

// ---- what Python calls
using namespace checker;

// Allocates a buffer with gigabytes of unmapped addresses on either side. Only touched pages take
// memory, so a buffer of more than 2^31 elements costs nothing.
extern "C" void* checker_buffer(const char* name, uint64_t bytes, uint64_t element, int writable,
                                int written) {
  size_t whole = (bytes + 4095) / 4096 * 4096 + 2 * kGuard;
  char* begin = (char*)mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                            -1, 0);
  if (begin == MAP_FAILED) return nullptr;
  char* data = begin + kGuard;
  mprotect(data, (bytes + 4095) / 4096 * 4096, PROT_READ | PROT_WRITE);
  if (!written && bytes <= size_t(1) << 30) memset(data, 0xff, bytes);  // NaN, or -1
  reservations.push_back({begin, whole});
  bool watched = declare((uintptr_t)data, bytes, element, Space::global, writable, written, name);
  return watched ? data : nullptr;
}

extern "C" void checker_shared(void* address, uint64_t bytes, const char* name) {
  declare((uintptr_t)address, bytes, 1, Space::shared, true, false, name);
}

extern "C" void checker_release() {  // all buffers; shared arrays stay
  last = nullptr;
  for (Region* region : regions)
    if (region->space == Space::global) {
      size_t elements = (region->end - region->begin) / region->element;
      munmap(region->cells, elements * sizeof(Cell) + 1);
      region->end = 0;
    }
  for (auto it = regions.begin(); it != regions.end();)
    if ((*it)->end == 0) {
      delete *it;
      it = regions.erase(it);
    } else {
      ++it;
    }
  for (Reservation& r : reservations) munmap(r.begin, r.bytes);
  reservations.clear();
}

extern "C" void checker_fill(void* to, int byte, uint64_t bytes) { fill(to, byte, bytes); }

extern "C" uint64_t checker_unwritten(void* address) {  // counts a buffer's unwritten elements
  Region* region = region_of((uintptr_t)address);
  uint64_t count = 0;
  for (size_t i = 0; region && i < (region->end - region->begin) / region->element; ++i)
    count += region->cells[i].write_block == 0;
  return count;
}

extern "C" uint64_t checker_base() { return base(); }
extern "C" const char* checker_reports() { return reports.c_str(); }
extern "C" void checker_clear() {
  reports.clear();
  seen.clear();
}
