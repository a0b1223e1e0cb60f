//! The learning rate of every step.

use crate::config::recipe::{OptimConfig, Schedule};
use std::f64::consts::PI;

/// Learning rate by optimizer step, counted from 0.
///
/// The cosine is AVION's: warm-up over `W` epochs is `linspace(warmup_lr, lr, W * steps_per_epoch)`, both ends
/// included; then for `i = 0..N-1`, `end + (lr - end) / 2 * (1 + cos(pi i / N))`.
/// Source: AVION `utils/misc.py`, `cosine_scheduler`.
#[derive(Debug, Clone, PartialEq)]
pub struct LrSchedule {
    kind: Schedule,
    lr: f64,
    warmup_lr: f64,
    end_lr: f64,
    warmup_steps: u64,
    total_steps: u64,
}

impl LrSchedule {
    pub fn new(optim: &OptimConfig, steps_per_epoch: u64, epochs: u64) -> Self {
        LrSchedule {
            kind: optim.schedule,
            lr: optim.lr,
            warmup_lr: optim.warmup_lr,
            end_lr: optim.end_lr,
            warmup_steps: (optim.warmup_epochs * steps_per_epoch as f64) as u64,
            total_steps: steps_per_epoch * epochs,
        }
    }

    /// Steps the schedule spans.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Learning rate of step `step`; past the end, that of the last step.
    pub fn lr(&self, step: u64) -> f64 {
        if self.kind == Schedule::Fixed {
            return self.lr;
        }
        let step = step.min(self.total_steps.saturating_sub(1));
        if step < self.warmup_steps {
            let intervals = (self.warmup_steps - 1).max(1) as f64;
            return self.warmup_lr + (self.lr - self.warmup_lr) * step as f64 / intervals;
        }
        let decay_steps = (self.total_steps - self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / decay_steps;
        self.end_lr + 0.5 * (self.lr - self.end_lr) * (1.0 + (PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AVION's own values, by the fixture script and by SEEDS.
    #[test]
    fn cosine_equals_avions() {
        let text = include_str!("../../tests/fixtures/clip/schedule.json");
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        let schedules = json["schedules"].as_array().unwrap();
        assert!(schedules.len() >= 3);
        for case in schedules {
            let number = |key: &str| case[key].as_f64().unwrap();
            let optim = OptimConfig {
                lr: number("lr"),
                end_lr: number("end_lr"),
                warmup_lr: number("warmup_lr"),
                warmup_epochs: number("warmup_epochs"),
                schedule: Schedule::Cosine,
                ..OptimConfig::default()
            };
            let schedule = LrSchedule::new(&optim, number("iterations_per_epoch") as u64, number("epochs") as u64);
            let values = case["values"].as_array().unwrap();
            assert_eq!(values.len() as u64, schedule.total_steps());
            for (step, value) in values.iter().enumerate() {
                let (got, expected) = (schedule.lr(step as u64), value.as_f64().unwrap());
                assert!((got - expected).abs() <= 1e-12 + 1e-9 * expected, "step {step}: {got} {expected}");
            }
        }
    }

    #[test]
    fn fixed_is_fixed_and_the_end_holds() {
        let fixed = LrSchedule::new(&OptimConfig { lr: 3e-5, ..OptimConfig::default() }, 10, 2);
        assert_eq!([fixed.lr(0), fixed.lr(19), fixed.lr(1000)], [3e-5; 3]);
        let optim = OptimConfig { schedule: Schedule::Cosine, warmup_epochs: 0.0, ..OptimConfig::default() };
        let cosine = LrSchedule::new(&optim, 10, 2);
        assert!((cosine.lr(0) - optim.lr).abs() < 1e-12);
        assert_eq!(cosine.lr(19), cosine.lr(500));
    }
}
