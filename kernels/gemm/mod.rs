//! Batched matrix product over strided operands: `out = scale * a b`.
//!
//! Strides say how each operand lies in its buffer, so transposed weights, packed queries, keys and values, and heads
//! interleaved with tokens are all read and written in place, without a copy.

#[cfg(feature = "cuda")]
pub mod cublaslt;
#[cfg(feature = "cuda")]
pub mod hopper;
pub mod tiled;

use crate::KernelError;

/// How one operand lies in its buffer, in elements: the matrix of batch entry `(i, j)` starts at
/// `offset + i * outer + j * inner`, and its element `(row, column)` lies at `row * rows + column * columns` from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    pub offset: usize,
    pub outer: usize,
    pub inner: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Operand {
    /// A row-major matrix with `columns` columns, the same for the whole batch.
    pub fn matrix(columns: usize) -> Self {
        Operand { offset: 0, outer: 0, inner: 0, rows: columns, columns: 1 }
    }

    /// The same buffer read as the transposed matrix.
    pub fn transposed(self) -> Self {
        Operand { rows: self.columns, columns: self.rows, ..self }
    }
}

/// Sizes of a batched product: `out[m, n] = a[m, k] b[k, n]` for each of `outer * inner` batch entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub outer: usize,
    pub inner: usize,
}

impl Problem {
    /// One product.
    pub fn single(m: usize, n: usize, k: usize) -> Self {
        Problem { m, n, k, outer: 1, inner: 1 }
    }

    /// Largest index `operand` reaches for matrices of `rows` x `columns`, plus one.
    fn reach(&self, operand: &Operand, rows: usize, columns: usize) -> usize {
        if rows == 0 || columns == 0 || self.outer == 0 || self.inner == 0 {
            return 0;
        }
        operand.offset
            + (self.outer - 1) * operand.outer
            + (self.inner - 1) * operand.inner
            + (rows - 1) * operand.rows
            + (columns - 1) * operand.columns
            + 1
    }

    fn check(
        &self,
        name: &'static str,
        operand: &Operand,
        rows: usize,
        columns: usize,
        len: usize,
    ) -> Result<(), KernelError> {
        let reach = self.reach(operand, rows, columns);
        if reach > len || reach > u32::MAX as usize {
            return Err(KernelError::Shape {
                kernel: "gemm",
                what: name,
                expected: format!("at least {reach} elements (and fewer than 2^32)"),
                got: len.to_string(),
            });
        }
        Ok(())
    }
}

/// The same in f64.
pub fn reference(problem: Problem, scale: f64, a: (&[f32], Operand), b: (&[f32], Operand), out: (&mut [f64], Operand)) {
    let at = |o: &Operand, i: usize, j: usize, r: usize, c: usize| {
        o.offset + i * o.outer + j * o.inner + r * o.rows + c * o.columns
    };
    for i in 0..problem.outer {
        for j in 0..problem.inner {
            for m in 0..problem.m {
                for n in 0..problem.n {
                    let dot: f64 = (0..problem.k)
                        .map(|k| a.0[at(&a.1, i, j, m, k)] as f64 * b.0[at(&b.1, i, j, k, n)] as f64)
                        .sum();
                    out.0[at(&out.1, i, j, m, n)] = scale * dot;
                }
            }
        }
    }
}
