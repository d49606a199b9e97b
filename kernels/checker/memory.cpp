// Checks every load and store of a kernel: inside a buffer? written before? a race?
//
// A cell per element remembers the last write and the reads since, in the style of FastTrack.
// Source: Flanagan & Freund, FastTrack: Efficient and Precise Dynamic Race Detection, PLDI 2009.
#include <algorithm>
#include <cstring>
#include <deque>

#include "checker.h"

namespace checker {
namespace {
struct Copy {
  char* to;
  const char* from;  // null: zeros
  size_t bytes;
  const void* site;
  int group;  // how many commits came after it; -1 before its own
};

std::deque<Copy> copies[1024];  // per thread, oldest first

std::string element(const Region& region, uintptr_t address) {
  std::string number = std::to_string((address - region.begin) / region.element);
  if (region.space == Space::shared) return "byte " + number + " of shared `" + region.name + "`";
  return "`" + region.name + "`[" + number + "]";
}

const char* verb(Access access) {
  if (access == Access::atomic) return "atomically updates";
  return access == Access::read ? "reads" : "writes";
}

[[noreturn]] void out_of_bounds(uintptr_t address, size_t bytes, Access access, const void* site) {
  report("out of bounds", site, describe(here.block, here.thread) + " " + verb(access) + " " +
                                    std::to_string(bytes) + " bytes, " + nearest(address));
  stop_kernel();
}

// ldmatrix and cp.async take shared-memory addresses, and cp.async reads from global memory.
void must_lie_in(Space space, const void* pointer, Access access, const char* name,
                 const void* site) {
  Region* region = region_of((uintptr_t)pointer);
  if (region && region->space == space) return;
  report("out of bounds", site,
         describe(here.block, here.thread) + " " + verb(access) + " 16 bytes by " + name + ", " +
             (region                           ? "in `" + region->name + "`"
              : on_stack((uintptr_t)pointer) ? "in its own variables"
                                             : nearest((uintptr_t)pointer)) +
             ", not in " + (space == Space::shared ? "shared" : "global") + " memory");
  stop_kernel();
}

void race(const Region& region, uintptr_t address, Access access, const void* site,
          const char* earlier, uint32_t block, unsigned thread, uint32_t other) {
  std::string text = describe(here.block, here.thread) + " " + verb(access) + " " +
                     element(region, address) + "; " + describe(block, thread) + " " + earlier +
                     " it at " + site_name(site_at(other)) +
                     (block == here.block ? ", no barrier between" : ", another block");
  // One report per pair of instructions, whichever of them comes second.
  uint32_t low = std::min(offset_of(site), other), high = std::max(offset_of(site), other);
  std::string key = std::to_string(low) + " " + std::to_string(high);
  if (first_time(key)) report("race", site, text);
}

// Each block has its own shared memory; all blocks share global memory.
bool concerns(const Region& region, uint32_t block) {
  return region.space == Space::shared ? block == here.block : block >= first_block_of_launch;
}

// Is the cell's last write unordered with the current access?
bool write_conflicts(const Region& region, const Cell& cell, Access access) {
  if (!concerns(region, cell.write_block)) return false;
  if (access == Access::atomic && cell.write_atomic) return false;
  if (cell.write_block != here.block) return true;
  if (cell.write_interval != here.interval) return false;
  if (cell.write_by_many) return true;
  if (cell.write_thread == here.thread) return false;
  return cell.write_thread / 32 != here.thread / 32 ||
         !knows(cell.write_thread % 32, cell.write_clock);
}

// The same for its reads; `thread` is a conflicting one.
bool reads_conflict(const Region& region, const Cell& cell, unsigned& thread, uint32_t& site) {
  if (!concerns(region, cell.read_block)) return false;
  thread = cell.read_warp * 32 + (cell.read_lanes ? __builtin_ctz(cell.read_lanes) : 0);
  site = cell.read_site;
  if (cell.read_block != here.block) return true;
  if (region.space == Space::global && cell.read_by_blocks) return true;
  if (cell.read_interval != here.interval) return false;
  if (cell.read_warp != here.thread / 32) return true;
  for (unsigned lanes = cell.read_lanes & ~(1u << here.thread % 32); lanes; lanes &= lanes - 1) {
    thread = cell.read_warp * 32 + __builtin_ctz(lanes);
    if (!knows(__builtin_ctz(lanes), cell.read_clock)) return true;
  }
  thread = cell.other_thread;
  site = cell.other_site;
  return cell.read_by_other;
}

void note_read(Cell& cell, uint32_t site) {
  uint16_t warp = here.thread / 32;
  uint32_t lane = 1u << here.thread % 32;
  cell.read_by_blocks = cell.read_block >= first_block_of_launch &&
                        (cell.read_by_blocks || cell.read_block != here.block);
  if (cell.read_interval != here.interval) {
    cell.read_interval = here.interval;
    cell.read_block = here.block;
    cell.read_warp = warp;
    cell.read_lanes = lane;
    cell.read_clock = here.clock;
    cell.read_site = site;
    cell.read_by_other = false;
  } else if (cell.read_warp != warp) {
    cell.read_by_other = true;
    cell.other_thread = here.thread;
    cell.other_site = site;
  } else if (cell.read_clock != here.clock) {
    bool all = true;  // does this thread know all of these reads? Then its own replaces them
    for (uint32_t lanes = cell.read_lanes & ~lane; lanes; lanes &= lanes - 1)
      all = all && knows(__builtin_ctz(lanes), cell.read_clock);
    cell.read_lanes = all ? lane : cell.read_lanes | lane;
    cell.read_clock = all ? here.clock : std::min(cell.read_clock, here.clock);
    cell.read_site = site;
  } else {
    cell.read_lanes |= lane;
  }
}

void note_write(Cell& cell, Access access, uint32_t site) {
  cell.write_by_many = access == Access::atomic && cell.write_atomic &&
                       cell.write_interval == here.interval &&
                       (cell.write_by_many || cell.write_thread != here.thread);
  cell.write_block = here.block;
  cell.write_interval = here.interval;
  cell.write_thread = here.thread;
  cell.write_clock = here.clock;
  cell.write_atomic = access == Access::atomic;
  cell.write_site = site;
  cell.in_flight = false;
}

bool unwritten(const Region& region, const Cell& cell) {
  return region.space == Space::shared ? cell.write_block != here.block : cell.write_block == 0;
}

// An asynchronous copy may arrive at any time until its thread has waited for it.
void overtakes_a_copy(const Region& region, const Cell& cell, uintptr_t address, const void* site) {
  if (first_time("copy" + std::to_string(offset_of(site))))
    report("race", site,
           describe(here.block, here.thread) + " writes " + element(region, address) +
               ", where an asynchronous copy of " + describe(cell.write_block, cell.write_thread) +
               " from " + site_name(site_at(cell.write_site)) + " is on its way");
}

void check_cell(const Region& region, Cell& cell, uintptr_t address, Access access,
                const void* site) {
  if (cell.write_block != here.block) cell.in_flight = false;
  if (access == Access::write && cell.in_flight) overtakes_a_copy(region, cell, address, site);
  if (access != Access::write && (cell.in_flight || unwritten(region, cell))) {
    std::string key = "unwritten" + std::to_string(offset_of(site));
    if (first_time(key))
      report("unwritten", site,
             describe(here.block, here.thread) + " " + verb(access) + " " +
                 element(region, address) +
                 (cell.in_flight ? ", which an asynchronous copy has not written yet"
                                 : ", which was never written"));
  }
  unsigned thread = 0;
  uint32_t other = 0;
  if (write_conflicts(region, cell, access))
    race(region, address, access, site, cell.write_atomic ? "atomically updated" : "wrote",
         cell.write_block, cell.write_thread, cell.write_site);
  else if (access != Access::read && reads_conflict(region, cell, thread, other))
    race(region, address, access, site, "read", cell.read_block, thread, other);
  if (access == Access::read)
    note_read(cell, offset_of(site));
  else
    note_write(cell, access, offset_of(site));
}
}  // namespace

void touch(const void* pointer, size_t bytes, Access access, const void* site) {
  uintptr_t address = (uintptr_t)pointer;
  if (!running || on_stack(address) || !bytes) return;
  Region* region = region_of(address);
  if (!region || address + bytes > region->end) out_of_bounds(address, bytes, access, site);
  if ((bytes & (bytes - 1)) == 0 && bytes <= 16 && address % bytes) {
    report("misaligned", site, describe(here.block, here.thread) + " " + verb(access) + " " +
                                   std::to_string(bytes) + " bytes at " +
                                   element(*region, address) + ", " +
                                   std::to_string(address % bytes) + " bytes off");
    stop_kernel();
  }
  if (access != Access::read && !region->writable) {
    report("read-only", site, describe(here.block, here.thread) + " writes " +
                                  element(*region, address) + ", an input");
    stop_kernel();
  }
  if (recording) record(*region, address, bytes, access, site);
  size_t first = (address - region->begin) / region->element;
  size_t last = (address + bytes - 1 - region->begin) / region->element;
  for (size_t i = first; i <= last; ++i)
    check_cell(*region, region->cells[i], region->begin + i * region->element, access, site);
}

void copy(void* to, const void* from, size_t bytes) {
  const void* site = __builtin_return_address(0);
  touch(from, bytes, Access::read, site);
  touch(to, bytes, Access::write, site);
  memcpy(to, from, bytes);
}

void copy_shared(void* to, const void* from, size_t bytes) {
  const void* site = __builtin_return_address(0);
  must_lie_in(Space::shared, from, Access::read, "ldmatrix", site);
  touch(from, bytes, Access::read, site);
  memcpy(to, from, bytes);
}

void update(void* p, size_t bytes, void (*change)(void*, void*), void* operands) {
  touch(p, bytes, Access::atomic, __builtin_return_address(0));
  change(p, operands);
}

static void set_in_flight(void* to, size_t bytes, bool on) {
  Region* region = region_of((uintptr_t)to);
  for (size_t i = 0; i < bytes; ++i)
    region->cells[((uintptr_t)to + i - region->begin) / region->element].in_flight = on;
}

void copy_later(void* to, const void* from, size_t bytes) {
  const void* site = __builtin_return_address(0);
  must_lie_in(Space::shared, to, Access::write, "cp.async", site);
  if (from) must_lie_in(Space::global, from, Access::read, "cp.async", site);
  if (from) touch(from, bytes, Access::read, site);
  touch(to, bytes, Access::write, site);
  set_in_flight(to, bytes, true);
  copies[here.thread].push_back({(char*)to, (const char*)from, bytes, site, -1});
}

void commit_copies() {
  for (Copy& copy : copies[here.thread]) ++copy.group;
}

void wait_for_copies(int groups_left) {
  bool was = recording;
  recording = false;  // the store was recorded when the copy was issued
  auto& mine = copies[here.thread];
  while (!mine.empty() && mine.front().group >= groups_left) {  // oldest first
    Copy copy = mine.front();
    mine.pop_front();
    set_in_flight(copy.to, copy.bytes, false);
    touch(copy.to, copy.bytes, Access::write, copy.site);
    if (copy.from)
      memcpy(copy.to, copy.from, copy.bytes);
    else
      memset(copy.to, 0, copy.bytes);
  }
  recording = was;
}

void forget_copies() {
  for (auto& mine : copies) mine.clear();
}
}  // namespace checker
