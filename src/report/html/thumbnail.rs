//! Small pictures that live inside the page.

use super::super::{Picture, ReportError, check_picture};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A picture as a data URI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thumbnail {
    pub data_uri: String,
    pub width: usize,
    pub height: usize,
}

impl Thumbnail {
    /// JPEG quality: a 112 px frame takes some 3 kB and looks as it was.
    const QUALITY: u8 = 82;

    /// Encodes `rgb`, `[height, width, 3]`, as JPEG.
    ///
    /// # Errors
    /// The bytes do not fit the sides, or a side is 0 or above 65535.
    pub fn from_rgb(rgb: &[u8], width: usize, height: usize) -> Result<Self, ReportError> {
        let (w, h) = check_picture(rgb, width, height)?;
        let mut jpeg = Vec::new();
        jpeg_encoder::Encoder::new(&mut jpeg, Self::QUALITY)
            .encode(rgb, w, h, jpeg_encoder::ColorType::Rgb)
            .map_err(|error| ReportError::Encode { width, height, reason: error.to_string() })?;
        Ok(Self { data_uri: format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)), width, height })
    }

    /// Encodes as PNG, which keeps every pixel: for what was drawn.
    ///
    /// # Errors
    /// As [`from_rgb`](Self::from_rgb).
    pub fn from_picture(picture: &Picture) -> Result<Self, ReportError> {
        let data_uri = format!("data:image/png;base64,{}", STANDARD.encode(picture.png()?));
        Ok(Self { data_uri, width: picture.width, height: picture.height })
    }

    pub(super) fn render(&self, description: &str) -> String {
        format!(
            "<img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"{}\">",
            super::escape(&self.data_uri),
            self.width,
            self.height,
            super::escape(description)
        )
    }
}
