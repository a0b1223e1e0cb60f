//! Fitting the tensors of a file to the parameters of a model.

use super::error::CheckpointError;
use super::names::{Naming, of_tensor};
use super::tensor::{HostTensor, Tensors};
use super::weights::WeightFile;
use std::collections::BTreeMap;
use std::fmt;

/// The parameters of the shared space: AVION never takes them from CLIP, whose space has another
/// width, and the temperature starts anew. And those that tell classes apart, which are another
/// data set's.
const PROJECTIONS: &[&str] =
    &["visual.image_projection", "textual.text_projection", "logit_scale", "head.weight", "head.bias"];
/// The norm before a classifier's head. Pre-trained VideoMAE files do not have it.
const HEAD_NORM: &[&str] = &["fc_norm.weight", "fc_norm.bias"];
const TEMPORAL: &str = "visual.temporal_embedding";
const TEXT_POSITIONS: &str = "textual.positional_embedding";

/// What to take from a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// All of a trained model: also the two projections and the temperature, or a classifier's head
    /// with the norm before it, which then must be there.
    pub projections: bool,
}

/// What happened to every tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// Whose names the file uses.
    pub naming: Naming,
    /// Taken, adapted ones included.
    pub loaded: Vec<String>,
    /// Taken after a change of shape: what was done.
    pub adapted: Vec<String>,
    /// Of the model, not in the file: they keep their initial values.
    pub missing: Vec<String>,
    /// Of the model, left alone because [`LoadOptions`] says so.
    pub skipped: Vec<String>,
    /// Of the file, unknown to the model.
    pub unexpected: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors, {} names", self.loaded.len(), self.naming)?;
        for line in &self.adapted {
            write!(f, "; {line}")?;
        }
        for (what, names) in
            [("not in the file", &self.missing), ("left at their start", &self.skipped), ("ignored", &self.unexpected)]
        {
            if !names.is_empty() {
                write!(f, "; {what}: {}", listed(names))?;
            }
        }
        Ok(())
    }
}

/// The names; of many that begin alike, such as a decoder's, the beginning and how many.
fn listed(names: &[String]) -> String {
    const SPELLED: usize = 4;
    let module = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let mut modules: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        modules.entry(module(name)).or_default().push(name);
    }
    let parts = modules.into_iter().map(|(module, names)| match names.len() {
        0..=SPELLED => names.join(", "),
        count => format!("{count} of {module}"),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Takes from `file` the tensors that a model expects, as f32 in the expected shapes.
///
/// `expected` holds our names with shapes. Adapted are: the temporal embedding to another number
/// of frames (half-pixel linear interpolation), the text positions to another
/// context (cut, or filled with zeros), and scalars of shape `[]` or `[1]`.
///
/// # Errors
/// [`CheckpointError::Mismatch`] naming every tensor of another shape, every one that the file
/// lacks (but the temporal embedding, which starts at zero, and the norm of a new classifier), and
/// blocks that the model's towers lack; a decoder that the model does not have is only reported;
/// [`CheckpointError::Tensor`] for weights that are not floating point.
pub fn load_into(
    expected: &[(String, Vec<usize>)],
    file: WeightFile,
    options: LoadOptions,
) -> Result<(Tensors, LoadReport), CheckpointError> {
    let mut rest = file.tensors;
    let mut tensors = Tensors::new();
    let mut problems = Vec::new();
    let mut report = LoadReport {
        naming: file.naming,
        loaded: Vec::new(),
        adapted: Vec::new(),
        missing: Vec::new(),
        skipped: Vec::new(),
        unexpected: Vec::new(),
    };
    for (name, shape) in expected {
        let found = rest.remove(name);
        if !options.projections && PROJECTIONS.contains(&name.as_str()) {
            report.skipped.push(name.clone());
            continue;
        }
        let Some(found) = found else {
            let is_new = name == TEMPORAL || (!options.projections && HEAD_NORM.contains(&name.as_str()));
            if !is_new {
                problems.push(format!("{name}: expected {shape:?}, not in the file"));
            }
            report.missing.push(name.clone());
            continue;
        };
        let from = found.shape.clone();
        let Some(tensor) = fitted(name, found, shape).map_err(of_tensor(name))? else {
            problems.push(format!("{name}: expected {shape:?}, found {from:?}"));
            continue;
        };
        if from != *shape {
            let line = format!("{name} adapted from {from:?} to {shape:?}");
            report.adapted.push(line);
        }
        report.loaded.push(name.clone());
        tensors.insert(name.clone(), tensor);
    }
    let has_decoder = expected.iter().any(|(name, _)| name.starts_with("decoder."));
    for name in rest.into_keys() {
        let is_block = name.contains(".resblocks.") || name.contains(".blocks.");
        if is_block && (has_decoder || !name.starts_with("decoder.")) {
            problems.push(format!("{name}: not in the model, which has fewer layers"));
        }
        report.unexpected.push(name);
    }
    match problems.is_empty() {
        true => Ok((tensors, report)),
        false => Err(CheckpointError::Mismatch { path: file.path, problems }),
    }
}

/// The tensor as f32 in the wanted shape, or `None` when it cannot be brought there.
fn fitted(name: &str, tensor: HostTensor, wanted: &[usize]) -> Result<Option<HostTensor>, String> {
    let is_scalar = |shape: &[usize]| shape.iter().all(|&side| side == 1);
    if tensor.shape == wanted || (is_scalar(&tensor.shape) && is_scalar(wanted)) {
        return tensor.into_f32_shaped(wanted).map(Some);
    }
    let (&[rows, width], &[wanted_rows, wanted_width]) = (tensor.shape.as_slice(), wanted) else {
        return Ok(None);
    };
    if width != wanted_width || rows == 0 {
        return Ok(None);
    }
    let values = match name {
        TEMPORAL => resampled_rows(&tensor.to_f32()?, width, wanted_rows),
        TEXT_POSITIONS => {
            let mut values = tensor.to_f32()?;
            values.resize(wanted_rows * width, 0.0);
            values
        }
        _ => return Ok(None),
    };
    HostTensor::from_f32(wanted, &values).map(Some)
}

/// `[rows, width]` to `[wanted, width]` by linear interpolation between rows at half-pixel centres,
/// the ends held: row `i` is read at `(i + 0.5) * rows / wanted - 0.5`. It is what AVION's resume
/// does with its temporal embedding (PyTorch's `interpolate` with `align_corners=False`).
fn resampled_rows(values: &[f32], width: usize, wanted: usize) -> Vec<f32> {
    let rows = values.len() / width.max(1);
    let last = rows.saturating_sub(1);
    let scale = rows as f64 / wanted as f64;
    let mut out = Vec::with_capacity(wanted * width);
    for row in 0..wanted {
        let at = ((row as f64 + 0.5) * scale - 0.5).clamp(0.0, last as f64);
        let low = at.floor() as usize;
        let high = (low + 1).min(last);
        let part = (at - low as f64) as f32;
        for column in 0..width {
            let (a, b) = (values[low * width + column], values[high * width + column]);
            out.push(a * (1.0 - part) + b * part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the interpolation matrix, by resampling the unit matrix.
    fn weights(from: usize, to: usize) -> Vec<Vec<f32>> {
        let mut unit = vec![0.0; from * from];
        for row in 0..from {
            unit[row * from + row] = 1.0;
        }
        let out = resampled_rows(&unit, from, to);
        out.chunks(from).map(<[f32]>::to_vec).collect()
    }

    /// Rows worked out with AVION's own code.
    #[test]
    fn interpolation_weights_equal_avions() {
        assert_eq!(
            weights(4, 8),
            [
                [1., 0., 0., 0.],
                [0.75, 0.25, 0., 0.],
                [0.25, 0.75, 0., 0.],
                [0., 0.75, 0.25, 0.],
                [0., 0.25, 0.75, 0.],
                [0., 0., 0.75, 0.25],
                [0., 0., 0.25, 0.75],
                [0., 0., 0., 1.],
            ]
        );
        let wide = weights(4, 16);
        assert_eq!(wide[0], [1., 0., 0., 0.]);
        assert_eq!(wide[1], wide[0]);
        assert_eq!(wide[2], [0.875, 0.125, 0., 0.]);
        assert_eq!(wide[3], [0.625, 0.375, 0., 0.]);
        assert_eq!(wide[4], [0.375, 0.625, 0., 0.]);
        assert_eq!(wide[5], [0.125, 0.875, 0., 0.]);
        assert_eq!(wide[6], [0., 0.875, 0.125, 0.]);
        assert_eq!(wide[7], [0., 0.625, 0.375, 0.]);
        for row in 0..16 {
            let mirrored: Vec<f32> = wide[15 - row].iter().rev().copied().collect();
            assert_eq!(wide[row], mirrored, "row {row}");
        }
    }

    #[test]
    fn fewer_frames_and_one_frame() {
        assert_eq!(weights(4, 2), [[0.5, 0.5, 0., 0.], [0., 0., 0.5, 0.5]]);
        assert_eq!(weights(1, 3), [[1.], [1.], [1.]]);
        assert_eq!(weights(4, 4)[2], [0., 0., 1., 0.]);
    }
}
