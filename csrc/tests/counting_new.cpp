/// operator new that counts. In a file of its own: inlined next to its uses, GCC 12 warns of a mismatched delete.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

std::atomic<std::int64_t> allocations{0}, bytes{0};

void* operator new(std::size_t size) {
  ++allocations;
  bytes += static_cast<std::int64_t>(size);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
