//! Those tests of `kernels/tests/against_reference` on an emulated GPU of compute capability 9.0 whose kernels it alone has, in half
//! precision: attention with heads of 64, products and norms.

mod device;

#[path = "../../../../kernels/tests/against_reference/attention.rs"]
mod attention;
#[path = "../../../../kernels/tests/against_reference/hopper_products.rs"]
mod hopper_products;
#[path = "../../../../kernels/tests/against_reference/layer_norm.rs"]
mod layer_norm;
#[allow(dead_code, reason = "shared with tests of other kernels")]
#[path = "../../../../kernels/tests/against_reference/support.rs"]
mod support;
#[allow(dead_code, reason = "shared with tests of other kernels")]
#[path = "../../../../kernels/tests/against_reference/typed.rs"]
mod typed;

use avion_kernels::FloatKind;
use avion_kernels::attention::{AttentionShape, Path, path};
use avion_kernels::gemm::hopper::{ProductShape, supported, worthwhile};
use avion_kernels::layer_norm::{NormShape, hopper as norms};

/// What makes these tests differ from those on the other emulated device.
#[test]
fn heads_of_64_in_half_precision_take_the_kernels_for_hopper() {
    let shape = AttentionShape { batch: 1, tokens: 5, heads: 1, head_dim: 64, causal: false, kind: FloatKind::F16 };
    assert_eq!(path(&device::client(), &shape), Ok(Path::Hopper));
    assert_ne!(path(&device::client(), &AttentionShape { kind: FloatKind::F32, ..shape }), Ok(Path::Hopper));
}

#[test]
fn products_in_half_precision_take_the_kernel_for_hopper() {
    let (client, shape) = (device::client(), ProductShape { m: 1024, n: 768, k: 768, kind: FloatKind::Bf16 });
    assert!(supported(&client, &shape) && worthwhile(&client, &shape));
    assert!(supported(&client, &ProductShape { m: 5, n: 4352, k: 64, kind: FloatKind::F16 }));
}

#[test]
fn norms_in_half_precision_take_the_kernels_for_hopper() {
    let (client, shape) = (device::client(), NormShape { rows: 5, width: 384, kind: FloatKind::Bf16, eps: 1e-6 });
    assert!(norms::supported(&client, &shape) && norms::supported(&client, &NormShape { width: 1024, ..shape }));
    for other in [NormShape { width: 96, ..shape }, NormShape { kind: FloatKind::F32, ..shape }] {
        assert!(!norms::supported(&client, &other), "{other:?}");
    }
}
