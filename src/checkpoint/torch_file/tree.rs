//! Finds the tensors in a file's objects and names them.
//!
//! A name is the path of dict keys, attributes and list indices from the top, joined by dots, as PyTorch
//! itself names parameters: `state_dict.visual.proj`, or `visual.conv1.weight` in a TorchScript archive.

use super::tensor::{Malformed, TensorSpec};
use crate::data::pickle::{Kind, Pickle, Value};
use std::collections::HashSet;

/// Limits far above what real files have; damaged ones could share parts so that the walk never ends.
const MAX_DEPTH: usize = 64;
const MAX_NAME_BYTES: usize = 1024;
const MAX_VISITS_PER_VALUE: usize = 16;

/// A tensor in a file, or why it is not one we can read.
pub(super) struct Named {
    pub name: String,
    pub spec: Result<TensorSpec, Malformed>,
}

/// All tensors in the order of the file; `Err` names the place where the objects are too tangled.
pub(super) fn find_tensors(pickle: &Pickle<'_>) -> Result<Vec<Named>, String> {
    if let Some(spec) = TensorSpec::from_value(pickle.root()) {
        // a bare `torch.save(tensor)`
        let name = "tensor".into();
        return Ok(vec![Named { name, spec }]);
    }
    let mut found = Vec::new();
    let mut name = String::new();
    let mut visits = MAX_VISITS_PER_VALUE * pickle.num_values() + 1024;
    let mut path = HashSet::from([pickle.root().id()]); // values that contain the present one
    let mut open = vec![Open { id: pickle.root().id(), name_bytes: 0, parts: parts(pickle.root()).into_iter() }];
    while let Some(top) = open.last_mut() {
        name.truncate(top.name_bytes);
        let Some((key, value)) = top.parts.next() else {
            path.remove(&top.id);
            open.pop();
            continue;
        };
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&key);
        visits -= 1;
        if visits == 0 || name.len() > MAX_NAME_BYTES || open.len() > MAX_DEPTH {
            return Err(name.chars().take(80).collect());
        }
        if let Some(spec) = TensorSpec::from_value(value) {
            found.push(Named { name: name.clone(), spec });
        } else {
            let parts = parts(value);
            if !parts.is_empty() && path.insert(value.id()) {
                open.push(Open { id: value.id(), name_bytes: name.len(), parts: parts.into_iter() });
            }
        }
    }
    Ok(found)
}

/// A value whose parts are being visited.
struct Open<'p> {
    id: u32,
    name_bytes: usize,
    parts: std::vec::IntoIter<(String, Value<'p>)>,
}

/// What a value contains, by name.
fn parts(value: Value<'_>) -> Vec<(String, Value<'_>)> {
    if let Some(pairs) = value.pairs() {
        return named(pairs);
    }
    if let Some(items) = value.items() {
        return items.enumerate().map(|(i, item)| (i.to_string(), item)).collect();
    }
    let attributes = value.state().and_then(Value::pairs).unwrap_or_default();
    let mut parts = Vec::new();
    for (name, attribute) in named(attributes) {
        match (name.as_str(), attribute.pairs()) {
            // torch.nn.Module keeps its parts in these dicts, which do not show in names
            ("_parameters" | "_buffers" | "_modules", Some(inner)) => parts.extend(named(inner)),
            _ => parts.push((name, attribute)),
        }
    }
    parts
}

fn named<'p>(pairs: Vec<(Value<'p>, Value<'p>)>) -> Vec<(String, Value<'p>)> {
    let names = pairs.into_iter().filter_map(|(key, value)| {
        let name = match key.kind() {
            Kind::Str(text) => text.to_owned(),
            Kind::Int(number) => number.to_string(),
            _ => return None,
        };
        Some((name, value))
    });
    names.collect()
}
