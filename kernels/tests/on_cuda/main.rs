//! The tests of `../against_reference` on a CUDA device, for one that is there and for NVIDIA's checkers:
//!
//! ```text
//! cargo test --release --workspace --test on_cuda -- --test-threads=1
//! compute-sanitizer --tool memcheck target/release/deps/on_cuda-* --test-threads=1
//! ```
//!
//! Without a GPU `make check-cuda` runs them on an emulated one. Not run by a plain `cargo test`.

mod device;

#[path = "../against_reference/activation.rs"]
mod activation;
#[path = "../against_reference/attention.rs"]
mod attention;
#[path = "../against_reference/classifier.rs"]
mod classifier;
#[path = "../against_reference/contrastive.rs"]
mod contrastive;
#[path = "../against_reference/embedding.rs"]
mod embedding;
#[path = "../against_reference/flat.rs"]
mod flat;
#[path = "../against_reference/hopper_products.rs"]
mod hopper_products;
#[path = "../against_reference/layer_norm.rs"]
mod layer_norm;
#[path = "../against_reference/masking.rs"]
mod masking;
#[path = "../against_reference/optimizer.rs"]
mod optimizer;
#[path = "../against_reference/pixel_loss.rs"]
mod pixel_loss;
#[path = "../against_reference/pooled.rs"]
mod pooled;
#[path = "../against_reference/residual.rs"]
mod residual;
#[path = "../against_reference/rows.rs"]
mod rows;
#[path = "../against_reference/scale_planes.rs"]
mod scale_planes;
#[path = "../against_reference/sums_and_ingest.rs"]
mod sums_and_ingest;
#[path = "../against_reference/support.rs"]
mod support;
#[path = "../against_reference/typed.rs"]
mod typed;
#[path = "../against_reference/upload.rs"]
mod upload;
