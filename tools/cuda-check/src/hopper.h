// The functions of kernels/hopper/ptx.cu, for the processor: takes the place of that text. What a GPU does meanwhile is
// done as late as it may be, so that waits that are missing show: the target of a copy is NaN until somebody has waited,
// accumulators are until their products were waited for, and a copy out reads when its thread waits for it.
#pragma once
#include <algorithm>
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
struct float2 { float x, y; };
static float2 make_float2(float x, float y) { return {x, y}; }
struct float4 { float x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct uint2 { u32 x, y; };
static uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
struct uint4 { u32 x, y, z, w; };
static uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

#if HALF
typedef __half emu_element;
#else
typedef __nv_bfloat16 emu_element;
#endif
static u32 pack(float low, float high) {
  emu_element pair[2] = {emu_element(low), emu_element(high)};
  u32 out;
  memcpy(&out, pair, 4);
  return out;
}
static float2 unpack(u32 pair) {
  float values[2];
  emu_unpack<emu_element>(values, pair);
  return {values[0], values[1]};
}
static float exp2_approx(float x) { return exp2f(x); }
static float log2_approx(float x) { return log2f(x); }
static float reciprocal(float x) { return 1.0f / x; }

// ---- shared memory, by address: the 128-byte swizzle exchanges 16-byte chunks within eight rows of 128 bytes

static u32 shared_address(const void* pointer) { return (u32)((const unsigned char*)pointer - dynamic_shared_mem); }
template <class T> static T& emu_at(u32 address) { return *(T*)(dynamic_shared_mem + address); }
static u32 emu_swizzled(u32 address) { return address ^ (address >> 7 & 7) << 4; }
static float load_shared(u32 from) { return emu_at<float>(from); }
static float2 load_shared_pair(u32 from) { return emu_at<float2>(from); }
static void store_shared_pair(u32 to, float2 from) { emu_at<float2>(to) = from; }
static uint2 load_shared_8(u32 from) { return emu_at<uint2>(from); }
static uint4 load_shared_16(u32 from) { return emu_at<uint4>(from); }
static void store_shared_16(u32 to, uint4 from) { emu_at<uint4>(to) = from; }

static void load_matrices(u32* to, u32 row) {
  u32* registers[] = {to, to + 1, to + 2, to + 3};
  emu_ldmatrix(registers, 4, dynamic_shared_mem + row, false);
}
static void store_matrices(u32 row, const u32 (&from)[4]) {
  unsigned parity = emu_publish(row), lane = emu_lane();
  for (unsigned i = 0; i < 4; i++) emu_at<u32>(emu_read<u32>(8 * i + lane / 4, parity) + lane % 4 * 4) = from[i];
  emu_meet_warp();
}

// ---- barriers in shared memory, 8 bytes: a phase ends when all have arrived and all bytes that were announced are there

struct emu_mbarrier { uint16_t expected, arrived; int32_t bytes : 31; uint32_t phase : 1; };
static_assert(sizeof(emu_mbarrier) == 8);
static void emu_check(emu_mbarrier& barrier) {
  if (barrier.arrived != barrier.expected || barrier.bytes != 0) return;
  barrier.arrived = 0;
  barrier.phase ^= 1;
  emu_progress++;
}
static void barrier_init(u32 barrier, u32 count) { emu_at<emu_mbarrier>(barrier) = {(uint16_t)count, 0, 0, 0}; }
static void barrier_arrive(u32 barrier) {
  emu_at<emu_mbarrier>(barrier).arrived++;
  emu_check(emu_at<emu_mbarrier>(barrier));
}
static void barrier_arrive_expecting(u32 barrier, u32 bytes) {
  emu_at<emu_mbarrier>(barrier).bytes += bytes;
  barrier_arrive(barrier);
}
static void barrier_arrive_after_copies(u32 barrier) { barrier_arrive(barrier); }
static bool emu_arrive_copies(u32 barrier);
static void barrier_wait(u32 barrier, u32 parity) {
  while (emu_at<emu_mbarrier>(barrier).phase == parity)
    if (!emu_arrive_copies(barrier)) emu_yield();
}
static void fence_async() {}

static emu_barrier emu_named[16];
static void emu_forget_products();
static void emu_forget_copies();
// Once a block, before its threads meet: what the last block left is over.
static void fence_barrier_init() {
  memset(emu_named, 0, sizeof emu_named);
  emu_forget_products();
  emu_forget_copies();
}
static void bar_arrive(int barrier, int count) { emu_arrive(emu_named[barrier], count); }
static void bar_sync(int barrier, int count) { emu_meet(emu_named[barrier], count); }

// ---- copies

static void copy_4(u32 to, const void* from, bool present) {
  if (present) memcpy(&emu_at<u32>(to), from, 4);
  else emu_at<u32>(to) = 0;
}

// As `TensorMap` in tools/cuda-check/src/emulator.rs.
struct alignas(64) TensorMap {
  unsigned char* start;
  u64 lengths[4];  // elements, innermost first
  u64 strides[4];  // bytes
  u64 box[4];      // elements
  u64 unused[3];
};
static_assert(sizeof(TensorMap) == 128);
template <class F> static void emu_box(const TensorMap& map, const int (&first)[4], u32 shared, F copy) {
  const u64 row = map.box[0] * 2;
  for (u64 i = 0; i < map.box[1] * map.box[2] * map.box[3]; i++) {
    u64 at[4] = {0, i % map.box[1], i / map.box[1] % map.box[2], i / (map.box[1] * map.box[2])};
    unsigned char* global = map.start;
    bool inside = true;
    for (int k = 0; k < 4; k++) {
      u64 place = first[k] + at[k];
      inside = inside && place < map.lengths[k];
      global += place * map.strides[k];
    }
    for (u64 byte = 0; byte < row; byte += 16) copy(emu_swizzled(shared + i * row + byte), inside ? global + byte : nullptr);
  }
}
struct emu_box_copy { TensorMap map; int first[4]; u32 shared, barrier; };
static std::vector<emu_box_copy> emu_boxes_in, emu_boxes_out[EMU_THREADS];
static void copy_box_in(u32 to, const TensorMap& from, int column, int row, int batch, u32 barrier) {
  emu_boxes_in.push_back({from, {0, column, row, batch}, to, barrier});
  emu_progress++;  // who waits for it can go on
  emu_box(from, {0, 0, 0, 0}, to, [](u32 shared, unsigned char*) { memset(dynamic_shared_mem + shared, 0xff, 16); });
}
struct emu_bytes_copy { u32 to; const void* from; u32 bytes, barrier; };
static std::vector<emu_bytes_copy> emu_bytes_in;
static void copy_bytes_in(u32 to, const void* from, u32 bytes, u32 barrier) {
  if ((to | (u64)from | bytes) & 15) emu_fault = "copies what does not start and end at multiples of 16 bytes";
  emu_bytes_in.push_back({to, from, bytes, barrier});
  emu_progress++;
  memset(dynamic_shared_mem + to, 0xff, bytes);
}
static void emu_forget_copies() {
  if (!emu_boxes_in.empty() || !emu_bytes_in.empty()) emu_fault = "ended before all its copies had come";
  emu_boxes_in.clear();
  emu_bytes_in.clear();
}
// Carries out those copies of `pending` that a barrier waits for; whether there were any.
template <class T, class F> static bool emu_carry_out(std::vector<T>& pending, u32 barrier, F carry_out) {
  size_t kept = 0, before = pending.size();
  for (const T& copy : pending) {
    if (copy.barrier == barrier) carry_out(copy);
    else pending[kept++] = copy;
  }
  pending.resize(kept);
  if (kept < before) emu_check(emu_at<emu_mbarrier>(barrier));
  return kept < before;
}
static bool emu_arrive_copies(u32 barrier) {
  bool boxes = emu_carry_out(emu_boxes_in, barrier, [&](const emu_box_copy& copy) {
    emu_box(copy.map, copy.first, copy.shared, [&](u32 shared, unsigned char* global) {
      if (global) memcpy(dynamic_shared_mem + shared, global, 16);
      else memset(dynamic_shared_mem + shared, 0, 16);
      emu_at<emu_mbarrier>(barrier).bytes -= 16;
    });
  });
  bool bytes = emu_carry_out(emu_bytes_in, barrier, [&](const emu_bytes_copy& copy) {
    memcpy(dynamic_shared_mem + copy.to, copy.from, copy.bytes);
    emu_at<emu_mbarrier>(barrier).bytes -= copy.bytes;
  });
  return boxes || bytes;
}
static void copy_box_out(const TensorMap& to, int column, int row, int batch, u32 from) {
  emu_boxes_out[emu_current].push_back({to, {0, column, row, batch}, from, 0});
}
static void stores_have_read() {
  for (const emu_box_copy& copy : emu_boxes_out[emu_current]) {
    emu_box(copy.map, copy.first, copy.shared, [&](u32 shared, unsigned char* global) {
      if (global) memcpy(global, dynamic_shared_mem + shared, 16);
    });
  }
  emu_boxes_out[emu_current].clear();
}
static void finish_stores() { stores_have_read(); }

// ---- products: PTX ISA 9.0, sections "Register Fragments for wgmma" and "Shared Memory Matrix Layout"

// Of each thread: accumulators in flight, with the group of their last product, and the number of groups.
struct emu_sums { float* target; unsigned group; std::vector<float> values; };
struct emu_products { std::vector<emu_sums> pending; unsigned groups = 0; };
static emu_products emu_of_thread[EMU_THREADS];
static void emu_forget_products() {
  for (emu_products& products : emu_of_thread) products = {};
}
static void wgmma_fence() {}
static void wgmma_commit() { emu_of_thread[emu_current].groups++; }
template <int PENDING> static void wgmma_wait() {
  emu_meet_warp();  // products are whole warps': none has ended before all threads have asked for it
  emu_products& products = emu_of_thread[emu_current];
  size_t kept = 0;
  for (emu_sums& sums : products.pending) {
    if (sums.group + PENDING < products.groups) memcpy(sums.target, sums.values.data(), sums.values.size() * 4);
    else std::swap(products.pending[kept++], sums);
  }
  products.pending.resize(kept);
}
// The accumulators at `target` in flight, which are NaN meanwhile.
static float* emu_in_flight(float* target, size_t count, bool accumulate) {
  emu_products& products = emu_of_thread[emu_current];
  emu_sums* found = nullptr;
  for (emu_sums& sums : products.pending)
    if (sums.target == target) found = &sums;
  if (!found) {
    products.pending.push_back({target, 0, std::vector<float>(target, target + count)});
    found = &products.pending.back();
    memset(target, 0xff, count * 4);
  }
  found->group = products.groups;
  if (!accumulate) std::fill(found->values.begin(), found->values.end(), 0.0f);
  return found->values.data();
}
template <class T, size_t N> static void pin(T (&)[N]) {}

// Of an operand in shared memory, in rows of 128 bytes.
static float emu_operand(u32 start, u32 row, u32 column) {
  return emu_at<emu_element>(emu_swizzled(start + row / 8 * 1024 + row % 8 * 128 + 2 * column));
}

// A warp's 16 rows of d[64, N] += a[64, 16] b[16, N].
template <int N, int TRANSPOSED> struct Multiply {
  static void run(float (&d)[N / 2], const u32* a, u32 b, int accumulate) {
    struct { u32 a[4]; } own;
    memcpy(own.a, a, 16);
    unsigned parity = emu_publish(own), lane = emu_lane();
    float left[2][16];
    for (unsigned i = 0; i < 4; i++) {
      auto quad = emu_read<decltype(own)>(lane / 4 * 4 + i, parity);
      for (unsigned j = 0; j < 4; j++) emu_unpack<emu_element>(&left[j % 2][2 * i + 8 * (j / 2)], quad.a[j]);
    }
    float* out = emu_in_flight(d, N / 2, accumulate);
    u32 start = (b & 0x3fff) << 4;
    for (unsigned i = 0; i < N / 4; i++) {
      unsigned column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      float sums[2];
      for (unsigned half = 0; half < 2; half++) sums[half] = out[i / 2 * 4 + 2 * half + i % 2];
      for (unsigned k = 0; k < 16; k++) {
        float right = TRANSPOSED ? emu_operand(start, k, column) : emu_operand(start, column, k);
        for (unsigned half = 0; half < 2; half++) sums[half] += left[half][k] * right;
      }
      for (unsigned half = 0; half < 2; half++) out[i / 2 * 4 + 2 * half + i % 2] = sums[half];
    }
  }
};

// The same of d[64, N], with a [64 rows, 16] in shared memory; b in blocks of 64 columns where it is transposed.
template <int TRANSPOSED_B, size_t R> static void multiply_shared(float (&d)[R], u32 a, u32 b, int accumulate) {
  unsigned lane = emu_lane(), warp = emu_current % 128 / 32;
  u32 left = (a & 0x3fff) << 4, right = (b & 0x3fff) << 4, block = (b >> 16 & 0x3fff) << 4;
  float* out = emu_in_flight(d, R, accumulate);
  for (unsigned i = 0; i < R; i++) {
    unsigned column = i / 4 * 8 + lane % 4 * 2 + i % 2, row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
    for (unsigned k = 0; k < 16; k++)
      out[i] += emu_operand(left, row, k) *
                (TRANSPOSED_B ? emu_operand(right + column / 64 * block, k, column % 64) : emu_operand(right, column, k));
  }
}

#define BECOME_PRODUCER()
#define BECOME_CONSUMER()
