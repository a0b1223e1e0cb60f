//! The whole in f64.

/// What [`reference`] computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub loss: f64,
    /// Share of rows whose own logit no other exceeds.
    pub accuracy: f64,
    /// `[n, n]`, the gradient of the products.
    pub d_products: Vec<f64>,
    pub d_logit_scale: f64,
}

/// Loss and gradients from the products `[n, n]` and the logarithm of the scale.
pub fn reference(products: &[f32], logit_scale: f64, n: usize) -> Reference {
    let scale = logit_scale.exp();
    let logit = |row: usize, column: usize| scale * f64::from(products[row * n + column]);
    let log_sum_exp = |values: &[f64]| {
        let top = values.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        top + values.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
    };
    let rows: Vec<Vec<f64>> = (0..n).map(|r| (0..n).map(|c| logit(r, c)).collect()).collect();
    let columns: Vec<Vec<f64>> = (0..n).map(|c| (0..n).map(|r| logit(r, c)).collect()).collect();
    let row_lse: Vec<f64> = rows.iter().map(|row| log_sum_exp(row)).collect();
    let column_lse: Vec<f64> = columns.iter().map(|column| log_sum_exp(column)).collect();
    let count = n as f64;
    let loss = (0..n).map(|i| row_lse[i] + column_lse[i] - 2.0 * rows[i][i]).sum::<f64>() / (2.0 * count);
    let hits = (0..n).filter(|&i| rows[i].iter().all(|other| *other <= rows[i][i])).count();
    let (mut d_products, mut d_logit_scale) = (Vec::with_capacity(n * n), 0.0);
    for (r, row) in rows.iter().enumerate() {
        for (c, logit) in row.iter().enumerate() {
            let target = if r == c { 2.0 } else { 0.0 };
            let d = ((logit - row_lse[r]).exp() + (logit - column_lse[c]).exp() - target) / (2.0 * count);
            d_logit_scale += d * logit;
            d_products.push(d * scale);
        }
    }
    Reference { loss, accuracy: hits as f64 / count, d_products, d_logit_scale }
}
