//! FlashAttention-2 with tensor cores: scores never in memory, forward and backward.
//!
//! 64 rows per cube (4 planes of 16), 64-row tiles of keys and values double-buffered by asynchronous copies, softmax in
//! f32 registers, the logarithm of the softmax's sum kept for the backward pass, which recomputes the scores: one kernel
//! for `dk` and `dv`, one for `dq`, no atomics, so results repeat to the bit.
//!
//! Arithmetic: `4 s^2 d` operations a head forward, 2.5 times that backward plus one recomputed product. Bytes: q, k, v, o
//! once, k and v again for each block of 64 rows (from cache).
//!
//! Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.

#![allow(
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::collapsible_if,
    reason = "kernels are written in CubeCL's subset of Rust, where these forms are the ones it expands"
)]

use crate::{FloatKind, Handle};
use cubecl::features::MmaConfig;
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    ir::FastMath,
    prelude::{
        barrier::{Barrier, copy_async_checked},
        *,
    },
};
use half::{bf16, f16};

type N8 = Const<8>;
type N2 = Const<2>;
/// Registers of a lane: a list of small vectors.
type Regs<T, N> = Sequence<Array<Vector<T, N>>>;

/// The head width these kernels are made for.
pub const HEAD_DIM: usize = 64;

/// Rows per cube.
const ROWS: u32 = 64;
/// Units per cube of the matrix kernels, and of the row sums.
const UNITS: u32 = 128;
const ROW_DOT_UNITS: u32 = 256;
/// Rows of a y tile in the backward kernels: 64 for `dq`; 32 for `dk` and `dv`, whose registers would spill at 64.
const DQ_TILE: u32 = 64;
const DKDV_TILE: u32 = 32;

/// Runs `$body` with `$E` bound to the half-precision type of `$kind`.
macro_rules! half_type {
    ($kind:expr, $E:ident => $body:expr) => {
        match $kind {
            FloatKind::F16 => {
                type $E = f16;
                $body
            }
            FloatKind::Bf16 => {
                type $E = bf16;
                $body
            }
            FloatKind::F32 => unreachable!("`supported` refuses f32"),
        }
    };
}

/// One call: `heads` counts clips times heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlashShape {
    pub heads: usize,
    pub tokens: usize,
    /// Token `i` sees tokens `0..=i` only.
    pub causal: bool,
    /// bf16 or f16.
    pub kind: FloatKind,
}

impl FlashShape {
    fn len(&self) -> usize {
        self.heads * self.tokens * HEAD_DIM
    }

    fn grid(&self) -> CubeCount {
        CubeCount::Static((self.tokens as u32).div_ceil(ROWS), self.heads as u32, 1)
    }

    fn scale(&self) -> f32 {
        1.0 / (HEAD_DIM as f32).sqrt()
    }
}

/// Whether the device has what the kernels use: 16 x 8 x 16 products of this type, asynchronous copies, and a grid as
/// large as the call needs.
pub fn supported<R: Runtime>(client: &ComputeClient<R>, shape: &FlashShape, head_dim: usize) -> bool {
    let operand = match shape.kind {
        FloatKind::F32 => return false,
        FloatKind::F16 => f16::as_type_native_unchecked().storage_type(),
        FloatKind::Bf16 => bf16::as_type_native_unchecked().storage_type(),
    };
    let config = MmaConfig {
        a_type: operand,
        b_type: operand,
        cd_type: f32::as_type_native_unchecked().storage_type(),
        m: 16,
        n: 8,
        k: 16,
    };
    let features = client.features();
    head_dim == HEAD_DIM
        && features.matmul.mma.contains(&config)
        && features.copy_async
        && shape.heads <= 65_535
        && shape.len() <= u32::MAX as usize
}

/// Softmax attention.
///
/// # Shapes
/// - `q`, `k`, `v`: `[heads, tokens, 64]`, contiguous, of `shape.kind`
/// - returns the output like `q`, and the logarithm of each row's softmax sum, `[heads, tokens]`, f32
pub fn forward<R: Runtime>(client: &ComputeClient<R>, shape: &FlashShape, [q, k, v]: [&Handle; 3]) -> (Handle, Handle) {
    let (len, rows) = (shape.len(), shape.heads * shape.tokens);
    let output = client.empty(len * shape.kind.size());
    let lse = client.empty(rows * 4);
    half_type!(shape.kind, E => unsafe {
        // SAFETY: every array has the length given; rows past the end are clamped on load and not stored.
        forward_kernel::launch_unchecked::<E, R>(
            client,
            shape.grid(),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(q.clone(), len),
            ArrayArg::from_raw_parts(k.clone(), len),
            ArrayArg::from_raw_parts(v.clone(), len),
            ArrayArg::from_raw_parts(output.clone(), len),
            ArrayArg::from_raw_parts(lse.clone(), rows),
            shape.tokens as u32,
            shape.scale(),
            shape.causal,
        )
    });
    (output, lse)
}

/// Gradients of q, k and v.
///
/// # Shapes
/// - `q`, `k`, `v`, `output`, `lse` as in [`forward`]; `gradient` like `output`; returns three like `q`
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &FlashShape,
    [q, k, v]: [&Handle; 3],
    output: &Handle,
    lse: &Handle,
    gradient: &Handle,
) -> [Handle; 3] {
    let (len, rows) = (shape.len(), shape.heads * shape.tokens);
    let [dq, dk, dv] = [(); 3].map(|()| client.empty(len * shape.kind.size()));
    let delta = client.empty(rows * 4);
    half_type!(shape.kind, E => unsafe {
        let whole = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), len);
        let per_row = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), rows);
        // SAFETY: as in `forward`; the unused second output of the `dq` call is bound but never touched.
        row_dot_kernel::launch_unchecked::<E, R>(
            client,
            CubeCount::Static((rows as u32).div_ceil(ROW_DOT_UNITS / 32), 1, 1),
            CubeDim::new_1d(ROW_DOT_UNITS),
            whole(output),
            whole(gradient),
            per_row(&delta),
            rows as u32,
        );
        let unit = CubeDim::new_1d(UNITS);
        backward_kernel::launch_unchecked::<E, R>(
            client, shape.grid(), unit, whole(k), whole(v), whole(q), whole(gradient), per_row(lse), per_row(&delta),
            whole(&dk), whole(&dv), shape.tokens as u32, shape.scale(), shape.causal, DKDV_TILE, false,
        );
        backward_kernel::launch_unchecked::<E, R>(
            client, shape.grid(), unit, whole(q), whole(gradient), whole(k), whole(v), per_row(lse), per_row(&delta),
            whole(&dq), whole(&dq), shape.tokens as u32, shape.scale(), shape.causal, DQ_TILE, true,
        );
    });
    [dq, dk, dv]
}

/// A fragments of 16 rows of 64 dims straight from global memory; `row0` is this lane's first row.
#[cube]
fn load_fragments<E: Float, NA: Size>(src: &Array<Vector<E, N2>>, base: u32, row0: u32, s: u32) -> Regs<E, NA> {
    let mut out = Sequence::new();
    #[unroll]
    for t in 0..4u32 {
        let mut r = Array::<Vector<E, NA>>::new(4usize);
        #[unroll]
        for i in 0..4u32 {
            let row = min(row0 + comptime!(8 * (i % 2)), s - 1);
            r[i as usize] = Vector::cast_from(
                src[((base + row) * 32 + UNIT_POS_PLANE % 4 + comptime!(8 * t + 4 * (i / 2))) as usize],
            );
        }
        out.push(r);
    }
    out
}
#[cube]
fn zero_tiles<N: Size>(#[comptime] n: u32) -> Regs<f32, N> {
    let mut acc = Sequence::new();
    #[unroll]
    for _ in 0..n {
        let mut a = Array::<Vector<f32, N>>::new(2usize);
        a[0usize] = Vector::new(0.0f32);
        a[1usize] = Vector::new(0.0f32);
        acc.push(a);
    }
    acc
}
/// Tile j (`rows` rows of 64) into half j % 2 of dst; the 16-byte chunk index is XORed with row % 8 against bank conflicts.
#[cube]
fn copy_tile<E: Float>(
    src: &Array<Vector<E, N8>>,
    dst: &mut SharedMemory<Vector<E, N8>>,
    base: u32,
    j: u32,
    s: u32,
    #[comptime] rows: u32,
    #[comptime] warps: u32,
) {
    #[unroll]
    for i in 0..comptime!(rows / (4 * warps)) {
        let c = UNIT_POS + comptime!(i * 32 * warps);
        let row = j * rows + c / 8;
        let g = ((base + min(row, s - 1)) * 8 + c % 8) as usize;
        let d = (((j % 2) * rows + c / 8) * 8 + ((c % 8) ^ ((c / 8) % 8))) as usize;
        copy_async_checked(&src.slice(g, g + usize::cast_from(row < s)), &mut dst.slice_mut(d, d + 1), 8u32); // zero-fills past s
    }
}
/// `acc[2n]`, `acc[2n + 1] += a B`. Without `cols`, tile rows `16 n..` are B's columns and dims `16 t..` are contracted;
/// with it, tile rows `16 t..` are contracted and B's columns are dims `16 n..` (transposing `ldmatrix`).
#[cube]
fn multiply_tile<E: Float, NA: Size, NB: Size, NC: Size>(
    def: &MmaDefinition<E, E, f32>,
    a: &Array<Vector<E, NA>>,
    tile: &SharedMemory<Vector<E, N8>>,
    acc: &mut Regs<f32, NC>,
    first: u32,
    #[comptime] t: u32,
    #[comptime] nt: u32,
    #[comptime] cols: bool,
) {
    let lane = UNIT_POS_PLANE;
    #[unroll]
    for n in 0..nt {
        let row = if comptime!(cols) {
            comptime!(t * 16) + ((lane / 8) % 2) * 8 + lane % 8
        } else {
            comptime!(n * 16) + (lane / 16) * 8 + lane % 8
        };
        let ch = if comptime!(cols) { comptime!(n * 2) + lane / 16 } else { comptime!(t * 2) + (lane / 8) % 2 };
        let p = ((first + row) * 8 + (ch ^ (row % 8))) as usize;
        let b = def.load_matrix::<_, NB>(&tile.slice(p, p + 1), MatrixIdent::B, 4usize, cols);
        #[unroll]
        for h in 0..2u32 {
            let mut bh = Array::<Vector<E, NB>>::new(2usize);
            bh[0usize] = b[comptime!(2 * h as usize)];
            bh[1usize] = b[comptime!(2 * h as usize + 1)];
            def.execute_inplace(a, &bh, acc.index_mut(comptime!((2 * n + h) as usize)));
        }
    }
}
/// Accumulator tiles 2t, 2t+1 become one A fragment: the two register layouts coincide.
#[cube]
fn pack_fragment<E: Float, NA: Size, NC: Size>(x: &Regs<f32, NC>, #[comptime] t: u32) -> Array<Vector<E, NA>> {
    let mut p = Array::<Vector<E, NA>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        p[i] = Vector::cast_from(x.index(comptime!(2 * t as usize + i / 2))[comptime!(i % 2)]);
    }
    p
}
#[cube]
fn store_rows<E: Float, NC: Size>(
    out: &mut Array<Vector<E, N2>>,
    acc: &Regs<f32, NC>,
    base: u32,
    row0: u32,
    s: u32,
    f0: f32,
    f1: f32,
) {
    #[unroll]
    for n in 0..8u32 {
        let a = acc.index(comptime!(n as usize));
        let c = comptime!(n * 4) + UNIT_POS_PLANE % 4;
        if row0 < s {
            out[((base + row0) * 32 + c) as usize] = Vector::cast_from(a[0usize] * Vector::new(f0));
        }
        if row0 + 8 < s {
            out[((base + row0 + 8) * 32 + c) as usize] = Vector::cast_from(a[1usize] * Vector::new(f1));
        }
    }
}
#[cube]
fn quad_max(x: f32) -> f32 {
    let y = max(x, plane_shuffle_xor(x, 1u32));
    max(y, plane_shuffle_xor(y, 2u32))
}
#[cube]
fn quad_sum(x: f32) -> f32 {
    let y = x + plane_shuffle_xor(x, 1u32);
    y + plane_shuffle_xor(y, 2u32)
}

/// `q`, `k`, `v`, `o`: `[heads, s, 64]`; `lse`: `[heads, s]`, natural logarithm. Grid `(ceil(s / 64), heads)`, 128 units.
#[cube(launch_unchecked, fast_math = FastMath::all())]
fn forward_kernel<E: Float>(
    q: &Array<Vector<E, N2>>,
    k: &Array<Vector<E, N8>>,
    v: &Array<Vector<E, N8>>,
    o: &mut Array<Vector<E, N2>>,
    lse: &mut Array<f32>,
    s: u32,
    scale: f32,
    #[comptime] causal: bool,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let size!(NA) = def.vector_size(MatrixIdent::A);
    let size!(NB) = def.vector_size(MatrixIdent::B);
    let size!(NC) = def.vector_size(MatrixIdent::Accumulator);
    let mut ks = SharedMemory::<Vector<E, N8>>::new_aligned(1024usize, 128usize);
    let mut vs = SharedMemory::<Vector<E, N8>>::new_aligned(1024usize, 128usize);
    let bar = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let lane = UNIT_POS_PLANE;
    let base = CUBE_POS_Y * s;
    let row0 = CUBE_POS_X * 64 + (UNIT_POS / 32) * 16 + lane / 4;
    let qf = load_fragments::<E, NA>(q, base, row0, s);
    let mut acc = zero_tiles::<NC>(8u32);
    let mut m0 = f32::new(-1.0e30);
    let mut m1 = f32::new(-1.0e30);
    let mut l0 = f32::new(0.0);
    let mut l1 = f32::new(0.0);
    let mut tiles = (s + 63) / 64;
    let mut whole = s / 64;
    if causal {
        tiles = CUBE_POS_X + 1;
        whole = tiles - 1;
    }
    copy_tile::<E>(k, &mut ks, base, 0u32, s, 64u32, 4u32);
    copy_tile::<E>(v, &mut vs, base, 0u32, s, 64u32, 4u32);
    bar.commit_copy_async();
    for j in 0..tiles {
        bar.arrive_and_wait();
        if j + 1 < tiles {
            copy_tile::<E>(k, &mut ks, base, j + 1, s, 64u32, 4u32);
            copy_tile::<E>(v, &mut vs, base, j + 1, s, 64u32, 4u32);
            bar.commit_copy_async();
        }
        let mut sc = zero_tiles::<NC>(8u32);
        #[unroll]
        for t in 0..4u32 {
            multiply_tile::<E, NA, NB, NC>(&def, qf.index(t as usize), &ks, &mut sc, (j % 2) * 64, t, 4u32, false);
        }
        if j >= whole {
            // only the last tile pays for masking
            #[unroll]
            for n in 0..8u32 {
                let a = sc.index_mut(n as usize);
                #[unroll]
                for h in 0..2u32 {
                    let mut x = a[h as usize];
                    #[unroll]
                    for e in 0..2u32 {
                        let c = j * 64 + comptime!(n * 8 + e) + (lane % 4) * 2;
                        let mut ok = c < s;
                        if causal {
                            ok = c <= row0 + comptime!(8 * h);
                        }
                        x[e as usize] = select(ok, x[e as usize], f32::new(-1.0e30));
                    }
                    a[h as usize] = x;
                }
            }
        }
        let mut x0 = m0;
        let mut x1 = m1;
        #[unroll]
        for n in 0..8usize {
            let a = sc.index(n);
            x0 = max(x0, max(a[0usize][0usize], a[0usize][1usize]));
            x1 = max(x1, max(a[1usize][0usize], a[1usize][1usize]));
        }
        x0 = quad_max(x0);
        x1 = quad_max(x1);
        let c0 = ((m0 - x0) * scale).exp();
        let c1 = ((m1 - x1) * scale).exp();
        m0 = x0;
        m1 = x1;
        l0 *= c0;
        l1 *= c1;
        #[unroll]
        for n in 0..8usize {
            let a = acc.index_mut(n);
            a[0usize] = a[0usize] * Vector::new(c0);
            a[1usize] = a[1usize] * Vector::new(c1);
            let p = sc.index_mut(n);
            let e0 = (p[0usize] * Vector::new(scale) - Vector::new(m0 * scale)).exp();
            let e1 = (p[1usize] * Vector::new(scale) - Vector::new(m1 * scale)).exp();
            l0 += e0[0usize] + e0[1usize];
            l1 += e1[0usize] + e1[1usize];
            p[0usize] = e0;
            p[1usize] = e1;
        }
        #[unroll]
        for t in 0..4u32 {
            multiply_tile::<E, NA, NB, NC>(
                &def,
                &pack_fragment::<E, NA, NC>(&sc, t),
                &vs,
                &mut acc,
                (j % 2) * 64,
                t,
                4u32,
                true,
            );
        }
    }
    l0 = quad_sum(l0);
    l1 = quad_sum(l1);
    store_rows::<E, NC>(o, &acc, base, row0, s, f32::new(1.0) / l0, f32::new(1.0) / l1);
    if lane % 4 == 0 {
        if row0 < s {
            lse[(base + row0) as usize] = m0 * scale + l0.ln();
        }
        if row0 + 8 < s {
            lse[(base + row0 + 8) as usize] = m1 * scale + l1.ln();
        }
    }
}

/// A cube owns 64 rows of x as A fragments and walks `bt`-row tiles of y. Without `dq`: x = (k, v), y = (q, do), `lse` and
/// `delta` index y, out = (dk, dv). With it: x = (q, do), y = (k, v), `lse` and `delta` index x, `out0` = dq, `out1` unused.
#[cube(launch_unchecked, fast_math = FastMath::all())]
fn backward_kernel<E: Float>(
    x0: &Array<Vector<E, N2>>,
    x1: &Array<Vector<E, N2>>,
    y0: &Array<Vector<E, N8>>,
    y1: &Array<Vector<E, N8>>,
    lse: &Array<f32>,
    delta: &Array<f32>,
    out0: &mut Array<Vector<E, N2>>,
    out1: &mut Array<Vector<E, N2>>,
    s: u32,
    scale: f32,
    #[comptime] causal: bool,
    #[comptime] bt: u32,
    #[comptime] dq: bool,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let size!(NA) = def.vector_size(MatrixIdent::A);
    let size!(NB) = def.vector_size(MatrixIdent::B);
    let size!(NC) = def.vector_size(MatrixIdent::Accumulator);
    let mut s0 = SharedMemory::<Vector<E, N8>>::new_aligned(comptime!(16 * bt as usize), 128usize);
    let mut s1 = SharedMemory::<Vector<E, N8>>::new_aligned(comptime!(16 * bt as usize), 128usize);
    let mut ls = SharedMemory::<f32>::new_aligned(comptime!(4 * bt as usize), 16usize);
    let bar = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let lane = UNIT_POS_PLANE;
    let base = CUBE_POS_Y * s;
    let row0 = CUBE_POS_X * 64 + (UNIT_POS / 32) * 16 + lane / 4;
    let f0 = load_fragments::<E, NA>(x0, base, row0, s);
    let f1 = load_fragments::<E, NA>(x1, base, row0, s);
    let mut a0 = zero_tiles::<NC>(8u32);
    let mut a1 = zero_tiles::<NC>(8u32);
    let mut stat = Array::<f32>::new(4usize);
    if dq {
        #[unroll]
        for h in 0..2u32 {
            let r = (base + min(row0 + comptime!(8 * h), s - 1)) as usize;
            stat[comptime!(2 * h as usize)] = lse[r];
            stat[comptime!(2 * h as usize + 1)] = delta[r];
        }
    }
    let mut tiles = (s + comptime!(bt - 1)) / bt;
    let mut first = 0u32.runtime();
    if causal {
        if dq {
            tiles = min(tiles, (CUBE_POS_X + 1) * 64 / bt);
        } else {
            first = CUBE_POS_X * 64 / bt;
        }
    }
    for jj in first..tiles + 1 {
        // tile jj is fetched while tile jj - 1 is used
        if jj < tiles {
            copy_tile::<E>(y0, &mut s0, base, jj, s, bt, 4u32);
            copy_tile::<E>(y1, &mut s1, base, jj, s, bt, 4u32);
            if !dq {
                if UNIT_POS < bt {
                    let r = (base + min(jj * bt + UNIT_POS, s - 1)) as usize;
                    ls[((jj % 2) * bt + UNIT_POS) as usize] = lse[r];
                    ls[((jj % 2) * bt + UNIT_POS + comptime!(2 * bt)) as usize] = delta[r];
                }
            }
            bar.commit_copy_async();
        }
        if jj > first {
            let j = jj - 1;
            let st = (j % 2) * bt;
            let mut sc = zero_tiles::<NC>(comptime!(bt / 8));
            let mut dp = zero_tiles::<NC>(comptime!(bt / 8));
            #[unroll]
            for t in 0..4u32 {
                multiply_tile::<E, NA, NB, NC>(
                    &def,
                    f0.index(t as usize),
                    &s0,
                    &mut sc,
                    st,
                    t,
                    comptime!(bt / 16),
                    false,
                );
            }
            #[unroll]
            for t in 0..4u32 {
                multiply_tile::<E, NA, NB, NC>(
                    &def,
                    f1.index(t as usize),
                    &s1,
                    &mut dp,
                    st,
                    t,
                    comptime!(bt / 16),
                    false,
                );
            }
            #[unroll]
            for n in 0..comptime!(bt / 8) {
                let a = sc.index_mut(n as usize);
                let d = dp.index_mut(n as usize);
                #[unroll]
                for e in 0..2u32 {
                    let c = comptime!(n * 8 + e) + (lane % 4) * 2;
                    let col = j * bt + c;
                    #[unroll]
                    for h in 0..2u32 {
                        let row = row0 + comptime!(8 * h);
                        let mut w = a[h as usize];
                        let mut g = d[h as usize];
                        let mut lz = stat[comptime!(2 * h as usize)];
                        let mut dz = stat[comptime!(2 * h as usize + 1)];
                        if !dq {
                            lz = ls[(st + c) as usize];
                            dz = ls[(st + c + comptime!(2 * bt)) as usize];
                        }
                        let mut ok = col < s;
                        if causal {
                            if dq {
                                ok = col <= row;
                            } else {
                                ok = ok && col >= row;
                            }
                        }
                        let p = select(ok, (w[e as usize] * scale - lz).exp(), f32::new(0.0));
                        g[e as usize] = p * (g[e as usize] - dz);
                        w[e as usize] = p;
                        a[h as usize] = w;
                        d[h as usize] = g;
                    }
                }
            }
            #[unroll]
            for t in 0..comptime!(bt / 16) {
                if !dq {
                    multiply_tile::<E, NA, NB, NC>(
                        &def,
                        &pack_fragment::<E, NA, NC>(&sc, t),
                        &s1,
                        &mut a1,
                        st,
                        t,
                        4u32,
                        true,
                    );
                }
                multiply_tile::<E, NA, NB, NC>(
                    &def,
                    &pack_fragment::<E, NA, NC>(&dp, t),
                    &s0,
                    &mut a0,
                    st,
                    t,
                    4u32,
                    true,
                );
            }
        }
        bar.arrive_and_wait();
    }
    store_rows::<E, NC>(out0, &a0, base, row0, s, scale, scale);
    if !dq {
        store_rows::<E, NC>(out1, &a1, base, row0, s, f32::new(1.0), f32::new(1.0));
    }
}

/// `delta[r]` = sum over 64 dims of `o * do`; a plane per row, 256 units.
#[cube(launch_unchecked)]
fn row_dot_kernel<E: Float>(o: &Array<Vector<E, N2>>, g: &Array<Vector<E, N2>>, delta: &mut Array<f32>, rows: u32) {
    let r = CUBE_POS_X * 8 + UNIT_POS / 32;
    if r < rows {
        let i = (r * 32 + UNIT_POS_PLANE) as usize;
        let p = Vector::<f32, N2>::cast_from(o[i]) * Vector::<f32, N2>::cast_from(g[i]);
        let t = plane_sum(p[0usize] + p[1usize]);
        if UNIT_POS_PLANE == 0 {
            delta[r as usize] = t;
        }
    }
}
