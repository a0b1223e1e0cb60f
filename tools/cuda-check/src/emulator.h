// Runs the CUDA C++ that CubeCL generates on the processor: included before a kernel, whose own includes and PTX
// wrappers are cut out. Threads of a block are fibers that switch at barriers and warp operations only, so a run is
// deterministic; odd blocks run their threads in reverse order, which brings missing barriers to light. What is read
// before it is written is NaN: shared memory starts so, and so does the target of an asynchronous copy until a barrier
// completes it.
//
// Not emulated: WMMA fragments, clusters, and, outside `hopper.h`, TMA and wgmma. Rounding is that of the processor, so
// approximate functions (`__expf`, `__fdividef`) are more exact than on a GPU, and tensor-core sums round after every
// addition.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
#define __align__(n) alignas(n)

struct uint3 { unsigned x, y, z; };
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---- half-precision types: a value of 16 bits that computes in f32 and rounds to nearest even

struct __half {
  _Float16 value;
  __half() = default;
  template <class T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0> __half(T x) : value((_Float16)(float)x) {}
  operator float() const { return (float)value; }
};

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  template <class T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0> __nv_bfloat16(T x) {
    float f = (float)x;
    uint32_t b;
    memcpy(&b, &f, 4);
    bits = f != f ? 0x7fff : (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  }
  operator float() const {
    uint32_t b = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &b, 4);
    return f;
  }
};

template <class H> struct alignas(4) emu_pair { H x, y; };
#define EMU_PAIR_OPERATOR(op)                                                                  \
  template <class H> emu_pair<H> operator op(emu_pair<H> a, emu_pair<H> b) {                   \
    return {H((float)a.x op (float)b.x), H((float)a.y op (float)b.y)};                         \
  }                                                                                            \
  template <class H> emu_pair<H>& operator op##=(emu_pair<H>& a, emu_pair<H> b) { return a = a op b; }
EMU_PAIR_OPERATOR(+) EMU_PAIR_OPERATOR(-) EMU_PAIR_OPERATOR(*) EMU_PAIR_OPERATOR(/)
template <class H> emu_pair<H> operator-(emu_pair<H> a) { return {H(-(float)a.x), H(-(float)a.y)}; }
typedef emu_pair<__half> __half2;
typedef emu_pair<__nv_bfloat16> __nv_bfloat162;

template <class H> constexpr bool emu_is_half = std::is_same_v<H, __half> || std::is_same_v<H, __nv_bfloat16>;
#define EMU_HALF_UNARY(name, f)                                                                                    \
  template <class H, std::enable_if_t<emu_is_half<H>, int> = 0> H h##name(H a) { return H(f((float)a)); }          \
  template <class H> emu_pair<H> h2##name(emu_pair<H> a) { return {H(f((float)a.x)), H(f((float)a.y))}; }
EMU_HALF_UNARY(exp, expf) EMU_HALF_UNARY(log, logf) EMU_HALF_UNARY(sqrt, sqrtf) EMU_HALF_UNARY(rsqrt, 1.0f / sqrtf)
EMU_HALF_UNARY(sin, sinf) EMU_HALF_UNARY(cos, cosf) EMU_HALF_UNARY(ceil, ceilf) EMU_HALF_UNARY(floor, floorf)
EMU_HALF_UNARY(trunc, truncf) EMU_HALF_UNARY(rint, rintf)
#define EMU_HALF_BINARY(name, f)                                                                                   \
  template <class H> H name(H a, H b) { return H(f((float)a, (float)b)); }                                         \
  template <class H> emu_pair<H> name##2(emu_pair<H> a, emu_pair<H> b) { return {name(a.x, b.x), name(a.y, b.y)}; }
EMU_HALF_BINARY(__hmax, fmaxf) EMU_HALF_BINARY(__hmin, fminf)
template <class H> H __habs(H a) { return H(fabsf((float)a)); }
template <class H> H __hfma(H a, H b, H c) { return H(fmaf((float)a, (float)b, (float)c)); }
template <class H> bool __hisnan(H a) { return isnan((float)a); }
template <class H> bool __hisinf(H a) { return isinf((float)a); }

// ---- arithmetic

template <class A, class B> auto max(A a, B b) {
  typedef std::common_type_t<A, B> T;
  if constexpr (std::is_floating_point_v<T>) return (T)fmax(a, b);
  else return (T)a > (T)b ? (T)a : (T)b;
}
template <class A, class B> auto min(A a, B b) {
  typedef std::common_type_t<A, B> T;
  if constexpr (std::is_floating_point_v<T>) return (T)fmin(a, b);
  else return (T)a < (T)b ? (T)a : (T)b;
}
// Macros: the C library declares some of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanhf(x) tanhf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
static inline float rsqrt(float a) { return 1.0f / sqrtf(a); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline float rhypotf(float a, float b) { return 1.0f / hypotf(a, b); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline unsigned __float_as_uint(float a) { unsigned b; memcpy(&b, &a, 4); return b; }
static inline float __uint_as_float(unsigned a) { float b; memcpy(&b, &a, 4); return b; }

// Fibers switch elsewhere only, so plain operations are atomic.
template <class T, class F> static T emu_atomic(T* at, F f) { T old = *at; *at = (T)f(old); return old; }
#define EMU_ATOMIC(name, expression) \
  template <class T> T name(T* at, std::type_identity_t<T> b) { return emu_atomic(at, [&](T a) { return expression; }); }
EMU_ATOMIC(atomicAdd, a + b) EMU_ATOMIC(atomicSub, a - b) EMU_ATOMIC(atomicMax, max(a, b))
EMU_ATOMIC(atomicMin, min(a, b)) EMU_ATOMIC(atomicAnd, a & b) EMU_ATOMIC(atomicOr, a | b)
EMU_ATOMIC(atomicXor, a ^ b) EMU_ATOMIC(atomicExch, b)
template <class T> T atomicCAS(T* at, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return emu_atomic(at, [&](T a) { return a == compare ? value : a; });
}
static inline void __threadfence() {}
static inline unsigned __activemask() { return ~0u; }

// ---- fibers

static const unsigned EMU_THREADS = 1024;
static const size_t EMU_STACK = 256 << 10, EMU_GUARD = 256;

struct emu_copy { const void* barrier; void* target; const void* source; size_t size, valid; };
struct emu_thread {
  ucontext_t start;
  jmp_buf resume;
  char* stack = nullptr;
  bool done = true;
  unsigned step = 0;                   // counts warp operations: their slots alternate, so one barrier is enough
  alignas(16) unsigned char slot[2][64];
  const void* row[2];
  std::vector<emu_copy> copies;        // issued, not yet committed to a barrier
};
static emu_thread emu_threads[EMU_THREADS];
static std::vector<emu_copy> emu_committed;
static unsigned emu_current, emu_count;
static unsigned long emu_progress;     // grows whenever a thread can go on or ends: if not, the block hangs
static jmp_buf emu_scheduler;
static ucontext_t emu_first;
static void (*emu_body)(void**);
static void** emu_arguments;
static unsigned char* dynamic_shared_mem;
static const char* emu_fault;          // what a GPU would not take

static void emu_yield() {
  if (!_setjmp(emu_threads[emu_current].resume)) _longjmp(emu_scheduler, 1);
}
static void emu_fiber() {
  for (;;) {
    emu_body(emu_arguments);
    emu_threads[emu_current].done = true;
    emu_progress++;
    emu_yield();
  }
}

struct emu_barrier { unsigned arrived, generation; };
static emu_barrier emu_block, emu_warps[EMU_THREADS / 32];
static void emu_arrive(emu_barrier& barrier, unsigned size) {
  if (++barrier.arrived < size) return;
  barrier.arrived = 0;
  barrier.generation++;
  emu_progress++;
}
static void emu_meet(emu_barrier& barrier, unsigned size) {
  unsigned generation = barrier.generation;
  emu_arrive(barrier, size);
  while (barrier.generation == generation) emu_yield();
}
static unsigned emu_warp_start() { return emu_current & ~31u; }
static void emu_meet_warp() {
  unsigned size = emu_count - emu_warp_start();
  emu_meet(emu_warps[emu_current / 32], size < 32 ? size : 32);
}
static void __syncthreads() { emu_meet(emu_block, emu_count); }
static void __syncwarp(unsigned = ~0u) { emu_meet_warp(); }

// ---- warp operations: each thread leaves a value in its slot, all meet, each reads the others'

template <class T> static unsigned emu_publish(const T& value) {
  static_assert(sizeof(T) <= 64);
  emu_thread& self = emu_threads[emu_current];
  unsigned parity = self.step++ & 1;
  memcpy(self.slot[parity], &value, sizeof(T));
  emu_meet_warp();
  return parity;
}
template <class T> static T emu_read(unsigned lane, unsigned parity) {
  T value;
  memcpy(&value, emu_threads[emu_warp_start() + lane].slot[parity], sizeof(T));
  return value;
}
static unsigned emu_lane() { return emu_current & 31; }
template <class T> static T emu_shuffle(T value, unsigned lane) { return emu_read<T>(lane & 31, emu_publish(value)); }
template <class T> static T __shfl_sync(unsigned, T value, unsigned lane) { return emu_shuffle(value, lane); }
template <class T> static T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return emu_shuffle(value, emu_lane() ^ mask);
}
template <class T> static T __shfl_up_sync(unsigned, T value, unsigned delta) {
  return emu_shuffle(value, emu_lane() < delta ? emu_lane() : emu_lane() - delta);
}
template <class T> static T __shfl_down_sync(unsigned, T value, unsigned delta) {
  return emu_shuffle(value, emu_lane() + delta > 31 ? emu_lane() : emu_lane() + delta);
}
static unsigned __ballot_sync(unsigned, bool value) {
  unsigned parity = emu_publish(value), result = 0;
  for (unsigned lane = 0; lane < 32; lane++) result |= (unsigned)emu_read<bool>(lane, parity) << lane;
  return result;
}
static bool __all_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) == ~0u; }
static bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }

// ---- tensor cores: PTX ISA 9.0, sections "ldmatrix" and "Matrix Fragments for mma.m16n8k16"

static void emu_ldmatrix(uint32_t** registers, unsigned matrices, const void* row, bool transposed) {
  unsigned parity = emu_publish(row), lane = emu_lane();
  for (unsigned i = 0; i < matrices; i++) {
    uint16_t pair[2];
    for (unsigned k = 0; k < 2; k++) {
      unsigned r = lane / 4, c = lane % 4 * 2 + k;
      if (transposed) std::swap(r, c);
      pair[k] = emu_read<const uint16_t*>(8 * i + r, parity)[c];
    }
    *registers[i] = pair[0] | (uint32_t)pair[1] << 16;
  }
}
#define EMU_LDMATRIX(E, suffix, transposed)                                                                      \
  static void __ldmatrix_m8n8_##E##_1x##suffix(uint32_t& a, const void* row) {                                   \
    uint32_t* r[] = {&a}; emu_ldmatrix(r, 1, row, transposed);                                                   \
  }                                                                                                              \
  static void __ldmatrix_m8n8_##E##_2x##suffix(uint32_t& a, uint32_t& b, const void* row) {                      \
    uint32_t* r[] = {&a, &b}; emu_ldmatrix(r, 2, row, transposed);                                               \
  }                                                                                                              \
  static void __ldmatrix_m8n8_##E##_4x##suffix(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, const void* row) { \
    uint32_t* r[] = {&a, &b, &c, &d}; emu_ldmatrix(r, 4, row, transposed);                                       \
  }
EMU_LDMATRIX(__half, , false) EMU_LDMATRIX(__half, _trans, true)
EMU_LDMATRIX(__nv_bfloat16, , false) EMU_LDMATRIX(__nv_bfloat16, _trans, true)

struct emu_operands { float a[8], b[4]; }; // of one lane, in the order of its registers
template <class E> static void emu_unpack(float* to, uint32_t reg) {
  E pair[2];
  memcpy(pair, &reg, 4);
  to[0] = (float)pair[0];
  to[1] = (float)pair[1];
}
template <class E>
static void emu_mma(const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], float* (&d)[4]) {
  emu_operands own;
  for (int i = 0; i < 4; i++) emu_unpack<E>(own.a + 2 * i, a[i]);
  for (int i = 0; i < 2; i++) emu_unpack<E>(own.b + 2 * i, b[i]);
  unsigned parity = emu_publish(own), lane = emu_lane();
  const emu_thread* warp = emu_threads + emu_warp_start();
  float sum[4];
  for (unsigned i = 0; i < 4; i++) {
    unsigned upper = i / 2, row = lane / 4, column = lane % 4 * 2 + i % 2;
    sum[i] = c[i];
    for (unsigned k = 0; k < 16; k++) {
      const emu_operands& x = *(const emu_operands*)warp[row * 4 + k % 8 / 2].slot[parity];
      const emu_operands& y = *(const emu_operands*)warp[column * 4 + k % 8 / 2].slot[parity];
      sum[i] += x.a[2 * (upper + 2 * (k / 8)) + k % 2] * y.b[2 * (k / 8) + k % 2];
    }
  }
  for (int i = 0; i < 4; i++) *d[i] = sum[i];
}
#define EMU_MMA(E)                                                                                                \
  static void __mma_m16n8k16_##E##_##E##_float(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,   \
                                               uint32_t b1, float c0, float c1, float c2, float c3, float& d0,    \
                                               float& d1, float& d2, float& d3) {                                 \
    float* d[4] = {&d0, &d1, &d2, &d3};                                                                           \
    emu_mma<E>({a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}, d);                                                  \
  }
EMU_MMA(__half) EMU_MMA(__nv_bfloat16)

// ---- barriers and asynchronous copies

namespace cuda {
enum thread_scope { thread_scope_thread, thread_scope_block };
template <thread_scope> struct barrier { // 8 bytes, as in shared memory
  uint16_t expected, arrived;
  uint32_t phase;
  typedef uint32_t arrival_token;
  arrival_token arrive() {
    uint32_t token = phase;
    if (++arrived == expected) complete();
    return token;
  }
  void wait(arrival_token token) { while (phase == token) emu_yield(); }
  void wait_parity(bool parity) { while ((phase & 1) == parity) emu_yield(); }
  void arrive_and_wait() { wait(arrive()); }
  void complete() {
    size_t kept = 0;
    for (const emu_copy& copy : emu_committed) {
      if (copy.barrier != this) {
        emu_committed[kept++] = copy;
        continue;
      }
      memset(copy.target, 0, copy.size);
      memcpy(copy.target, copy.source, copy.valid);
    }
    emu_committed.resize(kept);
    arrived = 0;
    phase++;
    emu_progress++;
  }
};
template <thread_scope S> static void init(barrier<S>* at, unsigned expected) { *at = {(uint16_t)expected, 0, 0}; }
} // namespace cuda
template <size_t SIZE> static void __cp_async_shared_global(const void* source, void* target, int valid = SIZE) {
  memset(target, 0xff, SIZE);
  emu_threads[emu_current].copies.push_back({nullptr, target, source, SIZE, (size_t)valid});
}
template <class B> static void __cp_async_arrive(B& barrier) {
  for (emu_copy copy : emu_threads[emu_current].copies) {
    copy.barrier = &barrier;
    emu_committed.push_back(copy);
  }
  emu_threads[emu_current].copies.clear();
}
namespace cooperative_groups {
struct thread_block {};
static thread_block this_thread_block() { return {}; }
template <class T> static void sync(T) { __syncthreads(); }
} // namespace cooperative_groups

// ---- a launch

static void emu_select(unsigned thread) {
  emu_current = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
}
static void emu_resume(unsigned thread) {
  emu_thread& t = emu_threads[thread];
  emu_select(thread);
  if (_setjmp(emu_scheduler)) return;
  if (t.stack) _longjmp(t.resume, 1);
  t.stack = (char*)malloc(EMU_STACK);
  getcontext(&t.start);
  t.start.uc_stack.ss_sp = t.stack;
  t.start.uc_stack.ss_size = EMU_STACK;
  t.start.uc_link = &emu_first;
  makecontext(&t.start, emu_fiber, 0);
  setcontext(&t.start);
}
static bool emu_run_fibers(bool reversed) {
  for (unsigned t = 0; t < emu_count; t++) {
    emu_threads[t].done = false;
    emu_threads[t].copies.clear();
  }
  emu_committed.clear();
  emu_block = {};
  for (emu_barrier& warp : emu_warps) warp = {};
  for (;;) {
    bool live = false;
    unsigned long before = emu_progress;
    for (unsigned i = 0; i < emu_count; i++) {
      unsigned t = reversed ? emu_count - 1 - i : i;
      if (emu_threads[t].done) continue;
      live = true;
      emu_resume(t);
    }
    if (!live) return true;
    if (before == emu_progress) return false;
  }
}
template <class... P, size_t... I>
static void emu_call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<P>*)arguments[I]...);
}
template <class... P> static void emu_call(void (*kernel)(P...), void** arguments) {
  emu_call(kernel, arguments, std::index_sequence_for<P...>());
}
template <class... P> constexpr size_t emu_arity(void (*)(P...)) { return sizeof...(P); }

// Returns null, or what went wrong. `arguments` points to each argument, as for cuLaunchKernel.
static const char* emu_launch(void (*body)(void**), bool switches, void** arguments, const unsigned* grid,
                              const unsigned* block, size_t shared) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  emu_count = block[0] * block[1] * block[2];
  if (emu_count == 0 || emu_count > EMU_THREADS) return "a block has 1 to 1024 threads";
  emu_body = body;
  emu_arguments = arguments;
  unsigned char* memory = (unsigned char*)aligned_alloc(1024, (shared + EMU_GUARD + 1023) / 1024 * 1024);
  dynamic_shared_mem = memory;
  const char* problem = nullptr;
  emu_fault = nullptr;
  size_t index = 0;
  for (unsigned z = 0; z < grid[2] && !problem; z++)
    for (unsigned y = 0; y < grid[1] && !problem; y++)
      for (unsigned x = 0; x < grid[0] && !problem; x++) {
        blockIdx = {x, y, z};
        memset(memory, 0xff, shared + EMU_GUARD);
        bool reversed = index++ % 2 == 1;
        if (!switches)
          for (unsigned t = 0; t < emu_count; t++) { emu_select(t); body(arguments); }
        else if (!emu_run_fibers(reversed)) {
          for (emu_thread& t : emu_threads) { free(t.stack); t.stack = nullptr; }
          problem = "hangs: threads wait for others that ended or that wait elsewhere";
        }
        for (size_t i = 0; i < EMU_GUARD; i++)
          if (memory[shared + i] != 0xff) problem = "writes past its shared memory";
        if (emu_fault) problem = emu_fault;
      }
  free(memory);
  return problem;
}
