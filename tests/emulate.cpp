// Runs the kernels of a unit on the processor, as a card would: the threads of a block take turns,
// each until it meets a barrier or ends, in an order that differs from round to round, and block
// follows block. The unit is named by KETY_UNIT.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda.hpp"

GridIndex threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kStack = 256 << 10;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done;
};

std::vector<Fiber> fibers;
std::vector<unsigned char> memory;
ucontext_t scheduler;
void (*kernel_now)(void*);
void* record_now;

void run_thread() {
  kernel_now(record_now);
  fibers[threadIdx.x].done = true;
  swapcontext(&fibers[threadIdx.x].context, &scheduler);
}

}  // namespace

void barrier() { swapcontext(&fibers[threadIdx.x].context, &scheduler); }
unsigned char* block_memory() { return memory.data(); }

#include KETY_UNIT

void* kety_allocate(long) { std::abort(); }  // a kernel allocates nothing
void kety_release(void*) { std::abort(); }

// False where some threads of a block meet a barrier that others do not.
extern "C" bool kety_launch(void (*kernel)(void*), int blocks, int threads, long shared,
                            void* record) {
  static std::mt19937 random(1);
  kernel_now = kernel;
  record_now = record;
  memory.assign(shared + 16, 0xff);
  blockDim.x = threads;
  gridDim.x = blocks;
  if (static_cast<int>(fibers.size()) < threads) fibers = std::vector<Fiber>(threads);
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  for (int b = 0; b < blocks; ++b) {
    blockIdx.x = b;
    for (int t = 0; t < threads; ++t) {
      Fiber& f = fibers[t];
      f.done = false;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.get();
      f.context.uc_stack.ss_size = kStack;
      f.context.uc_link = nullptr;
      makecontext(&f.context, run_thread, 0);
    }
    for (int done = 0; done < threads;) {
      std::shuffle(order.begin(), order.end(), random);
      for (int t : order) {
        threadIdx.x = t;
        swapcontext(&scheduler, &fibers[t].context);
        done += fibers[t].done;
      }
      if (done > 0 && done < threads) return false;
    }
  }
  return true;
}
