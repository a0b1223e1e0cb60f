//! Failures of a device, in words a user can act on.

/// Something went wrong on the way to, or on, the device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("the device ran out of memory ({detail})")]
    OutOfMemory { detail: String },
    #[error("the device failed: {detail}")]
    Failed { detail: String },
    #[error(
        "backend `{backend}` is not in this program; build it with `--features {backend}`, or choose another --backend"
    )]
    NotCompiled { backend: &'static str },
    #[error("backend `{backend}` has no usable device: {reason}")]
    Unavailable { backend: &'static str, reason: super::Problem },
    #[error("no device to run on. CUDA: {cuda}. wgpu: {wgpu}")]
    NoDevice { cuda: super::Problem, wgpu: super::Problem },
    #[error("backend `{backend}` has no device {index}; --device takes {valid} (`avion devices` lists them)")]
    NoSuchDevice { backend: &'static str, index: usize, valid: String },
}

impl DeviceError {
    /// From what the runtime reports, whose texts do not always say that memory was the cause.
    pub fn from_server(error: impl std::fmt::Display) -> Self {
        let text = error.to_string();
        // The last is how CubeCL 0.10 words a failed allocation (`IoError::BufferTooBig`).
        let memory = ["out of memory", "OutOfMemory", "OUT_OF_MEMORY", "BufferTooBig", "can't allocate buffer"];
        let detail = condense(&text);
        if memory.iter().any(|sign| text.contains(sign)) {
            DeviceError::OutOfMemory { detail }
        } else {
            DeviceError::Failed { detail }
        }
    }

    /// Runs what may panic: CubeCL unwraps what drivers answer, and so do calls on a device that has failed before.
    pub(crate) fn catch<T>(work: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, Self> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Err(Self::from_server(text.unwrap_or_else(|| "the runtime panicked without a message".into())))
        })
    }
}

/// One line of the runtime's report: without backtraces and kernel sources, at most 1000 characters.
fn condense(text: &str) -> String {
    let report = text.split("[Source]").next().unwrap_or(text);
    let of_backtrace = |line: &str| {
        let frame = line.split_once(": ").is_some_and(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()));
        frame || line.is_empty() || line.starts_with("at ") || line == "Backtrace:" || line == "No backtrace available"
    };
    let lines: Vec<_> = report.lines().map(str::trim).filter(|line| !of_backtrace(line)).collect();
    let line = lines.join(" ");
    match line.char_indices().nth(1000) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_recognised_whatever_the_runtime_calls_it() {
        for text in ["CUDA_ERROR_OUT_OF_MEMORY", "can't allocate buffer of size: 7", "out of memory"] {
            assert!(matches!(DeviceError::from_server(text), DeviceError::OutOfMemory { .. }));
        }
        assert!(matches!(DeviceError::from_server("lost"), DeviceError::Failed { .. }));
    }

    #[test]
    fn reports_become_one_line() {
        let report = "An error happened\nCaused by:\n  bad kernel\n\nBacktrace:\n   0: a::b\n             at /c.rs:1\n";
        let error = DeviceError::from_server(report);
        assert_eq!(error.to_string(), "the device failed: An error happened Caused by: bad kernel");
        let long = DeviceError::from_server("x".repeat(5000) + "[Source] y").to_string();
        assert!(long.len() < 1100 && long.ends_with(" ..."));
    }

    #[test]
    fn a_panic_of_the_runtime_becomes_an_error() {
        let error = DeviceError::catch::<()>(|| panic!("out of memory on page {}", 3)).unwrap_err();
        assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
    }
}
