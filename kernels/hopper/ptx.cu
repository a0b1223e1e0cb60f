// begin ptx
// What CUDA C++ has no words for: instructions of sm_90a, a function each. To run without a GPU, tools/cuda-check puts functions
// of the same names in the place of this text.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;  // an f16 or bf16, as bits

// ---------------------------------------------------------------------------------------------- arithmetic

#if HALF
#define KIND "f16"
#else
#define KIND "bf16"
#endif

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 out;
    asm("cvt.rn." KIND "x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

__device__ __forceinline__ float2 unpack(u32 pair) {
#if HALF
    float2 out;
    asm("{.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;}"
        : "=f"(out.x), "=f"(out.y) : "r"(pair));
    return out;
#else
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
#endif
}

__device__ __forceinline__ float exp2_approx(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ float reciprocal(float x) {
    float out;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ float log2_approx(float x) {
    float out;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// ---------------------------------------------------------------------------------------------- barriers

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The calling thread arrives once all its copies so far have landed. Products read tiles after waiting for this, without
// a proxy fence, as CUTLASS's main loops on cp.async do; the fence in every waiting thread cost 5 %.
__device__ __forceinline__ void barrier_arrive_after_copies(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}"
        ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void barrier_arrive_expecting(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Makes the barriers known to the copy engine.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// `count` threads meet at a barrier by number; or count as having come, without waiting.
__device__ __forceinline__ void bar_sync(int barrier, int count) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void bar_arrive(int barrier, int count) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

// ---------------------------------------------------------------------------------------------- copies

__device__ __forceinline__ void copy_4(u32 to, const void* from, bool present) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(present ? 4 : 0) : "memory");
}

// A tensor `[batch, rows, columns, 64]` as the copy engine sees it, in boxes of some rows of one column, in shared memory as rows
// of 128 bytes with 16-byte chunk c of row r at place c ^ (r % 8). Rows past the end are read as zero and not written. CubeCL gives
// a kernel its maps, then the mapped buffers' addresses, then its other buffers.
struct alignas(64) TensorMap {
    u64 words[16];
};

__device__ __forceinline__ void copy_box_in(u32 to, const TensorMap& from, int column, int row, int batch, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];"
        ::"r"(to), "l"(&from), "r"(0), "r"(column), "r"(row), "r"(batch), "r"(barrier) : "memory");
}

__device__ __forceinline__ void copy_box_out(const TensorMap& to, int column, int row, int batch, u32 from) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];"
                 ::"l"(&to), "r"(0), "r"(column), "r"(row), "r"(batch), "r"(from) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// `bytes`, a multiple of 16, that lie together, both ends aligned to 16.
__device__ __forceinline__ void copy_bytes_in(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// The copies out of this thread have read shared memory; or are done.
__device__ __forceinline__ void stores_have_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void finish_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// What this thread has written to shared memory is seen by the copy engine.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ float load_shared(u32 from) {
    float out;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(out) : "r"(from) : "memory");
    return out;
}

__device__ __forceinline__ float2 load_shared_pair(u32 from) {
    float2 out;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(out.x), "=f"(out.y) : "r"(from) : "memory");
    return out;
}

__device__ __forceinline__ void store_shared_pair(u32 to, float2 from) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(from.x), "f"(from.y) : "memory");
}

__device__ __forceinline__ uint2 load_shared_8(u32 from) {
    uint2 out;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(out.x), "=r"(out.y) : "r"(from) : "memory");
    return out;
}

__device__ __forceinline__ uint4 load_shared_16(u32 from) {
    uint4 out;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w) : "r"(from) : "memory");
    return out;
}

__device__ __forceinline__ void store_shared_16(u32 to, uint4 from) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(from.x), "r"(from.y), "r"(from.z), "r"(from.w) : "memory");
}

// Four matrices of 8 x 8, their rows at the addresses of lanes 0 to 7, 8 to 15, ..; into the registers of mma operands.
__device__ __forceinline__ void load_matrices(u32* to, u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}

__device__ __forceinline__ void store_matrices(u32 row, const u32 (&from)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(row), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3]) : "memory");
}

// ---------------------------------------------------------------------------------------------- tensor cores

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from moving uses of registers across this point.
template <int N>
__device__ __forceinline__ void pin(float (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(values[i])::"memory");
}

template <int N>
__device__ __forceinline__ void pin(u32 (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(values[i])::"memory");
}

// d[64, N] += a[64, 16] b[16, N]; with TRANSPOSED, b lies [16 rows, N] in shared memory, else [N rows, 16].
template <int N, int TRANSPOSED>
struct Multiply;

#define LIST_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LIST_40 LIST_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define LIST_48 LIST_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define LIST_56 LIST_48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define LIST_64 LIST_56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define LIST_72 LIST_64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define LIST_80 LIST_72 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define LIST_88 LIST_80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define LIST_96 LIST_88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define LIST_104 LIST_96 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define LIST_112 LIST_104 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define LIST_128 LIST_112 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define OUT_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define OUT_32 OUT_8(0), OUT_8(8), OUT_8(16), OUT_8(24)
#define OUT_40 OUT_32, OUT_8(32)
#define OUT_48 OUT_40, OUT_8(40)
#define OUT_56 OUT_48, OUT_8(48)
#define OUT_64 OUT_56, OUT_8(56)
#define OUT_72 OUT_64, OUT_8(64)
#define OUT_80 OUT_72, OUT_8(72)
#define OUT_88 OUT_80, OUT_8(80)
#define OUT_96 OUT_88, OUT_8(88)
#define OUT_104 OUT_96, OUT_8(96)
#define OUT_112 OUT_104, OUT_8(104)
#define OUT_128 OUT_112, OUT_8(112), OUT_8(120)

#define MULTIPLY(N, R, A0, A1, A2, A3, B, ACCUMULATE, TRANSPOSE)                                                        \
    template <int TRANSPOSED>                                                                                          \
    struct Multiply<N, TRANSPOSED> {                                                                                   \
        static __device__ __forceinline__ void run(float (&d)[R], const u32* a, u32 b, int accumulate) {               \
            asm volatile("{\n.reg .pred p;\n.reg .b64 b;\nsetp.ne.b32 p, %" #ACCUMULATE ", 0;\n"                       \
                         "mov.b64 b, {%" #B ", 0x40000040};\n"                                                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." KIND "." KIND " {" LIST_##R "},"            \
                         " {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, b, p, 1, 1, %" #TRANSPOSE ";\n}"                     \
                         : OUT_##R                                                                                     \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(accumulate), "n"(TRANSPOSED)        \
                         : "memory");                                                                                  \
        }                                                                                                              \
    };

// d[64, N] = a[64, 16] b[16, N], or += with `accumulate`, both in shared memory: descriptors' low halves. With TRANSPOSED, b lies
// [16 rows, N] in blocks of 64 columns.
#define MULTIPLY_SHARED(N, R, A, B, ACCUMULATE, TRANSPOSE)                                                             \
    template <int TRANSPOSED_B>                                                                                        \
    __device__ __forceinline__ void multiply_shared(float (&d)[R], u32 a, u32 b, int accumulate) {                     \
        asm volatile("{\n.reg .pred p;\n.reg .b64 a, b;\nsetp.ne.b32 p, %" #ACCUMULATE ", 0;\n"                       \
                     "mov.b64 a, {%" #A ", 0x40000040};\nmov.b64 b, {%" #B ", 0x40000040};\n"                          \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." KIND "." KIND " {" LIST_##R "},"                \
                     " a, b, p, 1, 1, 0, %" #TRANSPOSE ";\n}"                                                          \
                     : OUT_##R                                                                                         \
                     : "r"(a), "r"(b), "r"(accumulate), "n"(TRANSPOSED_B)                                              \
                     : "memory");                                                                                      \
    }

MULTIPLY_SHARED(192, 96, 96, 97, 98, 99)
MULTIPLY_SHARED(256, 128, 128, 129, 130, 131)

MULTIPLY(64, 32, 32, 33, 34, 35, 36, 37, 38)
MULTIPLY(80, 40, 40, 41, 42, 43, 44, 45, 46)
MULTIPLY(96, 48, 48, 49, 50, 51, 52, 53, 54)
MULTIPLY(112, 56, 56, 57, 58, 59, 60, 61, 62)
MULTIPLY(128, 64, 64, 65, 66, 67, 68, 69, 70)
MULTIPLY(160, 80, 80, 81, 82, 83, 84, 85, 86)

// ---------------------------------------------------------------------------------------------- registers

#define STRINGIFY(x) #x
#define NUMBER(x) STRINGIFY(x)
#define BECOME_PRODUCER() asm volatile("setmaxnreg.dec.sync.aligned.u32 " NUMBER(PRODUCER_REGISTERS) ";")
#define BECOME_CONSUMER() asm volatile("setmaxnreg.inc.sync.aligned.u32 " NUMBER(CONSUMER_REGISTERS) ";")
// end ptx

