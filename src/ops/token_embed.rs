//! From token ids to the text tower's input: token embedding plus position.

use super::workspace::{Matrix, Workspace};
use crate::model::params::Weight;
use avion_kernels::embedding::{self, Groups};
use avion_kernels::{Handle, column_sum};
use burn_cubecl::CubeRuntime;

/// Token ids of a batch of captions, cut to the longest: positions after it are never computed, which changes nothing,
/// because the tower is causal and pools at the end-of-text token.
#[derive(Clone)]
pub struct TokenIds {
    /// `[batch * tokens]`, u32, on the device.
    pub ids: Handle,
    /// Which rows hold which token, for the gradient; what comes after a caption's end has none.
    pub groups: Groups,
    pub batch: usize,
    pub tokens: usize,
}

/// The two tables.
#[derive(Clone)]
pub struct TokenEmbedWeights<R: CubeRuntime> {
    /// `[vocabulary, width]`.
    pub embedding: Weight<R>,
    /// `[context, width]`; the first `tokens` rows are used.
    pub position: Weight<R>,
}

impl<R: CubeRuntime> TokenEmbedWeights<R> {
    /// # Shapes
    /// - returns `[batch * tokens, width]`
    pub fn forward(&self, ws: &Workspace<R>, ids: &TokenIds) -> Matrix {
        let x = ws.matrix(ids.batch * ids.tokens, self.embedding.columns());
        let inputs = [self.embedding.value_handle(), &ids.ids, self.position.value_handle()];
        embedding::forward(&ws.client, x.kind, inputs, x.handle(), x.rows, ids.tokens, x.columns);
        x
    }

    /// Adds the gradients of both tables.
    pub fn backward(&self, ws: &Workspace<R>, ids: &TokenIds, dy: &Matrix) {
        let (rows, columns) = (ids.batch, ids.tokens * dy.columns);
        let position = self.position.gradient_to_add().clone();
        column_sum::column_sum(&ws.client, dy.handle().clone(), dy.kind, rows, columns, position);
        let table = self.embedding.gradient_to_add();
        let words = ws.upload(ids.groups.words());
        let partials = (ids.groups.partials() > 0).then(|| ws.floats(ids.groups.partials() * dy.columns));
        let partials = partials.as_ref().map(|buffer| buffer.handle());
        embedding::backward(&ws.client, dy.kind, dy.handle(), &ids.groups, &words, partials, table, dy.columns);
    }
}
