//! A recipe's whole training step on made-up frames and captions: everything but decoding.

use super::io::made_up_record;
use super::kernels::{Kind, activated_rows, attention_rows, filled, peak_tflops, product};
use super::{Report, Row, time};
use crate::config::Geometry;
use crate::config::recipe::{Recipe, TaskKind};
use crate::data::loader::{ClipBatch, FrameBuffer};
use crate::data::sampler::Position;
use crate::device::DeviceError;
use crate::model::plan::{StepPlan, TowerSizes};
use crate::model::{MemoryPlan, init, specs, tower_sizes};
use crate::ops::block::Keep;
use crate::ops::tensor::float_kind;
use crate::ops::workspace::{Matrix, Workspace};
use crate::optim::Optimizer;
use crate::task::{ClassifyTask, ContrastiveTask, MaskedTask, Task};
use avion_kernels::attention::AttentionShape;
use avion_kernels::cuda::pinned::PinnedPool;
use avion_kernels::{KernelError, activation, layer_norm};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Steps timed, after [`WARM_UP`].
    pub steps: usize,
    /// Words of the made-up captions.
    pub words: usize,
    /// Clips of the whole training set, for the projection; 0 = none.
    pub dataset_clips: u64,
    /// Whether the parts are timed one by one too.
    pub parts: bool,
}

/// Steps before the first that counts: kernels are compiled, products tuned, memory settles.
pub const WARM_UP: usize = 5;

/// # Errors
/// What the device reports.
pub fn run<R: CubeRuntime>(
    recipe: &Recipe,
    dtype: DType,
    device: &R::Device,
    memory: &MemoryPlan,
    options: &StepOptions,
    free: &dyn Fn() -> Option<u64>,
) -> Result<Report, DeviceError> {
    match recipe.task {
        TaskKind::Contrastive => measure(recipe, dtype, memory, options, free, |recipe, values, plan| {
            Ok(ContrastiveTask::<R>::new(recipe, values, dtype, device, Vec::new(), Some(plan)))
        }),
        TaskKind::Masked => measure(recipe, dtype, memory, options, free, |recipe, values, plan| {
            MaskedTask::<R>::new(recipe, values, dtype, device, Vec::new(), Some(plan)).map_err(refused)
        }),
        TaskKind::Classify => measure(recipe, dtype, memory, options, free, |recipe, values, plan| {
            Ok(ClassifyTask::<R>::new(recipe, values, dtype, device, Vec::new(), Some(plan)))
        }),
    }
}

fn refused(error: KernelError) -> DeviceError {
    DeviceError::Failed { detail: error.to_string() }
}

fn measure<R: CubeRuntime, K: Task<R>>(
    recipe: &Recipe,
    dtype: DType,
    memory: &MemoryPlan,
    options: &StepOptions,
    free: &dyn Fn() -> Option<u64>,
    make: impl Fn(&Recipe, &[Vec<f32>], Arc<StepPlan>) -> Result<K, DeviceError>,
) -> Result<Report, DeviceError> {
    let free_before = free();
    let values = init::values(&specs(recipe).map_err(refused)?, recipe.seed);
    let batch = recipe.train.batch_size;
    let kind =
        float_kind(dtype).ok_or_else(|| DeviceError::Failed { detail: format!("no kernel computes in {dtype:?}") })?;
    let run = Run::<K>::of::<R>(recipe, &values, memory, options, &make)?;
    let (free_after, usage) = (free(), run.task.workspace().arena.usage());
    let towers = tower_sizes(recipe, kind, recipe.train.clips_at_once(), options.words + 2);
    let chunks = (batch as f64 / recipe.train.clips_at_once() as f64).ceil();
    let operations = 3.0 * chunks * towers.iter().map(TowerSizes::forward_operations).sum::<f64>();
    let Run { task, samples, grown } = run;
    let step = Row::new(format!("{} step, batch {batch}", recipe.name), samples);
    let clips_per_s = batch as f64 / step.median_ms * 1e3;
    let step = step.operations(operations).with("clips_per_s", clips_per_s);
    let small = operations < 1e12;
    let peak = peak_tflops(task.workspace(), small)?;
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let taken = free_before.zip(free_after).map(|(before, after)| before.saturating_sub(after));
    let taken = taken.map_or("unknown".to_owned(), |bytes| format!("{:.2} GiB", gib(bytes)));
    let mut notes = vec![
        format!("{}", memory.step),
        format!(
            "memory: {:.2} GiB predicted in all, {taken} measured at the driver; activations {:.2} GiB predicted at their \
             most, {:.2} GiB measured, {:.2} GiB to be held for them, {:.2} GiB held; {:.3} GiB grown since the warm-up",
            gib(memory.total()),
            gib(memory.step.peak),
            gib(usage.peak),
            gib(memory.step.slab),
            gib(usage.reserved),
            gib(grown),
        ),
        format!(
            "useful work {:.3} TFLOP a step (forward three times, nothing counted twice), {:.0}% of the peak of \
             {peak:.3} TFLOP/s measured here",
            operations / 1e12,
            100.0 * operations / step.median_ms / 1e9 / peak,
        ),
    ];
    if options.dataset_clips > 0 {
        let clips = options.dataset_clips as f64 * recipe.train.epochs as f64;
        notes.push(format!(
            "{}: {} epochs of {:.2} M clips in {:.1} h at this rate; the data path has to give {clips_per_s:.0} clips/s \
             (`avion bench decode`)",
            recipe.name,
            recipe.train.epochs,
            options.dataset_clips as f64 / 1e6,
            clips / clips_per_s / 3600.0,
        ));
    }
    let ws = task.workspace().clone();
    drop(task);
    let mut few = recipe.clone();
    (few.train.batch_size, few.train.micro_batch) = (2, 0);
    // Every launch of a step with next to nothing to do for the device: what is left is the host's work.
    let host = Run::<K>::of::<R>(&few, &values, memory, options, &make)?;
    let host = Row::new("the host's share: the same step with 2 clips", host.samples);
    let mut rows = vec![step, host];
    if options.parts {
        let mut parts = parts(&ws, &towers, memory, chunks)?;
        let total = |parts: &[Row]| parts.iter().map(|row| row.calls * row.median_ms).sum::<f64>();
        if recipe.task == TaskKind::Masked {
            let masking = super::masking::parts(&ws, recipe, recipe.train.clips_at_once())?;
            let masking: Vec<Row> = masking
                .into_iter()
                .map(|row| {
                    let calls = row.calls;
                    row.calls(chunks * calls)
                })
                .collect();
            notes.push(format!(
                "masks, ingest, decoder's input and output, targets and loss: {:.1}% of the step",
                100.0 * total(&masking) / rows[0].median_ms
            ));
            parts.extend(masking);
        }
        let together = total(&parts);
        rows.extend(parts);
        notes.push(format!("the parts above, timed one by one: {together:.1} ms together"));
    }
    Ok(Report { title: "training step".into(), rows, notes, ..Report::default() })
}

/// Steps done.
struct Run<K> {
    task: K,
    /// Seconds of each step after the warm-up.
    samples: Vec<f64>,
    /// Bytes of device memory that the runtime took after the warm-up.
    grown: u64,
}

impl<K> Run<K> {
    fn of<R: CubeRuntime>(
        recipe: &Recipe,
        values: &[Vec<f32>],
        memory: &MemoryPlan,
        options: &StepOptions,
        make: &impl Fn(&Recipe, &[Vec<f32>], Arc<StepPlan>) -> Result<K, DeviceError>,
    ) -> Result<Self, DeviceError>
    where
        K: Task<R>,
    {
        let mut task = make(recipe, values, memory.step.clone())?;
        let client = task.params().client.clone();
        let mut optimizer = Optimizer::new(&recipe.optim, task.params(), None, 0);
        let made_up = |number| made_up(recipe, number, options.words, &task.host_memory());
        let batches = [made_up(0)?, made_up(1)?];
        let (mut samples, mut reserved) = (Vec::new(), Vec::new());
        let mut waiting = None;
        task.prefetch(&batches[0])?;
        let mut last = Instant::now();
        for step in 0..WARM_UP + options.steps + 1 {
            let result = task.gradients(&batches[step % 2], step as u64)?;
            let stepped = optimizer.step(task.params(), 1e-5, task.gradient_factor());
            stepped.map_err(|e| DeviceError::Failed { detail: e.to_string() })?;
            task.constrain();
            let reading = client.read_async(vec![result]);
            task.prefetch(&batches[(step + 1) % 2])?;
            // As in training, a step is waited for once the next is queued.
            if let Some(before) = waiting.replace(Box::pin(reading)) {
                cubecl::future::block_on(before).map_err(DeviceError::from_server)?;
                if step > WARM_UP {
                    samples.push(last.elapsed().as_secs_f64());
                }
                last = Instant::now();
                reserved.push(client.memory_usage().map_or(0, |usage| usage.bytes_reserved));
            }
        }
        if let Some(last) = waiting.take() {
            // A result that nobody waits for would keep its memory mapped.
            cubecl::future::block_on(last).map_err(DeviceError::from_server)?;
        }
        if let Some(detail) = avion_kernels::cuda::take_failure(&client) {
            return Err(DeviceError::Failed { detail });
        }
        let settled = reserved.get(WARM_UP).copied().unwrap_or(0);
        let grown = reserved.last().copied().unwrap_or(0).saturating_sub(settled);
        Ok(Run { task, samples, grown })
    }
}

/// A batch that needs no decoding.
fn made_up(recipe: &Recipe, number: u64, words: usize, memory: &PinnedPool) -> Result<ClipBatch, DeviceError> {
    const WORDS: [&str; 8] = ["cut", "onion", "wash", "hand", "open", "drawer", "take", "knife"];
    let (clips, frames) = (recipe.train.batch_size, recipe.model.frames);
    let (px, classes) = (Geometry::of(recipe.model.size).image_px, recipe.classify.classes.max(1) as u32);
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let record = recipe.data.scale_on_device.then(|| made_up_record(px)).transpose();
    let record = record.map_err(|detail| DeviceError::Failed { detail })?;
    let frame_bytes = record.as_ref().map_or(px * px * 3, Vec::len);
    let mut bytes = memory.take(clips * frames * frame_bytes);
    match &record {
        Some(record) => bytes.chunks_exact_mut(frame_bytes).for_each(|frame| frame.copy_from_slice(record)),
        None => rng.fill(&mut bytes[..]),
    }
    let caption = |rng: &mut ChaCha8Rng| -> Arc<str> {
        let caption: Vec<&str> = (0..words).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
        caption.join(" ").into()
    };
    Ok(ClipBatch {
        frames: FrameBuffer::from(bytes),
        as_records: record.is_some(),
        captions: (0..clips).map(|_| caption(&mut rng)).collect(),
        labels: (0..clips as u32).map(|clip| clip % classes).collect(),
        samples: (0..clips as u64).collect(),
        views: vec![0; clips],
        bad: Vec::new(),
        num_frames: frames,
        size_px: px,
        position: Position { epoch: 0, batch: number },
        next: Position { epoch: 0, batch: number + 1 },
        wait: Duration::ZERO,
    })
}

/// Every kernel of the blocks at its size, with how often a step runs it.
fn parts<R: CubeRuntime>(
    ws: &Workspace<R>,
    towers: &[TowerSizes],
    memory: &MemoryPlan,
    chunks: f64,
) -> Result<Vec<Row>, DeviceError> {
    let mut rows = Vec::new();
    for (sizes, plan) in towers.iter().zip(&memory.step.towers) {
        let tower = sizes.name;
        let (count, width) = (sizes.batch * sizes.tokens, sizes.width);
        let blocks = plan.blocks.len() as f64;
        let missing = |piece: fn(&Keep) -> bool| plan.blocks.iter().filter(|k| !piece(k)).count() as f64;
        let again = [missing(|k| k.qkv), missing(|k| k.middle), missing(|k| k.hidden), 0.0];
        let layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)];
        let write_activated = !plan.blocks.iter().all(|k| k.activated);
        let keep_hidden = plan.blocks.iter().any(|k| k.hidden);
        let activated = activated_rows(ws, tower, [count, width], keep_hidden, write_activated)?;
        for ((inputs, outputs), again) in layers.into_iter().zip(again) {
            for kind in [Kind::Forward, Kind::InputGradient, Kind::WeightGradient] {
                let once = match kind {
                    Kind::Forward => outputs != 4 * width || activated.is_none(),
                    Kind::InputGradient => inputs != 4 * width || activated.is_none(),
                    Kind::WeightGradient => true,
                };
                let calls = if once { blocks } else { 0.0 } + if kind == Kind::Forward { again } else { 0.0 };
                if calls > 0.0 {
                    rows.push(product(ws, tower, [count, inputs, outputs], kind)?.calls(chunks * calls));
                }
            }
        }
        let shape = AttentionShape {
            batch: sizes.batch,
            tokens: sizes.tokens,
            heads: sizes.heads,
            head_dim: width / sizes.heads,
            causal: sizes.causal,
            kind: ws.kind,
        };
        let [forward, backward] = attention_rows(ws, shape)?;
        rows.push(forward.calls(chunks * (blocks + missing(|k| k.attended))));
        rows.push(backward.calls(chunks * blocks));
        rows.extend(norms(ws, tower, [count, width], chunks, &plan.blocks, again)?);
        let gelu = match activated {
            Some(rows) => rows,
            None => gelu_rows(ws, tower, [count, width], write_activated)?,
        };
        rows.extend(gelu.map(|row| row.calls(chunks * blocks)));
    }
    Ok(rows)
}

/// The norms.
fn norms<R: CubeRuntime>(
    ws: &Workspace<R>,
    tower: &str,
    [count, width]: [usize; 2],
    chunks: f64,
    keep: &[Keep],
    again: [f64; 4],
) -> Result<Vec<Row>, DeviceError> {
    let element = ws.kind.size() as f64;
    let unit = count as f64 * width as f64 * element;
    let blocks = keep.len() as f64;
    // What was kept need not be written again.
    let write_normed = !keep.iter().all(|k| k.normed);
    let written = |yes: bool, units: f64| if yes { units } else { 0.0 };
    let [x, dy, stream] = [(); 3].map(|()| filled(ws, count, width));
    let residue = ws.residues.then(|| filled(ws, count, width));
    let (y, stats) = (ws.matrix(count, width), ws.floats(2 * count));
    let parameters: Vec<_> = (0..5).map(|_| ws.floats(4 * width)).collect();
    let p = |i: usize| parameters[i].handle();
    for buffer in &parameters {
        avion_kernels::flat::clear(&ws.client, buffer.handle(), 4 * width);
    }
    let shape = layer_norm::NormShape { rows: count, width, kind: ws.kind, eps: 1e-6 };
    let forward = time(&ws.client, || {
        layer_norm::forward(&ws.client, &shape, x.handle(), p(0), p(1), y.handle(), stats.handle());
    })?;
    let backward = time(&ws.client, || {
        let backward = layer_norm::Backward {
            x: x.handle(),
            stats: stats.handle(),
            gain: p(0),
            bias: p(1),
            dy: dy.handle(),
            gradient: stream.handle(),
            residue: residue.as_ref().map(Matrix::handle),
            fresh: false,
            write_normed,
            d_gain: p(2),
            d_bias: p(3),
            d_sum: Some(p(4)),
        };
        layer_norm::backward(&ws.client, &shape, backward);
    })?;
    let norms = chunks * (2.0 * blocks + again[0] + again[2]);
    Ok(vec![
        Row::new(format!("{tower} LayerNorm, forward"), forward).bytes(2.0 * unit).calls(norms),
        Row::new(format!("{tower} LayerNorm, backward with residual"), backward)
            .bytes((4.0 + written(write_normed, 1.0) + written(ws.residues, 2.0)) * unit)
            .calls(chunks * 2.0 * blocks),
    ])
}

/// GELU where it is a pass of its own.
fn gelu_rows<R: CubeRuntime>(
    ws: &Workspace<R>,
    tower: &str,
    [count, width]: [usize; 2],
    write_activated: bool,
) -> Result<[Row; 2], DeviceError> {
    let unit = (count * width * ws.kind.size()) as f64;
    let (hidden, other, d_bias) = (filled(ws, count, 4 * width), filled(ws, count, 4 * width), ws.floats(4 * width));
    avion_kernels::flat::clear(&ws.client, d_bias.handle(), 4 * width);
    let gelu = activation::Activation::Gelu;
    let (a, b) = (hidden.handle(), other.handle());
    let forward = time(&ws.client, || activation::forward(&ws.client, ws.kind, gelu, a, b, hidden.len()))?;
    let backward = time(&ws.client, || {
        let d_bias = Some(d_bias.handle());
        activation::backward(&ws.client, ws.kind, gelu, count, 4 * width, a, b, d_bias, write_activated);
    })?;
    let written = if write_activated { 4.0 } else { 0.0 };
    Ok([
        Row::new(format!("{tower} GELU, forward"), forward).bytes(8.0 * unit),
        Row::new(format!("{tower} GELU, backward with bias"), backward).bytes((12.0 + written) * unit),
    ])
}
