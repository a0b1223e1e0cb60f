//! Frozen features with labels: what neighbours and probe work on.

/// Features of clips and their classes.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Named in errors: `train`, `test`.
    pub set: &'static str,
    /// `[clips, width]`, row-major.
    pub features: &'a [f32],
    pub width: usize,
    /// `[clips]`, from 0.
    pub labels: &'a [usize],
}

/// Why features cannot be worked with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FeatureError {
    #[error("{set} features have {found} entries, expected {clips} labels x width {width}, neither of them 0")]
    WrongSize { set: &'static str, found: usize, clips: usize, width: usize },
    #[error("{set} features are {found} wide, those to compare them with {expected}; use one model for both")]
    Widths { set: &'static str, found: usize, expected: usize },
    #[error("{set} clip {clip}, feature {column} is {value}; leave such clips out, or find why the model gives it")]
    NotFinite { set: &'static str, clip: usize, column: usize, value: f32 },
    #[error("{set} clip {clip}: all features are 0, so it has no direction to compare; leave it out")]
    NoDirection { set: &'static str, clip: usize },
    #[error("{set} clip {clip} has label {label}, but there are {classes} classes, counted from 0")]
    UnknownClass { set: &'static str, clip: usize, label: usize, classes: usize },
    #[error("{option} is {found}, expected {expected}")]
    BadOption { option: &'static str, found: f64, expected: &'static str },
    #[error("{clips} {set} clips are too few to hold some of them out, expected at least 3")]
    TooFew { set: &'static str, clips: usize },
}

impl<'a> Labelled<'a> {
    /// Checks sizes, labels, and that all is finite.
    pub(super) fn check(&self, classes: usize) -> Result<(), FeatureError> {
        let &Self { set, features, width, labels } = self;
        let clips = labels.len();
        if clips == 0 || width == 0 || clips.checked_mul(width) != Some(features.len()) {
            return Err(FeatureError::WrongSize { set, found: features.len(), clips, width });
        }
        if let Some(clip) = labels.iter().position(|&label| label >= classes) {
            return Err(FeatureError::UnknownClass { set, clip, label: labels[clip], classes });
        }
        if let Some(at) = features.iter().position(|feature| !feature.is_finite()) {
            return Err(FeatureError::NotFinite { set, clip: at / width, column: at % width, value: features[at] });
        }
        Ok(())
    }

    /// Checks both, and that they fit together.
    pub(super) fn check_pair(&self, other: &Labelled<'_>, classes: usize) -> Result<(), FeatureError> {
        self.check(classes)?;
        other.check(classes)?;
        if other.width != self.width {
            return Err(FeatureError::Widths { set: other.set, found: other.width, expected: self.width });
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> std::slice::ChunksExact<'a, f32> {
        self.features.chunks_exact(self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_features_are_named() {
        let labelled = |features, width, labels| Labelled { set: "test", features, width, labels };
        let text = |set: Labelled<'_>| set.check(3).unwrap_err().to_string();
        assert!(
            text(labelled(&[0.0; 5], 2, &[0, 1])).contains("test features have 5 entries, expected 2 labels x width 2")
        );
        assert!(text(labelled(&[], 2, &[])).contains("0 labels"));
        assert!(text(labelled(&[0.0; 4], 2, &[0, 3])).contains("test clip 1 has label 3, but there are 3 classes"));
        assert!(text(labelled(&[0.0, 0.0, 0.0, f32::NAN], 2, &[0, 1])).contains("test clip 1, feature 1 is NaN"));
        let (narrow, wide) = (labelled(&[0.0; 4], 2, &[0, 1]), labelled(&[0.0; 6], 3, &[0, 1]));
        assert_eq!(narrow.check_pair(&narrow, 2), Ok(()));
        let error = narrow.check_pair(&wide, 2).unwrap_err();
        assert_eq!(error, FeatureError::Widths { set: "test", found: 3, expected: 2 });
    }
}
