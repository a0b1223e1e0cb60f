//! Files of weights.

use super::{MAX_LEN, Target, files, fixtures, outcome};
use avion::checkpoint::{HostTensor, TorchFile, read_safetensors, read_weights, write_safetensors};

pub fn torch_archive() -> Target {
    let seeds = files(&fixtures("torch"), &[".pt", ".pth", ".bin"], MAX_LEN);
    assert!(!seeds.is_empty());
    Target::on_file("torch-archive", seeds, "a.pt", |path| {
        let read = TorchFile::open(path).and_then(|file| {
            file.verify()?;
            let tensors = file.state_dict()?;
            let names: Vec<String> = tensors.names().map(str::to_owned).collect();
            names.iter().try_for_each(|name| tensors.tensor(name).map(|_| ()))?;
            Ok(names.len())
        });
        outcome(read) + &outcome(read_weights(path).map(|_| ()))
    })
}

pub fn safetensors() -> Target {
    let tensor = HostTensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let tensors = [("visual.a".to_owned(), tensor.clone()), ("b".to_owned(), tensor)].into();
    let mut seed = Vec::new();
    write_safetensors(&mut seed, &tensors, &[("size".to_owned(), "tiny".to_owned())].into()).unwrap();
    let mut seeds = vec![seed];
    seeds.extend(files(&fixtures("clip"), &[".safetensors"], MAX_LEN));
    Target::on_file("safetensors", seeds, "a.safetensors", |path| {
        outcome(read_safetensors(path).map(|(tensors, metadata)| (tensors.len(), metadata)))
    })
}
