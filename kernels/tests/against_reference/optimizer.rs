//! Passes over flat buffers, the gradient norm and the update rules.

use crate::support::{Client, assert_close, client, has_f16, read_f16, read_f32, upload, upload_f16, values};
use avion_kernels::{
    FloatKind, Handle, flat,
    grad_norm::{self, STATS_LEN},
    optimizer::{
        BLOCK, OptimizerBuffers, TREATMENTS,
        adamw::{self, AdamwStep},
        lion::{self, LionStep},
        sgd::{self, SgdStep},
    },
};
use half::f16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn clear_and_cast_touch_exactly_their_range() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(5));
    for len in [1, 255, 257, 1024, 70_001] {
        let a = values(&mut rng, len + 3);
        let dst = upload(&client, &a);
        flat::clear(&client, &dst, len);
        let got = read_f32(&client, dst.clone());
        assert!(got[..len].iter().all(|v| *v == 0.0) && got[len..] == a[len..], "clear of {len}");
        flat::cast(&client, &upload(&client, &a), &dst, FloatKind::F32, len);
        assert_eq!(read_f32(&client, dst)[..len], a[..len]);
    }
}

#[test]
fn accumulate_adds_f32_and_f16() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(1));
    for len in [1, 77, 256, 785, 100_003, 100_004] {
        let (a, b) = (values(&mut rng, len), values(&mut rng, len));
        let dst = upload(&client, &a);
        flat::accumulate(&client, &upload(&client, &b), FloatKind::F32, &dst, len);
        let expected: Vec<f64> = a.iter().zip(&b).map(|(x, y)| *x as f64 + *y as f64).collect();
        assert_close("accumulate f32", &read_f32(&client, dst.clone()), &expected, 1e-7);

        if has_f16(&client) {
            let src = upload_f16(&client, &b);
            flat::accumulate(&client, &src, FloatKind::F16, &dst, len);
            let twice: Vec<f64> = expected.iter().zip(&b).map(|(x, y)| x + f16::from_f32(*y).to_f64()).collect();
            assert_close("accumulate f16", &read_f32(&client, dst), &twice, 1e-7);
        }
    }
}

#[test]
fn grad_norm_clips_and_flags() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(2));
    for (len, factor, max_norm) in
        [(1, 1.0, 0.0), (77, 0.5, 1.0), (784, 1.0, 1e9), (300_001, 0.25, 2.0), (1 << 20, 1.0, 0.5)]
    {
        let g = values(&mut rng, len);
        let stats = upload(&client, &[0.0; STATS_LEN]);
        grad_norm::grad_norm(&client, &upload(&client, &g), len, factor, max_norm, BETAS, &stats);
        let (norm, scale, finite) = grad_norm::reference(&g, factor as f64, max_norm as f64);
        let got = read_f32(&client, stats);
        assert_close("norm", &got[..1], &[norm], 1e-5);
        assert_close("scale", &got[1..2], &[scale], 1e-5);
        assert_eq!(got[2] == 1.0, finite);
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut g = values(&mut rng, 1000);
        g[613] = bad;
        let stats = upload(&client, &[0.0; STATS_LEN]);
        grad_norm::grad_norm(&client, &upload(&client, &g), 1000, 1.0, 1.0, BETAS, &stats);
        assert_eq!(read_f32(&client, stats)[2], 0.0, "{bad} must clear the finite flag");
    }
}

/// Bias corrections near 0, where `1 - beta^t` would cancel, and near 1; steps that are not finite do not count.
#[test]
fn updates_are_counted_and_their_bias_corrections_are_exact() {
    let client = client();
    let g = upload(&client, &[1.0f32; 8]);
    let bad = upload(&client, &[f32::NAN; 8]);
    let stats = upload(&client, &[0.0; STATS_LEN]);
    for update in 1..=60 {
        grad_norm::grad_norm(&client, &bad, 8, 1.0, 0.0, BETAS, &stats);
        grad_norm::grad_norm(&client, &g, 8, 1.0, 0.0, BETAS, &stats);
        let got = read_f32(&client, stats.clone());
        let bias = |beta: f64| 1.0 - beta.powi(update);
        assert_eq!(got[3], update as f32);
        assert_close("bias 1", &got[4..5], &[bias(BETAS[0])], 1e-6);
        assert_close("bias 2", &got[5..6], &[bias(BETAS[1]).sqrt()], 1e-6);
    }
}

/// Of the moments.
const BETAS: [f64; 2] = [0.9, 0.999];
/// Learning-rate factor and decay of the groups that blocks take turns in.
const GROUPS: [[f32; 2]; 3] = [[1.0, 0.01], [0.1, 0.0], [0.0, 0.0]];
/// What every gradient is multiplied by.
const FACTOR: f32 = 0.5;
const STEPS: u32 = 3;

/// Weights and state on the device and in f64, updated side by side.
struct Trial {
    client: Client,
    rng: ChaCha8Rng,
    params: Handle,
    state: Vec<Handle>,
    copy: Option<(Handle, FloatKind)>,
    /// Weight and state of each element, and whether rounding may have decided a sign.
    expected: Vec<([f64; 3], bool)>,
    blocks: usize,
    /// Updates so far, this one included: sets AdamW's bias corrections.
    updates: i32,
}

impl Trial {
    fn new(seed: u64, blocks: usize, states: usize) -> Self {
        let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(seed));
        let weights = values(&mut rng, blocks * BLOCK);
        let zeros = vec![0.0f32; blocks * BLOCK];
        Trial {
            params: upload(&client, &weights),
            state: (0..states).map(|_| upload(&client, &zeros)).collect(),
            copy: has_f16(&client).then(|| (client.empty(blocks * BLOCK * 2), FloatKind::F16)),
            expected: weights.iter().map(|w| ([f64::from(*w), 0.0, 0.0], false)).collect(),
            client,
            rng,
            blocks,
            updates: 1,
        }
    }

    /// `clear`: whether a block's gradients are to be cleared.
    fn buffers(&self, grads: &Handle, finite: bool, clear: fn(usize) -> bool) -> OptimizerBuffers {
        let treatment = |block: usize| [GROUPS[block % 3][0], GROUPS[block % 3][1], f32::from(clear(block)), f32::NAN];
        let treatment: Vec<f32> = (0..self.blocks).flat_map(treatment).collect();
        let bias = |beta: f64| 1.0 - beta.powi(self.updates);
        let corrections = [bias(0.9) as f32, bias(0.999).sqrt() as f32];
        let stats = [1.0, FACTOR, f32::from(finite), self.updates as f32, corrections[0], corrections[1]];
        OptimizerBuffers {
            params: self.params.clone(),
            grads: grads.clone(),
            state: self.state.clone(),
            treatment: upload(&self.client, &treatment),
            stats: upload(&self.client, &stats),
            copy: self.copy.clone(),
            len: self.blocks * BLOCK,
        }
    }

    /// Steps the device by `update` and the reference by `element(weight and state, g, lr factor, decay)`.
    fn step(
        &mut self,
        update: impl Fn(&Client, &OptimizerBuffers),
        element: impl Fn([f64; 3], f64, f64, f64) -> ([f64; 3], bool),
    ) {
        let g = values(&mut self.rng, self.blocks * BLOCK);
        let grads = upload(&self.client, &g);
        // A step that must change nothing, then the real one, then one that only clears.
        update(&self.client, &self.buffers(&grads, false, |_| false));
        assert_eq!(read_f32(&self.client, grads.clone()), g, "gradients are kept when nobody clears them");
        update(&self.client, &self.buffers(&grads, true, |block| block % 2 == 1));
        let kept = |(i, g): (usize, &f32)| if i / BLOCK % 2 == 1 { 0.0 } else { *g };
        let kept: Vec<f32> = g.iter().enumerate().map(kept).collect();
        assert_eq!(read_f32(&self.client, grads.clone()), kept, "gradients are cleared in the blocks that ask for it");
        update(&self.client, &self.buffers(&grads, false, |block| block % 2 == 0));
        assert!(read_f32(&self.client, grads).iter().all(|v| *v == 0.0), "gradients are cleared when asked");
        for (i, (now, noise)) in self.expected.iter_mut().enumerate() {
            let [lr, decay] = GROUPS[i / BLOCK % 3].map(f64::from);
            let (next, unsure) = element(*now, f64::from(g[i] * FACTOR), lr, decay);
            (*now, *noise) = (next, *noise || unsure);
        }
    }

    fn check(&self, name: &str, tolerance: f64) {
        let sure = |at: usize| !self.expected[at].1;
        let compare = |what: &str, got: Vec<f32>, part: usize, tolerance: f64| {
            let (got, expected): (Vec<f32>, Vec<f64>) =
                (0..got.len()).filter(|at| sure(*at)).map(|at| (got[at], self.expected[at].0[part])).unzip();
            assert!(got.len() * 100 > self.blocks * BLOCK * 99, "almost every element is compared");
            assert_close(&format!("{name} {what}"), &got, &expected, tolerance);
        };
        compare("weights", read_f32(&self.client, self.params.clone()), 0, tolerance);
        for (part, state) in self.state.iter().enumerate() {
            compare("state", read_f32(&self.client, state.clone()), part + 1, tolerance);
        }
        if let Some((copy, _)) = &self.copy {
            compare("copy", read_f16(&self.client, copy.clone()), 0, 1e-3);
        }
    }
}

#[test]
fn adamw_matches_reference_over_steps_and_groups() {
    for blocks in [1, 3, 131] {
        let mut trial = Trial::new(3, blocks, 2);
        for step in 1..=STEPS {
            let numbers = AdamwStep { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
            trial.updates = step as i32;
            trial.step(
                |client, buffers| adamw::adamw(client, buffers, numbers).unwrap(),
                |[p, m, v], g, lr, decay| {
                    let lr = f64::from(numbers.lr) * lr;
                    let (p, m, v) = adamw::reference(p, g, m, v, [lr, decay], &numbers, step as i32);
                    ([p, m, v], false)
                },
            );
        }
        trial.check("adamw", 1e-6);
    }
}

#[test]
fn lion_matches_reference_over_steps_and_groups() {
    for blocks in [1, 5, 66] {
        let mut trial = Trial::new(4, blocks, 1);
        let numbers = LionStep { lr: 3e-3, beta1: 0.9, beta2: 0.99 };
        for _ in 0..STEPS {
            trial.step(
                |client, buffers| lion::lion(client, buffers, numbers).unwrap(),
                |[p, m, _], g, lr, decay| {
                    let (p, m, direction) = lion::reference(p, g, m, f64::from(numbers.lr) * lr, decay, &numbers);
                    ([p, m, 0.0], direction.abs() < 1e-7)
                },
            );
        }
        trial.check("lion", 1e-6);
    }
}

#[test]
fn lion_leaves_a_weight_without_gradient_alone() {
    let trial = Trial::new(8, 1, 1);
    let grads = upload(&trial.client, &[0.0; BLOCK]);
    let treatment = upload(&trial.client, &[1.0, 0.0, 0.0, 0.0]);
    let buffers = OptimizerBuffers { treatment, ..trial.buffers(&grads, true, |_| false) };
    let before = read_f32(&trial.client, trial.params.clone());
    lion::lion(&trial.client, &buffers, LionStep { lr: 0.1, beta1: 0.9, beta2: 0.99 }).unwrap();
    assert_eq!(read_f32(&trial.client, trial.params.clone()), before);
}

#[test]
fn sgd_matches_reference_with_and_without_momentum() {
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        let numbers = SgdStep { lr: 0.1, momentum, nesterov };
        let mut trial = Trial::new(5, 7, numbers.states());
        for _ in 0..STEPS {
            trial.step(
                |client, buffers| sgd::sgd(client, buffers, numbers).unwrap(),
                |[p, b, _], g, lr, decay| {
                    let (p, b) = sgd::reference(p, g, b, f64::from(numbers.lr) * lr, decay, &numbers);
                    ([p, b, 0.0], false)
                },
            );
        }
        trial.check(&format!("sgd {momentum} {nesterov}"), 1e-6);
    }
}

/// Numbers by hand, so that the reference itself is checked: three steps of `torch.optim.SGD(lr=0.1, momentum=0.9,
/// weight_decay=0.5)` from 1 with gradients 1, 1, 0, then with Nesterov's momentum.
#[test]
fn sgd_reference_is_torchs() {
    for (nesterov, expected) in [(false, [0.85, 0.5725, 0.294125]), (true, [0.715, 0.335575, 0.0])] {
        let step = SgdStep { lr: 0.1, momentum: 0.9, nesterov };
        let (mut p, mut b) = (1.0, 0.0);
        for (i, g) in [1.0, 1.0, 0.0].into_iter().enumerate().take(if nesterov { 2 } else { 3 }) {
            (p, b) = sgd::reference(p, g, b, 0.1, 0.5, &step);
            assert!((p - expected[i]).abs() < 1e-7, "nesterov {nesterov}, step {i}: {p}");
        }
    }
}

#[test]
fn optimizers_refuse_a_ragged_length_and_missing_state_or_treatment() {
    let trial = Trial::new(6, 1, 2);
    let buffers = || trial.buffers(&trial.params, true, |_| false);
    let step = AdamwStep { lr: 0.0, beta1: 0.9, beta2: 0.9, eps: 1e-8 };
    let ragged = OptimizerBuffers { len: 255, ..buffers() };
    let error = adamw::adamw(&trial.client, &ragged, step).unwrap_err().to_string();
    assert!(error.contains("multiple of 256") && error.contains("255"), "{error}");
    let treatment = upload(&trial.client, &[1.0; TREATMENTS - 1]);
    let untreated = OptimizerBuffers { treatment, ..buffers() };
    let error = adamw::adamw(&trial.client, &untreated, step).unwrap_err().to_string();
    assert!(error.contains("treatment: expected at least 4 values, got 3"), "{error}");
    let lion = LionStep { lr: 0.0, beta1: 0.9, beta2: 0.99 };
    let error = lion::lion(&trial.client, &buffers(), lion).unwrap_err().to_string();
    assert!(error.contains("lion: state buffers: expected 1, got 2"), "{error}");
    let sgd = SgdStep { lr: 0.0, momentum: 0.0, nesterov: false };
    let error = sgd::sgd(&trial.client, &buffers(), sgd).unwrap_err().to_string();
    assert!(error.contains("expected 0, got 2"), "{error}");
}
