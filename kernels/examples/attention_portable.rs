use avion_kernels::{FloatKind, attention::{AttentionShape, portable}};
use cubecl::prelude::*;
use cubecl::wgpu::{WgpuDevice, WgpuRuntime};
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s[s.rfind(')').unwrap() + 2..].split(' ').collect();
    (f[11].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    // units rows head_dim batch heads tokens causal reps
    let client = WgpuRuntime::client(&WgpuDevice::default());
    let h = &client.properties().hardware;
    eprintln!("plane {}..{} cpu {:?}", h.plane_size_min, h.plane_size_max, h.num_cpu_cores);
    let shape = AttentionShape { batch: a[3], heads: a[4], tokens: a[5], head_dim: a[2], causal: a[6] == 1, kind: FloatKind::F32 };
    let plan = portable::Plan { head_dim: a[2] as u32, units: a[0] as u32, rows: a[1] as u32, in_registers: a[9] == 1 };
    let kplan = portable::Plan { rows: a[8] as u32, ..plan };
    let data: Vec<f32> = (0..shape.qkv_len()).map(|i| ((i * 7919 % 1000) as f32) / 500.0 - 1.0).collect();
    let qkv = client.create_from_slice(bytemuck::cast_slice(&data));
    let g = client.create_from_slice(bytemuck::cast_slice(&data[..shape.output_len()]));
    let [o, l, dq, dl] = [shape.output_len(), shape.lse_len(), shape.qkv_len(), shape.lse_len()].map(|n| client.empty(n * 4));
    let f = || portable::forward(&client, &shape, plan, &qkv, &o, &l);
    let b = || portable::backward(&client, &shape, [plan, kplan], &qkv, &o, &l, &g, &dq, &dl);
    let sync = || { let _ = client.read_one(l.clone()).unwrap(); };
    let t = cpu(); f(); sync(); let c1 = cpu() - t;
    let t = cpu(); b(); let _ = client.read_one(dl.clone()).unwrap(); let c2 = cpu() - t;
    let t = cpu(); for _ in 0..a[7] { f(); } sync(); let r1 = (cpu() - t) / a[7] as f64;
    let t = cpu(); for _ in 0..a[7] { b(); } let _ = client.read_one(dl.clone()).unwrap(); let r2 = (cpu() - t) / a[7] as f64;
    println!("{a:?}: compile+1 fwd {c1:.2} bwd {c2:.2} s; run fwd {:.1} ms bwd {:.1} ms", r1 * 1e3, r2 * 1e3);
}
