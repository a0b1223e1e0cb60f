//! Crop, antialiased scaling, mirroring and colour conversion in one pass over the decoded planes.
//!
//! Note [Scaling]: the result is defined as Pillow's `resize(size, BILINEAR, box)` of each plane (`filter.rs`), then
//! the matrix to RGB (`colour.rs`), then rounding to bytes. The box of a subsampled plane is the crop divided by
//! the subsampling, fractions included: chroma counts as lying in the middle of its pixels, as libswscale has it by
//! default. Only what the crop needs is read, and no full-size RGB picture is made. Pictures whose samples are not
//! bytes in planes (10 bits, packed, palettes) go through libswscale to such a format first.

use std::iter;

use ffmpeg_next::frame::Video as Frame;

use super::colour::convert_row;
use super::columns::Columns;
use super::crop::CropBox;
use super::filter::{Axis, BLOCK, Span, scale_rows};
use super::orientation::Orientation;
use super::planes::{Plane, Planes};
use super::record;
use super::sws::Converter;
use avion_kernels::scale_planes;

/// Everything that the weights depend on.
#[derive(Clone, Copy, PartialEq)]
struct Geometry {
    /// Width and height of the first plane and of the others.
    sizes: [(usize, usize); 2],
    chroma_shift: [u32; 2],
    crop: CropBox,
    out: (usize, usize),
    mirror: (bool, bool),
}

/// Writes pictures; keeps what costs time to make.
pub struct Scaler {
    converter: Converter,
    writer: Writer,
}

#[derive(Default)]
struct Writer {
    /// Of the last few geometries: one pass over a file may serve several crops, in turns.
    weights: Vec<Weights>,
    /// A picture that is still to be transposed.
    scratch: Vec<u8>,
}

/// Geometries whose weights are kept.
const MAX_KEPT: usize = 8;

/// Weights and working memory for a geometry.
struct Weights {
    geometry: Geometry,
    /// Of the first plane and of the others.
    axes: [Axes; 2],
    /// How the columns of each are weighed, once asked for.
    columns: Option<[Columns; 2]>,
    /// `axes` for a device, once asked for; `None` where they cannot be written so.
    tables: Option<Option<[scale_planes::Axes; 2]>>,
    rows: Rows,
}

pub struct Axes {
    pub columns: Axis,
    pub rows: Axis,
}

/// What of one output row is on its way.
struct Rows {
    /// A plane's row between the vertical and the horizontal pass.
    sums: Vec<i16>,
    /// The row of each plane after both, up to a multiple of [`BLOCK`].
    scaled: [Vec<i16>; 3],
}

impl Scaler {
    pub fn new() -> Scaler {
        Scaler { converter: Converter::new(), writer: Writer::default() }
    }

    /// Writes a whole picture without scaling: see [`Converter::rgb`].
    ///
    /// # Errors
    /// The name of a pixel format that libswscale cannot read.
    pub fn whole(&mut self, frame: &Frame, orientation: Orientation, out: &mut [u8]) -> Result<(), String> {
        self.converter.rgb(frame, orientation, out)
    }

    /// Writes the part `crop` of a decoded picture, in stored coordinates, as it is shown.
    ///
    /// # Shapes
    /// - `crop`: within the frame
    /// - `out`: `[height, width, 3]` u8 RGB, after `orientation`
    ///
    /// # Errors
    /// The name of a pixel format that libswscale cannot read.
    pub fn part(
        &mut self,
        frame: &Frame,
        crop: CropBox,
        orientation: Orientation,
        width: u32,
        height: u32,
        out: &mut [u8],
    ) -> Result<(), String> {
        let planes = planes_of(&mut self.converter, frame)?;
        self.writer.part(&planes, crop, orientation, (width, height), out);
        Ok(())
    }

    /// Writes the same part as a record, from which a device makes the same bytes; finished already where the planes
    /// would not fit.
    ///
    /// # Shapes
    /// - `out`: `[record_bytes(px)]`, for a frame `[px, px, 3]`
    ///
    /// # Errors
    /// As [`Scaler::part`].
    pub fn record(
        &mut self,
        frame: &Frame,
        crop: CropBox,
        orientation: Orientation,
        px: u32,
        out: &mut [u8],
    ) -> Result<(), String> {
        let planes = planes_of(&mut self.converter, frame)?;
        if self.writer.record(&planes, crop, orientation, px, out) {
            return Ok(());
        }
        match scale_planes::finished(out, px as usize) {
            Some(pixels) => self.writer.part(&planes, crop, orientation, (px, px), pixels),
            None => unreachable!("requests are checked"),
        }
        Ok(())
    }
}

impl Writer {
    fn part(
        &mut self,
        planes: &Planes,
        crop: CropBox,
        orientation: Orientation,
        (width, height): (u32, u32),
        out: &mut [u8],
    ) {
        let (stored_w, stored_h) = orientation.turn(width, height);
        let Weights { axes, columns, rows, .. } =
            kept(&mut self.weights, Geometry::of(planes, crop, orientation, (stored_w, stored_h)));
        let columns = columns.get_or_insert_with(|| axes.each_ref().map(|axes| Columns::of(&axes.columns)));
        let row_bytes = 3 * stored_w as usize;
        if orientation.transpose {
            self.scratch.resize(row_bytes * stored_h as usize, 0);
            scale(axes, columns, planes, rows, stored_w as usize, &mut self.scratch);
            orientation.place(&self.scratch, row_bytes, out, width as usize);
        } else {
            scale(axes, columns, planes, rows, stored_w as usize, out);
        }
    }

    /// False where the device cannot make the picture, or its record has no room.
    fn record(&mut self, planes: &Planes, crop: CropBox, orientation: Orientation, px: u32, out: &mut [u8]) -> bool {
        if orientation.transpose {
            return false;
        }
        let Weights { axes, tables, .. } = kept(&mut self.weights, Geometry::of(planes, crop, orientation, (px, px)));
        let tables = tables.get_or_insert_with(|| record::tables(axes));
        tables.as_ref().is_some_and(|tables| record::write(planes, tables, px, out))
    }
}

/// The weights of a geometry, made anew if they are not among those kept.
fn kept(weights: &mut Vec<Weights>, geometry: Geometry) -> &mut Weights {
    let at = weights.iter().position(|kept| kept.geometry == geometry).unwrap_or_else(|| {
        if weights.len() == MAX_KEPT {
            weights.remove(0);
        }
        weights.push(Weights::new(geometry));
        weights.len() - 1
    });
    &mut weights[at]
}

impl Weights {
    fn new(geometry: Geometry) -> Weights {
        let axes = geometry.axes();
        let rows = Rows::new(&axes, geometry.out.0);
        Weights { geometry, axes, columns: None, tables: None, rows }
    }
}

/// The planes of a picture, converted first where its samples are not bytes in planes.
fn planes_of<'a>(converter: &'a mut Converter, frame: &'a Frame) -> Result<Planes<'a>, String> {
    match Planes::of(frame) {
        Some(planes) => Ok(planes),
        None => Planes::of(converter.planar(frame)?).ok_or_else(|| format!("{:?}", frame.format())),
    }
}

impl Geometry {
    /// For a stored picture of `out` pixels.
    fn of(planes: &Planes, crop: CropBox, orientation: Orientation, out: (u32, u32)) -> Geometry {
        let [first, second, _] = planes.planes;
        Geometry {
            sizes: [first, second].map(|plane| (plane.width, plane.height)),
            chroma_shift: planes.chroma_shift,
            crop,
            out: (out.0 as usize, out.1 as usize),
            mirror: if orientation.transpose { (false, false) } else { (orientation.flip_x, orientation.flip_y) },
        }
    }

    fn axes(&self) -> [Axes; 2] {
        let crop = self.crop;
        let axes = |(width, height): (usize, usize), [shift_x, shift_y]: [u32; 2]| {
            let part = |value: u32, shift: u32| f64::from(value) / f64::from(1 << shift);
            let span = |size, from, len, shift, out, reverse| {
                Axis::new(Span { size, from: part(from, shift), len: part(len, shift), out, reverse })
            };
            let columns = span(width, crop.x, crop.width, shift_x, self.out.0, self.mirror.0);
            let rows = span(height, crop.y, crop.height, shift_y, self.out.1, self.mirror.1);
            Axes { columns, rows }
        };
        [axes(self.sizes[0], [0, 0]), axes(self.sizes[1], self.chroma_shift)]
    }
}

impl Rows {
    fn new(axes: &[Axes; 2], width: usize) -> Rows {
        let len = axes.iter().map(|axes| axes.columns.padded_len()).max().unwrap_or(0);
        let row = || vec![0; width.next_multiple_of(BLOCK)];
        Rows { sums: vec![0; len], scaled: [row(), row(), row()] }
    }
}

fn scale(axes: &[Axes; 2], columns: &[Columns; 2], planes: &Planes, rows: &mut Rows, width: usize, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { scale_avx2(axes, columns, planes, rows, width, out) };
    }
    scale_with(axes, columns, planes, rows, width, out, Columns::scale);
}

/// The same code as for any processor, compiled for this kind.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn scale_avx2(
    axes: &[Axes; 2],
    columns: &[Columns; 2],
    planes: &Planes,
    rows: &mut Rows,
    width: usize,
    out: &mut [u8],
) {
    scale_with(axes, columns, planes, rows, width, out, |pass, columns, sums, out| pass.scale_avx2(columns, sums, out));
}

#[inline(always)]
fn scale_with(
    axes: &[Axes; 2],
    columns: &[Columns; 2],
    planes: &Planes,
    rows: &mut Rows,
    width: usize,
    out: &mut [u8],
    scale_columns: impl Fn(&Columns, &Axis, &[i16], &mut [i16]),
) {
    let Rows { sums, scaled } = rows;
    let [first, second, third] = scaled;
    for (y, out) in out.chunks_exact_mut(3 * width).enumerate() {
        let scaled = iter::once(&mut *first).chain([&mut *second, &mut *third]);
        for ((plane, scaled), of) in planes.planes.iter().zip(scaled).zip([0, 1, 1]) {
            let (axes, columns) = (&axes[of], &columns[of]);
            let Plane { samples, stride, .. } = *plane;
            scale_rows(&axes.rows, y, samples, stride, &axes.columns, sums);
            scale_columns(columns, &axes.columns, sums, scaled);
        }
        convert_row(planes.colour, [first, second, third], out);
    }
}
