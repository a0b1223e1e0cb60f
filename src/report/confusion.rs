//! The confusion matrix as a picture.

use super::ReportError;
use super::colour::viridis;
use super::picture::Picture;

/// Sides aim at this many pixels.
const SIDE: usize = 900;
const LARGEST_CELL: usize = 28;
/// Cells below this would vanish under grid lines.
const LEAST_CELL_WITH_GRID: usize = 5;
/// More classes than this share cells with their neighbours.
const MAX_CELLS: usize = 1000;
/// Digits are drawn with dots of so many pixels.
const DOT: usize = 2;
const PAPER: [u8; 3] = [255, 255, 255];
const GRID: [u8; 3] = [225, 228, 233];
const INK: [u8; 3] = [90, 96, 107];
/// Rows of classes without clips.
const EMPTY: [u8; 3] = [205, 209, 216];

/// Draws counts `[true class, predicted class]`: a row per true class, from the top; a column per predicted class,
/// from the left. The colour of a cell is the square root of its share of the row, as viridis: dark for none, yellow
/// for all, and a share of 4% is told from none. Rows without clips are grey. Numbers along the sides count classes.
///
/// Above 1000 classes, neighbours are summed so that as many cells remain at most.
///
/// # Errors
/// `counts` is not `[classes, classes]`, or there is no class.
pub fn draw_confusion(counts: &[u32], classes: usize) -> Result<Picture, ReportError> {
    if classes == 0 || classes.checked_mul(classes) != Some(counts.len()) {
        return Err(ReportError::BadConfusion { classes, found: counts.len() });
    }
    let merged = classes.div_ceil(MAX_CELLS);
    let cells = classes.div_ceil(merged);
    let counts = merge(counts, classes, merged);

    let cell = (SIDE / cells).clamp(1, LARGEST_CELL);
    let line = usize::from(cell >= LEAST_CELL_WITH_GRID);
    let pitch = cell + line;
    let digits = classes.to_string().len();
    let (left, top) = (digits * 4 * DOT + 4 * DOT, 5 * DOT + 5 * DOT);
    let span = cells * pitch + line;
    let margin = digits * 2 * DOT + DOT; // half a number may stand out on the right
    let mut picture = Picture::filled(left + span + margin, top + span + 3 * DOT, PAPER)?;
    picture.fill(left, top, span, span, GRID);
    for (row, counts) in counts.chunks_exact(cells).enumerate() {
        let clips: u64 = counts.iter().sum();
        for (column, &count) in counts.iter().enumerate() {
            let colour = match clips {
                0 => EMPTY,
                clips => viridis((count as f64 / clips as f64).sqrt() as f32),
            };
            picture.fill(left + line + column * pitch, top + line + row * pitch, cell, cell, colour);
        }
    }
    let every = tick_step(pitch, merged, digits);
    for class in (0..classes).step_by(every) {
        let middle = line + class / merged * pitch + cell / 2;
        let text = class.to_string();
        let length = (text.len() * 4 - 1) * DOT;
        let x = (left + middle).saturating_sub(length / 2);
        write_number(&mut picture, &text, x, DOT);
        picture.fill(left + middle, top - 2 * DOT, 1, 2 * DOT - 1, INK);
        write_number(&mut picture, &text, left - 3 * DOT - length, (top + middle).saturating_sub(5 * DOT / 2));
        picture.fill(left - 2 * DOT, top + middle, 2 * DOT - 1, 1, INK);
    }
    Ok(picture)
}

/// Sums of blocks of `merged` x `merged` counts.
fn merge(counts: &[u32], classes: usize, merged: usize) -> Vec<u64> {
    let cells = classes.div_ceil(merged);
    let mut sums = vec![0; cells * cells];
    for (row, counts) in counts.chunks_exact(classes).enumerate() {
        for (column, &count) in counts.iter().enumerate() {
            sums[row / merged * cells + column / merged] += u64::from(count);
        }
    }
    sums
}

/// Classes from one number to the next, round, so that numbers do not touch.
fn tick_step(pitch: usize, merged: usize, digits: usize) -> usize {
    let room = (digits * 4 + 6) * DOT;
    let decades = (0..).map(|decade| 10usize.pow(decade));
    decades.flat_map(|ten| [ten, 2 * ten, 5 * ten]).find(|step| step / merged * pitch >= room).unwrap_or(usize::MAX)
}

/// Rows of three dots, from the top; bit 2 is the left one.
const DIGITS: [[u8; 5]; 10] = [
    [0b111, 0b101, 0b101, 0b101, 0b111],
    [0b010, 0b110, 0b010, 0b010, 0b111],
    [0b111, 0b001, 0b111, 0b100, 0b111],
    [0b111, 0b001, 0b111, 0b001, 0b111],
    [0b101, 0b101, 0b111, 0b001, 0b001],
    [0b111, 0b100, 0b111, 0b001, 0b111],
    [0b111, 0b100, 0b111, 0b101, 0b111],
    [0b111, 0b001, 0b010, 0b010, 0b010],
    [0b111, 0b101, 0b111, 0b101, 0b111],
    [0b111, 0b101, 0b111, 0b001, 0b111],
];

/// Writes decimal digits, the first at `(x, y)`.
fn write_number(picture: &mut Picture, digits: &str, x: usize, y: usize) {
    for (place, digit) in digits.bytes().filter(u8::is_ascii_digit).enumerate() {
        for (row, dots) in DIGITS[usize::from(digit - b'0')].iter().enumerate() {
            for column in (0..3).filter(|column| dots >> (2 - column) & 1 == 1) {
                picture.fill(x + (place * 4 + column) * DOT, y + row * DOT, DOT, DOT, INK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(picture: &Picture, colour: [u8; 3]) -> usize {
        picture.rgb.chunks(3).filter(|&pixel| pixel == colour).count()
    }

    #[test]
    fn cells_have_the_colour_of_their_share() {
        // Class 0 always right; class 1 a quarter; class 2 has no clips.
        let picture = draw_confusion(&[5, 0, 0, 3, 1, 0, 0, 0, 0], 3).unwrap();
        let cell = LARGEST_CELL * LARGEST_CELL;
        assert_eq!(has(&picture, viridis(1.0)), cell);
        assert_eq!(has(&picture, viridis(0.5)), cell);
        assert_eq!(has(&picture, viridis(0.75f32.sqrt())), cell);
        assert_eq!(has(&picture, viridis(0.0)), 3 * cell);
        assert_eq!(has(&picture, EMPTY), 3 * cell);
        assert!(has(&picture, INK) > 100, "numbers along the sides");
        // The first cell is at the top left.
        let first = picture.rgb.chunks(3).position(|pixel| pixel == viridis(1.0)).unwrap();
        let dark = picture.rgb.chunks(3).position(|pixel| pixel == viridis(0.0)).unwrap();
        assert_eq!(dark, first + LARGEST_CELL + 1);
    }

    #[test]
    fn many_classes_fit_and_more_share_cells() {
        for classes in [1, 7, 97, 400, 1000, 2001] {
            let mut counts = vec![0; classes * classes];
            (0..classes).for_each(|class| counts[class * classes + class] = 1);
            let picture = draw_confusion(&counts, classes).unwrap();
            assert!(picture.width <= 1100 && picture.height <= 1100, "{classes}: {}", picture.width);
            assert!(has(&picture, viridis(1.0)) > 0);
        }
        assert_eq!(merge(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 3, 2), [12, 9, 15, 9]);
        assert!(draw_confusion(&[0; 5], 2).unwrap_err().to_string().contains("5 entries"));
        assert!(draw_confusion(&[], 0).is_err());
    }

    #[test]
    fn numbers_do_not_touch() {
        for (pitch, merged, digits) in [(29, 1, 1), (9, 1, 3), (2, 1, 3), (1, 2, 4)] {
            let step = tick_step(pitch, merged, digits);
            assert!(step / merged * pitch > digits * 4 * DOT, "{pitch} {merged} {digits}: {step}");
        }
    }
}
