//! What the choice of an algorithm depends on.

use crate::FloatKind;
use crate::gemm::tiled::Matrix;
use crate::gemm::{Operand, Problem};
use std::fmt;

/// How an operand lies, as BLAS says it: row-major or transposed, with a leading dimension and one stride per matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lie {
    pub transposed: bool,
    pub leading: usize,
    pub stride: usize,
}

impl Lie {
    /// `None` when the layout has gaps in both dimensions, or a batch that no single stride describes.
    fn of(operand: &Operand, rows: usize, columns: usize, problem: &Problem) -> Option<Self> {
        let (transposed, leading) = match (operand.rows, operand.columns) {
            (row, 1) if row >= columns || rows == 1 => (false, row.max(columns)),
            (1, column) if column >= rows || columns == 1 => (true, column.max(rows)),
            _ => return None,
        };
        let stride = match (problem.outer, problem.inner) {
            (1, 1) => 0,
            (_, 1) => operand.outer,
            (1, _) => operand.inner,
            (_, inner) if operand.outer == inner * operand.inner => operand.inner,
            _ => return None,
        };
        Some(Lie { transposed, leading, stride })
    }
}

/// What the product is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Nothing,
    /// What `out` holds.
    Out,
    /// Another matrix of `out`'s layout.
    Residual,
}

/// Everything an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batch: usize,
    pub a: Lie,
    pub b: Lie,
    pub out: Lie,
    pub kind: FloatKind,
    pub out_kind: FloatKind,
    pub bias: bool,
    pub source: Source,
}

impl Key {
    /// `None` when the operands are not laid out as the library reads them, or `out` is not row-major.
    pub fn of(
        problem: &Problem,
        [a, b, out]: [&Matrix; 3],
        kind: FloatKind,
        out_kind: FloatKind,
        bias: bool,
        source: Source,
    ) -> Option<Self> {
        let Problem { m, n, k, outer, inner } = *problem;
        let lie = |x: &Matrix, rows, columns| Lie::of(&x.operand, rows, columns, problem);
        let (a_lie, b_lie, out_lie) = (lie(a, m, k)?, lie(b, k, n)?, lie(out, m, n)?);
        let plain = !out_lie.transposed && [a, b, out].iter().all(|x| x.operand.offset == 0);
        let batch = outer * inner;
        plain.then_some(Key { m, n, k, batch, a: a_lie, b: b_lie, out: out_lie, kind, out_kind, bias, source })
    }

    /// Multiply-adds of the product.
    pub fn work(&self) -> u128 {
        [self.m, self.n, self.k, self.batch].iter().map(|&x| x as u128).product()
    }

    /// Bytes from the first to the last element of `out`.
    pub fn out_bytes(&self) -> usize {
        ((self.batch - 1) * self.out.stride + (self.m - 1) * self.out.leading + self.n) * self.out_kind.size()
    }
}

/// One word without spaces, different for different keys: the name in the cache file.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |kind| match kind {
            FloatKind::F32 => "f32",
            FloatKind::F16 => "f16",
            FloatKind::Bf16 => "bf16",
        };
        write!(f, "{}x{}x{}x{}:{}>{}", self.m, self.n, self.k, self.batch, kind(self.kind), kind(self.out_kind))?;
        for (name, lie) in [("a", self.a), ("b", self.b), ("out", self.out)] {
            write!(f, ":{name}{}{}+{}", if lie.transposed { "T" } else { "N" }, lie.leading, lie.stride)?;
        }
        let source = match self.source {
            Source::Nothing => "",
            Source::Out => ":accumulate",
            Source::Residual => ":residual",
        };
        write!(f, "{}{source}", if self.bias { ":bias" } else { "" })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A key of `[m, k]` by `[k, n]`, all row-major.
    pub fn key(m: usize, n: usize, k: usize) -> Key {
        let lie = |leading| Lie { transposed: false, leading, stride: 0 };
        let (kind, out_kind) = (FloatKind::Bf16, FloatKind::F32);
        let (a, b, out) = (lie(k), lie(n), lie(n));
        Key { m, n, k, batch: 1, a, b, out, kind, out_kind, bias: false, source: Source::Nothing }
    }

    #[test]
    fn layouts_are_told_apart() {
        let single = Problem::single(4, 5, 6);
        let row_major = Lie::of(&Operand::matrix(6), 4, 6, &single).unwrap();
        assert_eq!(row_major, Lie { transposed: false, leading: 6, stride: 0 });
        // A weight [5, 6] read as [6, 5].
        let transposed = Lie::of(&Operand::matrix(6).transposed(), 6, 5, &single).unwrap();
        assert_eq!(transposed, Lie { transposed: true, leading: 6, stride: 0 });
        let gaps = Operand { rows: 12, columns: 2, ..Operand::matrix(6) };
        assert_eq!(Lie::of(&gaps, 4, 6, &single), None);
    }

    #[test]
    fn a_batch_of_two_dimensions_collapses_only_when_it_is_dense() {
        let problem = Problem { outer: 3, inner: 2, ..Problem::single(4, 5, 6) };
        let dense = Operand { outer: 48, inner: 24, ..Operand::matrix(6) };
        assert_eq!(Lie::of(&dense, 4, 6, &problem).unwrap().stride, 24);
        // Heads interleaved with tokens.
        let interleaved = Operand { outer: 48, inner: 6, rows: 12, ..Operand::matrix(6) };
        assert_eq!(Lie::of(&interleaved, 4, 6, &problem), None);
    }

    #[test]
    fn different_keys_have_different_names() {
        let plain = key(7, 8, 9);
        let transposed = Key { a: Lie { transposed: true, ..plain.a }, ..plain };
        let accumulating = Key { source: Source::Out, ..plain };
        let with_bias = Key { bias: true, ..plain };
        let names: Vec<_> = [plain, transposed, accumulating, with_bias].iter().map(ToString::to_string).collect();
        assert_eq!(names[0], "7x8x9x1:bf16>f32:aN9+0:bN8+0:outN8+0");
        assert_eq!(names[1], "7x8x9x1:bf16>f32:aT9+0:bN8+0:outN8+0");
        assert_eq!(names[2], "7x8x9x1:bf16>f32:aN9+0:bN8+0:outN8+0:accumulate");
        assert_eq!(names[3], "7x8x9x1:bf16>f32:aN9+0:bN8+0:outN8+0:bias");
    }
}
