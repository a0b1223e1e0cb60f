//! Products on NVIDIA GPUs through cuBLASLt, in order with CubeCL's own work and without waiting for the device.
//!
//! `out = a b + bias + residual`, or `out += a b`: bias and residual are added in the product's epilogue, in f32 and
//! before the one rounding, so they cost one read and no launch. bf16 and f16 operands go to tensor cores with f32 sums;
//! f32 operands are multiplied in f32, not TF32.
//!
//! On an H200 the forward, input and weight products of a ViT-B/16 block (200,960 rows, bf16, weight gradients added up in
//! f32) take 12.4 ms, PyTorch's 13.3 ms in the same run; with the residual in the epilogue 0.45 and 1.5 ms where PyTorch
//! takes 0.61 and 1.65.
//!
//! A call queues one task on CubeCL's device thread (1 us for the caller) that calls the library on CubeCL's stream
//! (see [`crate::cuda`]). What is known beforehand is decided beforehand: a missing library or a product the library
//! does not take is declined at once; later errors are for [`crate::cuda::take_failure`].
//!
//! | file | what |
//! | --- | --- |
//! | `key` | what an algorithm depends on: sizes, layouts, types, epilogue |
//! | `plan` | descriptors and algorithm of one key, and the map of them |
//! | `library` | the library on one device: planning and queueing |
//! | [`tuning`] | how algorithms are chosen, and where the choice is kept (`cache`) |
//! | `search`, `variants` | the fastest algorithm for a product, found by running it |

mod cache;
mod key;
mod library;
mod plan;
mod search;
pub mod tuning;
mod variants;

use super::Problem;
use super::tiled::Matrix;
use crate::{FloatKind, Handle};
use cubecl::prelude::*;
use key::{Key, Source};
use library::Library;

pub use tuning::{Tuning, set_tuning};

/// Why the library did not take a product, in words for a log. Nothing was queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    /// The runtime is not CUDA, or the operands' layout is not BLAS's.
    NotApplicable,
    /// The library or the driver cannot be used, or refused.
    Unavailable(String),
    /// An earlier product failed after it was queued: what was computed since is wrong.
    Failed(String),
}

/// What is added to `a b`.
#[derive(Debug, Clone, Default)]
pub struct Epilogue {
    /// `[n]`, one value per output feature, of the operands' kind. Starts at a multiple of 16 bytes. The library takes
    /// one only where `out` is of that kind too.
    pub bias: Option<Handle>,
    /// `[m, n]`, with `out`'s layout and kind; may be `out` itself.
    pub residual: Option<Handle>,
    /// `out` keeps what it holds: `out += a b`. Not with a residual.
    pub accumulate: bool,
    /// Whether this shape comes again and again, so that a search for the fastest algorithm pays for smaller products.
    pub steady: bool,
}

impl Epilogue {
    /// `out += a b`
    pub fn accumulate() -> Self {
        Epilogue { accumulate: true, ..Epilogue::default() }
    }

    /// `out = a b + bias`
    pub fn bias(bias: Handle) -> Self {
        Epilogue { bias: Some(bias), ..Epilogue::default() }
    }

    /// The same plus `residual`.
    pub fn residual(self, residual: Handle) -> Self {
        Epilogue { residual: Some(residual), ..self }
    }
}

/// The buffers of one product.
#[derive(Clone)]
struct Buffers {
    a: Handle,
    b: Handle,
    out: Handle,
    bias: Option<Handle>,
    residual: Option<Handle>,
}

/// `out = a b`, with what `epilogue` adds. Queued, not waited for.
///
/// # Shapes
/// - `a`: `[m, k]`, `b`: `[k, n]`, each row-major or transposed, of `kind`; `out`: `[m, n]` row-major, of `out_kind`
/// - with `problem.outer * problem.inner` entries in a batch, one stride each; no bias or residual then
///
/// # Errors
/// [`Declined`]: nothing was queued. Another kernel can take the product unless it says `Failed`.
pub fn cublaslt<R: Runtime>(
    client: &ComputeClient<R>,
    problem: Problem,
    (a, b, kind): (Matrix, Matrix, FloatKind),
    (out, out_kind): (Matrix, FloatKind),
    epilogue: &Epilogue,
) -> Result<(), Declined> {
    let library = Library::of(client).ok_or(Declined::NotApplicable)?.map_err(Declined::Unavailable)?;
    if let Some(why) = library.gpu.failure() {
        return Err(Declined::Failed(why));
    }
    let Problem { m, n, k, outer, inner } = problem;
    let source = match (&epilogue.residual, epilogue.accumulate) {
        (None, false) => Source::Nothing,
        (None, true) => Source::Out,
        (Some(_), false) => Source::Residual,
        (Some(_), true) => return Err(Declined::NotApplicable),
    };
    let key = Key::of(&problem, [&a, &b, &out], kind, out_kind, epilogue.bias.is_some(), source)
        .ok_or(Declined::NotApplicable)?;
    let elements = |handle: &Handle, kind: FloatKind| handle.size_in_used() as usize / kind.size();
    let in_bounds = problem.check("a", &a.operand, m, k, a.len).is_ok()
        && problem.check("b", &b.operand, k, n, b.len).is_ok()
        && problem.check("out", &out.operand, m, n, out.len).is_ok()
        && epilogue.bias.as_ref().is_none_or(|bias| elements(bias, kind) >= n)
        && epilogue
            .residual
            .as_ref()
            .is_none_or(|x| problem.check("residual", &out.operand, m, n, elements(x, out_kind)).is_ok());
    let single = outer * inner == 1 || (epilogue.bias.is_none() && epilogue.residual.is_none());
    if !in_bounds || !single || m * n * k * outer * inner == 0 {
        return Err(Declined::NotApplicable);
    }
    let buffers = Buffers {
        a: a.handle,
        b: b.handle,
        out: out.handle,
        bias: epilogue.bias.clone(),
        residual: epilogue.residual.clone(),
    };
    let plan = library.plan(&key, &buffers, epilogue.steady).map_err(Declined::Unavailable)?;
    library.gpu.submit("cuBLASLt", move |work| {
        let pointers = buffers.pointers(work)?;
        library.multiply(&plan, &pointers, work.queue)
    });
    Ok(())
}
