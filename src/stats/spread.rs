//! Numbers, summed up.

use serde::Serialize;

/// How numbers are distributed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub count: u64,
    pub min: f64,
    pub median: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    pub max: f64,
    pub mean: f64,
    /// Side by side, rising; the last one holds all that is larger, too.
    pub bins: Vec<Bin>,
}

/// How many numbers lie in `[from, to)`, in the last bin `[from, to]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub from: f64,
    pub to: f64,
    pub count: u64,
}

const BINS: usize = 24;

impl Spread {
    /// Of the finite values; `None` when there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
        let mut spread = Self {
            count: values.len() as u64,
            min,
            median: at(0.5),
            p95: at(0.95),
            max,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            bins: Vec::new(),
        };
        // A few far away would leave one bar for all others.
        let top = if max - min > 3.0 * (at(0.99) - min) { at(0.99) } else { max };
        // Whole numbers of few kinds get a bin each.
        let whole = values.iter().all(|value| value.fract() == 0.0) && top - min < BINS as f64;
        let (width, bins) = match top - min {
            0.0 => (min.abs().max(1.0) / 10.0, 1),
            span if whole => (1.0, span as usize + 1),
            span => (span / BINS as f64, BINS),
        };
        spread.bins = (0..bins)
            .map(|bin| {
                let [from, to] = [bin, bin + 1].map(|edge| min + edge as f64 * width);
                let end = if bin + 1 == bins { values.len() } else { values.partition_point(|value| *value < to) };
                Bin { from, to, count: (end - values.partition_point(|value| *value < from)) as u64 }
            })
            .collect();
        Some(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_one_bin() {
        for values in [
            vec![3.0],
            vec![2.0; 7],
            (0..1000).map(f64::from).collect(),
            (0..100).map(|i| f64::from(i) / 7.0).chain([1e6]).collect(),
            vec![1.0, 2.0, 2.0, 5.0],
        ] {
            let spread = Spread::of(values.clone()).unwrap();
            assert_eq!(spread.bins.iter().map(|bin| bin.count).sum::<u64>(), values.len() as u64, "{spread:?}");
            assert!(spread.bins.windows(2).all(|pair| (pair[0].to - pair[1].from).abs() < 1e-9));
        }
        let spread = Spread::of(vec![1.0, 2.0, 2.0, 5.0, f64::NAN, f64::INFINITY]).unwrap();
        assert_eq!((spread.count, spread.min, spread.median, spread.max, spread.mean), (4, 1.0, 2.0, 5.0, 2.5));
        assert_eq!(spread.bins.iter().map(|bin| bin.count).collect::<Vec<_>>(), [1, 2, 0, 0, 1]);
        assert_eq!(Spread::of(vec![f64::NAN]), None);
    }

    #[test]
    fn a_few_far_away_do_not_flatten_the_rest() {
        let values = (0..1000).map(|i| f64::from(i) / 100.0).chain([1e6]).collect();
        let spread = Spread::of(values).unwrap();
        assert!(spread.bins.last().unwrap().to < 11.0 && spread.max == 1e6);
    }
}
