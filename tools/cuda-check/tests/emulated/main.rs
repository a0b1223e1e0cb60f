//! The tests of `kernels/tests/against_reference`, on an emulated CUDA device: warps of 32, tensor cores, asynchronous
//! copies. They cover the kernels that software Vulkan has no features for. A new module of tests needs two lines here.

mod device;
mod faults;

#[path = "../../../../kernels/tests/against_reference/activation.rs"]
mod activation;
#[path = "../../../../kernels/tests/against_reference/attention.rs"]
mod attention;
#[path = "../../../../kernels/tests/against_reference/classifier.rs"]
mod classifier;
#[path = "../../../../kernels/tests/against_reference/contrastive.rs"]
mod contrastive;
#[path = "../../../../kernels/tests/against_reference/embedding.rs"]
mod embedding;
#[path = "../../../../kernels/tests/against_reference/layer_norm.rs"]
mod layer_norm;
#[path = "../../../../kernels/tests/against_reference/masking.rs"]
mod masking;
#[path = "../../../../kernels/tests/against_reference/optimizer.rs"]
mod optimizer;
#[path = "../../../../kernels/tests/against_reference/pixel_loss.rs"]
mod pixel_loss;
#[path = "../../../../kernels/tests/against_reference/pooled.rs"]
mod pooled;
#[path = "../../../../kernels/tests/against_reference/residual.rs"]
mod residual;
#[path = "../../../../kernels/tests/against_reference/rows.rs"]
mod rows;
#[path = "../../../../kernels/tests/against_reference/scale_planes.rs"]
mod scale_planes;
#[path = "../../../../kernels/tests/against_reference/sums_and_ingest.rs"]
mod sums_and_ingest;
#[path = "../../../../kernels/tests/against_reference/support.rs"]
mod support;
#[path = "../../../../kernels/tests/against_reference/typed.rs"]
mod typed;
