//! Generated source in one order. CubeCL declares types, variables and shared memory in the order of its hash tables,
//! which differs from run to run; that alone moves registers and spills, and no compiled kernel could be reused.

/// A declaration in shared memory: its number, its bytes, and its line split around the offset.
struct Shared<'a> {
    id: u32,
    bytes: usize,
    offset: usize,
    before: &'a str,
    after: &'a str,
}

/// `source` with its declarations sorted, and the bytes of shared memory that it then needs; `shared_memory` is what it
/// needed before. What does not look as expected stays as it is.
pub fn canonical(source: &str, shared_memory: usize) -> (String, usize) {
    let source = sort_types(source);
    let lines: Vec<&str> = source.lines().collect();
    let is_variable = |line: &&str| {
        let declared = line.strip_suffix(';').and_then(|line| line.split_once(' '));
        declared.is_some_and(|(_, name)| {
            name.strip_prefix("l_mut_").is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    let mut variables: Vec<&str> = lines.iter().copied().filter(is_variable).collect();
    variables.sort_unstable();
    let mut variables = variables.into_iter();

    let alignment = lines.iter().find_map(|line| line.strip_prefix("extern __shared__ __align__("));
    let alignment = alignment.and_then(|rest| rest.split(')').next()?.parse().ok()).unwrap_or(128);
    let mut shared: Vec<Shared> = lines.windows(2).filter_map(|pair| parse_shared(pair[0], pair[1])).collect();
    let needed = lay_out(&mut shared, alignment, shared_memory);
    let mut shared = shared.into_iter();

    let (mut text, mut previous) = (String::with_capacity(source.len()), "");
    for line in lines {
        if is_variable(&line) {
            text += variables.next().unwrap_or(line);
        } else if parse_shared(previous, line).is_some() {
            if let Some(Shared { offset, before, after, .. }) = shared.next() {
                text += &format!("{before}{offset}{after}");
            }
        } else if !line.starts_with("// Shared ") {
            text += line;
        }
        text.push('\n');
        previous = line;
    }
    (text, needed)
}

/// The vector types are made of scalars only, so they may stand in any order.
fn sort_types(source: &str) -> String {
    let mut blocks = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find("struct __align__(") {
        let Some(end) = rest[at..].find("};\n") else { break };
        blocks.push(&rest[at..at + end + 3]);
        rest = &rest[at + end + 3..];
    }
    let Some(first) = blocks.first().and_then(|block| source.find(block)) else { return source.to_string() };
    let between = &source[first..source.len() - rest.len()];
    blocks.sort_unstable();
    let sorted = blocks.concat();
    // Something else stands between them: leave it all.
    if sorted.len() != between.len() {
        return source.to_string();
    }
    format!("{}{sorted}{rest}", &source[..first])
}

/// `// Shared array size: 1024, 16384 bytes`, then a line with `shared_memory_0 = ..dynamic_shared_mem[0]..`.
fn parse_shared<'a>(comment: &str, line: &'a str) -> Option<Shared<'a>> {
    let bytes = comment.strip_prefix("// Shared ")?.strip_suffix(" bytes")?.rsplit(' ').next()?.parse().ok()?;
    let (_, id) = line.split_once("shared_memory_")?;
    let id = id.split(' ').next()?.parse().ok()?;
    let start = line.find("dynamic_shared_mem[")? + "dynamic_shared_mem[".len();
    let (before, rest) = line.split_at(start);
    let (offset, _) = rest.split_once(']')?;
    Some(Shared { id, bytes, offset: offset.parse().ok()?, before, after: &rest[offset.len()..] })
}

/// Sorts by number, and places one after another what does not share its bytes; returns the bytes needed.
fn lay_out(shared: &mut [Shared], alignment: usize, shared_memory: usize) -> usize {
    shared.sort_unstable_by_key(|s| s.offset);
    let disjoint = shared.windows(2).all(|pair| pair[0].offset + pair[0].bytes <= pair[1].offset);
    shared.sort_unstable_by_key(|s| s.id);
    if !disjoint || shared.is_empty() {
        return shared_memory;
    }
    let mut end = 0usize;
    for s in shared {
        s.offset = end.next_multiple_of(alignment);
        end = s.offset + s.bytes;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::canonical;

    const HEAD: &str = "#include <cuda_runtime.h>\n";
    const A: &str = "struct __align__(4) a_2 {\n    a i_0;\n};\n";
    const B: &str = "struct __align__(8) b_2 {\n    b i_0;\n};\n";

    fn source(types: [&str; 2], shared: [&str; 2], variables: [&str; 2]) -> String {
        let kernel =
            "extern \"C\" __global__ void k() {\nextern __shared__ __align__(16) uint8 dynamic_shared_mem[];\n";
        format!("{HEAD}{}{kernel}{}{}l_mut_1 = l_mut_2;\n}}\n", types.concat(), shared.concat(), variables.concat())
    }

    #[test]
    fn the_order_of_declarations_does_not_matter() {
        let array = |at: usize| {
            format!(
                "// Shared array size: 5, 20 bytes\nfloat *shared_memory_0 = reinterpret_cast<float*>(&dynamic_shared_mem[{at}]);\n"
            )
        };
        let value =
            |at: usize| format!("// Shared value size: 8 bytes\nB &shared_memory_3 = f(dynamic_shared_mem[{at}]);\n");
        let variables = ["float l_mut_1;\n", "b_2 l_mut_2;\n"];
        let one = source([A, B], [&array(0), &value(32)], variables);
        let other = source([B, A], [&value(0), &array(16)], [variables[1], variables[0]]);
        assert_ne!(one, other);
        assert_eq!(canonical(&one, 40), canonical(&other, 36));
        let (text, bytes) = canonical(&other, 36);
        assert_eq!(bytes, 40);
        assert!(text.contains("dynamic_shared_mem[0])") && text.contains("f(dynamic_shared_mem[32])"), "{text}");
    }

    #[test]
    fn shared_memory_in_turns_keeps_its_place() {
        let at = |id: u32, at: usize| {
            format!("// Shared value size: 8 bytes\nB &shared_memory_{id} = f(dynamic_shared_mem[{at}]);\n")
        };
        let (text, bytes) = canonical(&source([A, B], [&at(1, 0), &at(0, 4)], ["", ""]), 12);
        assert_eq!(bytes, 12);
        assert!(text.contains("shared_memory_0 = f(dynamic_shared_mem[4])"), "{text}");
    }
}
