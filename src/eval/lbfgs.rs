//! L-BFGS: finds the least value of a smooth convex function without hyper-parameters to tune.
//!
//! Two-loop recursion and scaling of the first estimate: Nocedal and Wright, *Numerical Optimization*, 2nd edition,
//! algorithms 7.4 and 7.5, equation 7.20; backtracking until Armijo's condition holds: algorithm 3.1.

use std::collections::VecDeque;

/// Past steps that the curvature is estimated from.
const MEMORY: usize = 10;
/// Share of the decrease that the slope promises which a step must keep.
const ARMIJO: f64 = 1e-4;
/// Halvings of a step before giving up; then rounding hides any further decrease.
const HALVINGS: usize = 30;
/// A decrease relative to the value that is not worth another step.
const LEAST_DECREASE: f64 = 1e-9;

/// Where a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Minimum {
    pub value: f64,
    pub iterations: usize,
    /// False when the iterations ran out first.
    pub converged: bool,
}

/// Moves `x` to where `value_and_gradient(x, gradient)` is least. Ends when no entry of the gradient is above
/// `tolerance`, when a step gains nothing any more, or after `max_iterations`.
pub fn minimise(
    x: &mut [f64],
    max_iterations: usize,
    tolerance: f64,
    mut value_and_gradient: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Minimum {
    let n = x.len();
    let mut gradient = vec![0.0; n];
    let mut value = value_and_gradient(x, &mut gradient);
    let mut history: VecDeque<Step> = VecDeque::with_capacity(MEMORY);
    let (mut trial, mut trial_gradient) = (vec![0.0; n], vec![0.0; n]);
    for iterations in 0..max_iterations {
        let done = |value| Minimum { value, iterations, converged: true };
        if gradient.iter().all(|g| g.abs() <= tolerance) {
            return done(value);
        }
        let direction = descent_direction(&gradient, &history);
        let slope = dot(&direction, &gradient);
        // Without history the direction is the gradient: its length says nothing about how far to go.
        let mut length = if history.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let mut accepted = None;
        for _ in 0..HALVINGS {
            for ((trial, x), direction) in trial.iter_mut().zip(&*x).zip(&direction) {
                *trial = x + length * direction;
            }
            let reached = value_and_gradient(&trial, &mut trial_gradient);
            // A value that is not finite fails the comparison and shortens the step.
            if reached <= value + ARMIJO * length * slope {
                accepted = Some(reached);
                break;
            }
            length /= 2.0;
        }
        let Some(reached) = accepted else {
            if history.is_empty() {
                return done(value);
            }
            history.clear(); // rounding spoiled it: from here along the gradient
            continue;
        };
        history.truncate(MEMORY - 1);
        history.push_front(Step::new(&trial, x, &trial_gradient, &gradient));
        if history[0].curvature <= 0.0 {
            history.pop_front(); // rounding; a convex function has none
        }
        let decrease = value - reached;
        value = reached;
        x.copy_from_slice(&trial);
        std::mem::swap(&mut gradient, &mut trial_gradient);
        if decrease <= LEAST_DECREASE * value.abs().max(1e-3) {
            return Minimum { value, iterations: iterations + 1, converged: true };
        }
    }
    Minimum { value, iterations: max_iterations, converged: false }
}

/// A step that was made and how the gradient changed along it.
struct Step {
    moved: Vec<f64>,
    change: Vec<f64>,
    /// `moved . change`
    curvature: f64,
}

impl Step {
    fn new(to: &[f64], from: &[f64], gradient_to: &[f64], gradient_from: &[f64]) -> Self {
        let difference = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let (moved, change) = (difference(to, from), difference(gradient_to, gradient_from));
        let curvature = dot(&moved, &change);
        Self { moved, change, curvature }
    }
}

/// Minus the gradient times the estimated inverse of the second derivatives; `history` has the latest step first.
fn descent_direction(gradient: &[f64], history: &VecDeque<Step>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = [0.0; MEMORY];
    for (step, share) in history.iter().zip(&mut shares) {
        *share = dot(&step.moved, &q) / step.curvature;
        add(&mut q, -*share, &step.change);
    }
    if let Some(latest) = history.front() {
        let scale = latest.curvature / dot(&latest.change, &latest.change);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (step, share) in history.iter().zip(shares).rev() {
        let back = dot(&step.change, &q) / step.curvature;
        add(&mut q, share - back, &step.moved);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bowl 10,000 times steeper one way than another: steepest descent would need tens of thousands of steps.
    #[test]
    fn finds_the_bottom_of_a_narrow_bowl() {
        let n = 40;
        let steepness = |i: usize| 10f64.powf(4.0 * i as f64 / (n - 1) as f64);
        let mut x = vec![1.0; n];
        let found = minimise(&mut x, 1000, 1e-9, |x, gradient| {
            let mut value = 3.0;
            for i in 0..n {
                let off = x[i] - i as f64 / 10.0;
                value += steepness(i) * off * off / 2.0;
                gradient[i] = steepness(i) * off;
            }
            value
        });
        assert!(found.converged && found.iterations < 500, "{found:?}");
        assert!((found.value - 3.0).abs() < 1e-6, "{found:?}");
        for (i, x) in x.iter().enumerate() {
            assert!((x - i as f64 / 10.0).abs() < 2e-3, "{i}: {x}");
        }
    }

    /// ln(cosh) is flat far out: a full step from there overshoots, so backtracking must work.
    #[test]
    fn backtracks_and_says_when_it_ran_out() {
        let logcosh = |x: &[f64], gradient: &mut [f64]| {
            gradient[0] = x[0].tanh();
            x[0].abs() + (-2.0 * x[0].abs()).exp().ln_1p()
        };
        let mut x = [30.0];
        let found = minimise(&mut x, 100, 1e-8, logcosh);
        assert!(found.converged && x[0].abs() < 1e-3, "{found:?} {x:?}");
        let mut x = [30.0];
        let found = minimise(&mut x, 2, 1e-8, logcosh);
        assert!(!found.converged && found.iterations == 2 && x[0] < 30.0, "{found:?}");
    }
}
