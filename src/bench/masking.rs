//! The kernels that only masked pre-training has, at a recipe's sizes.

use super::kernels::filled;
use super::{Row, time};
use crate::config::recipe::Recipe;
use crate::device::DeviceError;
use crate::model::videomae::MaeShape;
use crate::ops::tubelet_embed::checked;
use crate::ops::workspace::Workspace;
use avion_kernels::masking::{self, Assemble, PixelLoss};
use avion_kernels::{Handle, KernelError};
use burn_cubecl::CubeRuntime;

/// Masks, ingest of the visible patches (a step makes them twice), the decoder's input and output, and the loss: what a
/// step of `clips` clips spends beside its blocks and products.
///
/// # Errors
/// A mask that the frames cannot have, or what the device reports.
pub fn parts<R: CubeRuntime>(ws: &Workspace<R>, recipe: &Recipe, clips: usize) -> Result<Vec<Row>, DeviceError> {
    let shape = MaeShape::of(recipe).map_err(|e: KernelError| DeviceError::Failed { detail: e.to_string() })?;
    let (client, counts, grid) = (&ws.client, shape.counts(clips), shape.grid);
    let (width, narrow, columns) = (shape.encoder.width, shape.decoder.width, grid.columns());
    let element = ws.kind.size();
    let keys: Vec<[u32; 2]> = (0..clips as u32).map(|clip| [clip, clip ^ 0x9e37_79b9]).collect();
    let (keys, order) = (ws.upload(&keys), client.empty(counts.rows() * 4));
    let bytes: Vec<u8> = (0..grid.padded_bytes(clips)).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let frames: Handle = client.create_from_slice(&bytes);
    drop(bytes);
    let [visible, decoded, all] = [counts.visible_rows(), counts.decoded_rows(), counts.rows()];
    let row = |name: &str, samples, bytes: usize| Row::new(format!("masking: {name}"), samples).bytes(bytes as f64);

    let made = time(client, || checked(masking::generate(client, &shape.mask, &keys, &order, clips)))?;
    let mut rows = vec![row("masks", made, all * 4)];

    let patches = ws.matrix(visible, columns);
    let samples = time(client, || {
        let to = patches.handle();
        checked(masking::ingest(client, ws.kind, &frames, grid, shape.pixels, Some(&order), counts, false, to));
    })?;
    rows.push(row("ingest of visible patches", samples, visible * columns * (1 + element)).calls(2.0));
    drop(patches);

    let (x, table) = (filled(ws, visible, width), ws.floats(grid.tokens() * width));
    avion_kernels::flat::clear(client, table.handle(), grid.tokens() * width);
    let samples = time(client, || {
        let sizes = [grid.tokens(), width];
        checked(masking::positions(client, ws.kind, x.handle(), table.handle(), &order, counts, false, sizes));
    })?;
    rows.push(row("positions", samples, visible * width * (2 * element + 4)));
    drop(x);

    let (projected, y, token) = (filled(ws, visible, narrow), ws.matrix(all, narrow), ws.floats(narrow));
    avion_kernels::flat::clear(client, token.handle(), narrow);
    let samples = time(client, || {
        let parts = Assemble {
            projected: projected.handle(),
            table: table.handle(),
            mask_token: token.handle(),
            order: &order,
            tokens: grid.tokens(),
            width: narrow,
        };
        checked(masking::assemble(client, ws.kind, parts, counts, y.handle()));
    })?;
    rows.push(row("decoder's input", samples, narrow * (visible * element + all * (element + 4))));
    let samples = time(client, || {
        let (to, d_token) = (projected.handle(), token.handle());
        checked(masking::disassemble(client, ws.kind, y.handle(), counts, narrow, to, d_token));
    })?;
    rows.push(row("its gradient", samples, narrow * (visible + all) * element));
    let tail = ws.matrix(decoded, narrow);
    let samples = time(client, || checked(masking::tail(client, ws.kind, y.handle(), counts, narrow, tail.handle())))?;
    rows.push(row("masked tokens of the output", samples, 2 * narrow * decoded * element));
    let samples = time(client, || {
        checked(masking::tail_backward(client, ws.kind, tail.handle(), counts, narrow, y.handle()));
    })?;
    rows.push(row("its gradient", samples, narrow * (decoded + all) * element));
    drop((projected, y, tail));

    let (prediction, sums, result) = (filled(ws, decoded, columns), ws.floats(2 * decoded), client.empty(8));
    let loss = PixelLoss { frames: &frames, tubelets: grid, order: &order, counts, normalize: shape.normalize };
    let samples = time(client, || {
        checked(masking::pixel_loss(client, ws.kind, &loss, prediction.handle(), sums.handle()));
        checked(masking::pixel_loss_finish(client, sums.handle(), decoded, columns, &result));
    })?;
    rows.push(row("targets, loss and its gradient", samples, decoded * columns * (1 + 2 * element)));
    Ok(rows)
}
