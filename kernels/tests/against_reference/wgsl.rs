//! Hand-written shaders: valid, laid out as their Rust side says, and right.

use crate::support::{assert_close, client, read_f32, upload};
use avion_kernels::ingest_wgsl::{self, Crop, Crops, Params, patch_ingest_wgsl, supported};
use avion_kernels::patch_ingest::{self, PatchGrid, PixelNorm};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, TypeInner};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const NORM: PixelNorm = PixelNorm { mean: [108.3, 116.7, 104.1], std: [68.5, 66.6, 70.3] };

#[test]
fn every_shader_is_valid_wgsl() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shaders");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wgsl") {
            continue;
        }
        found += 1;
        let source = std::fs::read_to_string(&path).unwrap();
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&source, &path)));
        // No capabilities: what any WebGPU device takes.
        Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&source, &path.to_string_lossy())));
    }
    assert!(found > 0, "no shader in {folder}");
}

#[test]
fn the_ingest_shader_is_laid_out_as_its_launcher_fills_it() {
    let module = naga::front::wgsl::parse_str(ingest_wgsl::SOURCE).unwrap();
    let entry = module.entry_points.iter().find(|entry| entry.name == "patch_ingest").expect("entry point");
    assert_eq!(entry.workgroup_size, [ingest_wgsl::UNITS, 1, 1]);
    let uniform = module.global_variables.iter().map(|(_, v)| v).find(|v| v.space == AddressSpace::Uniform).unwrap();
    // After the three storage buffers: CubeCL binds the uniform last.
    assert_eq!(uniform.binding.as_ref().map(|b| (b.group, b.binding)), Some((0, 3)));
    let TypeInner::Struct { members, span } = &module.types[uniform.ty].inner else { panic!("a struct") };
    let params = Params {
        pairs: 1,
        source_width: 2,
        source_height: 3,
        image_px: 4,
        patch_px: 5,
        frames_per_clip: 6,
        class_row: 7,
        cropped: 8,
        factor: [9.0, 10.0, 11.0],
        shift: [12.0, 13.0, 14.0],
    };
    let shader: Vec<(&str, u32)> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset)).collect();
    let fields = params.fields();
    let rust: Vec<(&str, u32)> = fields.iter().zip(0..).map(|((name, _), i)| (*name, 4 * i)).collect();
    assert_eq!(shader, rust);
    assert_eq!(*span as usize, fields.len() * 4);
    let values = [1, 2, 3, 4, 5, 6, 7, 8].into_iter().chain((9..15).map(|v| (v as f32).to_bits()));
    assert!(fields.iter().map(|(_, bits)| *bits).eq(values));
}

fn run(grid: PatchGrid, crops: Option<Crops>, bytes: &[u8]) -> Vec<f32> {
    let client = client();
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0xAA);
    let out = upload(&client, &vec![f32::NAN; grid.rows() * grid.columns()]);
    patch_ingest_wgsl(&client, client.create_from_slice(&padded), grid, crops, NORM, out.clone()).unwrap();
    read_f32(&client, out)
}

#[test]
fn ingest_without_crops_is_the_cubecl_kernel_s_reference() {
    assert!(supported(&client()));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (images, image_px, patch_px, frames_per_clip) in [(1, 2, 2, 1), (3, 28, 14, 1), (6, 30, 10, 3), (4, 32, 16, 2)]
    {
        for class_row in [false, true] {
            let grid = PatchGrid { images, image_px, patch_px, frames_per_clip, class_row };
            let bytes: Vec<u8> = (0..images * image_px * image_px * 3).map(|_| rng.random()).collect();
            assert_close("plain", &run(grid, None, &bytes), &patch_ingest::reference(&bytes, grid, NORM), 1e-6);
        }
    }
}

#[test]
fn ingest_crops_resizes_and_flips_each_clip() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (source_width, source_height) = (37, 29);
    let grid = PatchGrid { images: 10, image_px: 12, patch_px: 4, frames_per_clip: 2, class_row: true };
    let crop = |x, y, width, height, flip| Crop { x, y, width, height, flip };
    let clips = [
        crop(3, 5, 12, 12, false),  // exact copy
        crop(25, 17, 12, 12, true), // at the far corner, flipped
        crop(0, 0, 37, 29, false),  // smaller
        crop(7, 2, 5, 9, true),     // larger
        crop(36, 28, 1, 1, false),  // one pixel
    ];
    let crops = Crops { source_width, source_height, clips: &clips };
    let bytes: Vec<u8> = (0..grid.images * source_width * source_height * 3).map(|_| rng.random()).collect();
    let (got, expected) = (run(grid, Some(crops), &bytes), ingest_wgsl::reference(&bytes, grid, Some(crops), NORM));
    assert_close("cropped", &got, &expected, 2e-6);
    // The first pixel after the class row, by hand.
    let at = (5 * source_width + 3) * 3;
    let first = (f64::from(bytes[at]) - 108.3) / 68.5;
    assert!((f64::from(got[grid.columns()]) - first).abs() < 1e-5);
}

#[test]
fn ingest_refuses_what_it_cannot_read() {
    let client = client();
    let refused = |grid, clips: Option<&[Crop]>| {
        let crops = clips.map(|clips| Crops { source_width: 16, source_height: 16, clips });
        let (frames, out) = (client.empty(64), client.empty(64));
        patch_ingest_wgsl(&client, frames, grid, crops, NORM, out).unwrap_err().to_string()
    };
    let grid = PatchGrid { images: 2, image_px: 12, patch_px: 4, frames_per_clip: 1, class_row: false };
    let error = refused(PatchGrid { image_px: 9, patch_px: 3, ..grid }, None);
    assert!(error.contains("even") && error.contains('3'), "{error}");
    let error = refused(PatchGrid { frames_per_clip: 4, ..grid }, None);
    assert!(error.contains("clips of 4"), "{error}");
    let inside = Crop { x: 0, y: 0, width: 16, height: 16, flip: false };
    let error = refused(grid, Some(&[inside]));
    assert!(error.contains("one per clip") && error.contains("got 1"), "{error}");
    let error = refused(grid, Some(&[inside, Crop { x: 1, ..inside }]));
    assert!(error.contains("16 x 16 px") && error.contains("x: 1"), "{error}");
    let error = refused(grid, Some(&[inside, Crop { height: 0, ..inside }]));
    assert!(error.contains("height: 0"), "{error}");
}
