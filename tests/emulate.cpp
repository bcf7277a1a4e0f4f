// Runs the kernels of a unit on the processor, as a card would: the threads of a block side by
// side, with barriers between them, and block after block. The unit is named by KETY_UNIT.
#include <barrier>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cuda.hpp"

thread_local GridIndex threadIdx, blockIdx;
GridIndex blockDim, gridDim;

namespace {
std::barrier<>* gate;
std::vector<unsigned char> memory;
}  // namespace

void barrier() { gate->arrive_and_wait(); }
unsigned char* block_memory() { return memory.data(); }

#include KETY_UNIT

void* kety_allocate(long) { std::abort(); }  // a kernel allocates nothing
void kety_release(void*) { std::abort(); }

extern "C" void kety_launch(void (*kernel)(void*), int blocks, int threads, long shared,
                            void* record) {
  std::barrier<> own(threads);
  gate = &own;
  memory.assign(shared + 16, 0xff);
  blockDim.x = threads;
  gridDim.x = blocks;
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t)
    team.emplace_back([=, &own] {
      for (int b = 0; b < blocks; ++b) {
        threadIdx.x = t;
        blockIdx.x = b;
        kernel(record);
        own.arrive_and_wait();  // the next block has the same shared memory
      }
    });
  for (auto& t : team) t.join();
}
